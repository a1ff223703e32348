"""Compares two computations of the deformable convolutions in UPSNet at inference: sampling, and torchvision's operator.

    python benchmarks/deform_conv.py [--config-file cityscapes/upsnet_r50.yaml] [--size 480 640] [--repeats 3]

The network has random weights and offsets of about a pixel. Both computations alternate in one process, for one image
of coarse noise. The semantic logits and the time of the whole network are compared.
"""

import argparse
import tempfile
from pathlib import Path
from unittest import mock

import torch
from arguments import parse_arguments
from detectron2.modeling import build_model
from end_to_end import noise, untrained
from fusion import seconds
from torch import nn

from panoptic_fusion import config_file, load_trained
from panoptic_fusion.layers import DeformConv2d, deform_conv
from panoptic_fusion.networks.inference import run_heads


@torch.no_grad()
def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config-file", default="cityscapes/upsnet_r50.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of the image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parse_arguments(parser, config_file="toy/upsnet_r18.yaml", size=(64, 96), repeats=1)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(load_trained(untrained(config_file(args.config_file), Path(folder)))).eval()
    # The offsets are zero in an untrained network. Their convolutions have two channels per tap of a 3x3 kernel.
    layers = [m for m in model.modules() if isinstance(m, DeformConv2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.out_channels == 18:
            nn.init.normal_(module.bias)
    batch = next(iter(noise(1, tuple(args.size))))

    def by_operator(function):
        with mock.patch.object(deform_conv, "_is_exporting", lambda: True):
            return function()

    logits = [call(lambda: next(iter(run_heads(model, batch))).sem_seg_logits) for call in (lambda f: f(), by_operator)]
    difference = (logits[0] - logits[1]).abs().max().item()
    ours, theirs = seconds([lambda: model(batch), lambda: by_operator(lambda: model(batch))], args.repeats, "cpu")
    print(f"{len(layers)} layers, {args.size[0]}x{args.size[1]}, {args.threads} threads, torch {torch.__version__}\n")
    print("| UPSNet at inference | ms | ratio |\n|---|---|---|")
    print(f"| torchvision's operator | {1e3 * theirs:.1f} | |\n| sampling | {1e3 * ours:.1f} | {theirs / ours:.2f} |\n")
    print(f"largest difference of the logits: {difference:.1e}, of at most {logits[1].abs().max().item():.1f}")


if __name__ == "__main__":
    main()
