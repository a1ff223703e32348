"""Compares a panoptic network end to end with two separate networks and the heuristic, interleaved in one process.

    python benchmarks/end_to_end.py --model output/camvid_upsnet_r18 [--size 1024 2048]
    python benchmarks/end_to_end.py --config-file configs/cityscapes/upsnet_r50.yaml --size 1024 2048 --images 1

The separate networks (`IndependentPanoptic`) have the parts and the weights of the same model: one backbone and pyramid
for the instances, one for the semantic segmentation, and HeuristicFusion. Both systems therefore predict the same
instances and the same semantic logits, and only the shared backbone and the fusion are compared. UPSNet's comparison on
Cityscapes (section 4.4, table 5: 236 against 1105 ms, of which 522 ms are the heuristic) is different: its separate
networks are Mask R-CNN and a PSPNet, both on ResNet-50.

With --config-file, the weights and the images are random, and instances of any score are used.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from arguments import parse_arguments
from detectron2.modeling import build_model
from fusion import NUM_STUFF, NUM_THINGS, seconds
from torch.nn import functional as F

from panoptic_fusion import config_file, load_trained
from panoptic_fusion.config.read import read_config
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.errors import run_cli
from panoptic_fusion.networks.trained import build_predictor

OUTPUTS = ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]


def independent(model: str) -> torch.nn.Module:
    """Returns the two networks with the heuristic, built with the values of the model's config."""
    opts = ["MODEL.META_ARCHITECTURE", "IndependentPanoptic", "MODEL.PANOPTIC_FUSION.NAME", "HeuristicFusion"]
    opts += ["MODEL.INDEPENDENT.INSTANCES", model, "MODEL.INDEPENDENT.SEMANTIC", model]
    return build_model(load_trained(model, [*opts, *OUTPUTS])).eval()


def untrained(config_file: str, folder: Path) -> str:
    """Creates an OUTPUT_DIR in `folder` for the config's model with random weights and Cityscapes' class counts."""
    cfg = read_config(config_file, ["MODEL.DEVICE", "cuda" if torch.cuda.is_available() else "cpu"])
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
    cfg.MODEL.CATEGORIES = [
        {"id": i, "name": f"class {i}", "isthing": int(i < NUM_THINGS), "color": [0, 0, i]}
        for i in range(NUM_STUFF + NUM_THINGS)
    ]
    cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder)


def noise(num: int, size: tuple[int, int]) -> Iterator[list[dict]]:
    """Yields batches of one image of coarse noise."""
    for seed in range(num):
        coarse = torch.rand(1, 3, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(seed))
        image = F.interpolate(255 * coarse, size=size, mode="bilinear")[0].round().byte()
        yield [{"image": image, "height": size[0], "width": size[1]}]


def at_size(batch: list[dict], size: list[int] | None) -> list[dict]:
    """Returns the batch with its images resized to `size` (height, width)."""
    if size is None:
        return batch
    resized = [F.interpolate(x["image"][None].float(), size=size, mode="bilinear")[0] for x in batch]
    return [{"image": image.round().byte(), "height": size[0], "width": size[1]} for image in resized]


def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help="OUTPUT_DIR of a training run")
    source.add_argument("--config-file", help="a config, in place of a training")
    parser.add_argument("--size", type=int, nargs=2, help="height and width to resize images to")
    parser.add_argument("--images", type=int, default=20, help="of the validation set")
    parser.add_argument("--repeats", type=int, default=3, help="of each image; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    args = parse_arguments(
        parser, config_file=config_file("toy/panoptic_fpn_r18.yaml"), size=(64, 96), images=1, repeats=1
    )
    if not (args.model or args.config_file):
        parser.error("one of --model, --config-file and --quick is needed")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        compare(args.model or untrained(args.config_file, Path(folder)), args)


@torch.no_grad()
def compare(model: str, args: argparse.Namespace) -> None:
    """Times both systems and prints the result."""
    cfg = load_trained(model, OUTPUTS)
    models = {"one network": build_predictor(cfg).model, "two networks": independent(model)}
    if args.model:
        batches = itertools.islice(PanopticTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), args.images)
        batches = (at_size(batch, args.size) for batch in batches)
    else:
        batches = noise(args.images, args.size or (1024, 2048))
    names, rows = list(models), []
    for batch in batches:
        functions = [partial(net, batch) for net in models.values()]
        rows.append(seconds(functions, args.repeats, cfg.MODEL.DEVICE))
    one, two = zip(*rows, strict=True)
    size = "x".join(map(str, args.size)) if args.size else "the size of the config"
    print(
        f"{args.model or args.config_file} ({cfg.MODEL.PANOPTIC_FUSION.NAME}), {len(rows)} images at {size}, "
        f"{cfg.MODEL.DEVICE}, {args.threads} thread(s), torch {torch.__version__}, median of {args.repeats}"
        ", interleaved\n"
    )
    for name, times in zip(names, (one, two), strict=True):
        print(f"{name}: {1e3 * statistics.mean(times):.1f} ms an image")
    print(f"ratio: {sum(two) / sum(one):.2f} times faster as one network")


if __name__ == "__main__":
    run_cli(main)
