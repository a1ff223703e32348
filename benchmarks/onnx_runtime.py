"""Compares PyTorch with onnxruntime on exported networks: time per image and peak memory of a process.

    python benchmarks/onnx_runtime.py [--config-file coco/panoptic_fpn_r50.yaml coco/upsnet_r50.yaml] [--size 480 640]

The weights and the image are random. Both predictors alternate in one process, including resizing and fusion. The
peak memory is the resident memory of a process that loads one predictor and segments the image twice (Linux).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import onnxruntime
import torch
from arguments import parse_arguments
from end_to_end import noise, untrained
from fusion import seconds

from panoptic_fusion import config_file, export, load_trained
from panoptic_fusion.networks.inference import run_heads
from panoptic_fusion.networks.trained import build_predictor
from panoptic_fusion.runtime import OnnxPredictor

OUTPUTS = ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']", "MODEL.DEVICE", "cpu"]
HEADER = (
    "| network | threads | PyTorch, s | onnxruntime, s | ratio | network alone, s | ratio | memory, MB | size, MB |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
# Arguments: model folder or file, image, number of threads.
WITH_TORCH = """
import cv2, sys, torch
from panoptic_fusion import load_trained
from panoptic_fusion.networks.trained import build_predictor
torch.set_num_threads(int(sys.argv[3]))
predictor = build_predictor(load_trained(sys.argv[1], {opts!r}))
"""
WITH_ONNX = """
import cv2, sys
from panoptic_fusion.runtime import OnnxPredictor
predictor = OnnxPredictor(sys.argv[1], threads=int(sys.argv[3]))
"""
TWICE = """
for _ in range(2):
    predictor(cv2.imread(sys.argv[2]))
status = open("/proc/self/status").read()  # ru_maxrss includes the parent process before exec
print(int(status.split("VmHWM:")[1].split()[0]) // 1024)
"""


def peak_megabytes(code: str, *words: object) -> int:
    """Returns the peak resident memory of a Python process that segments an image twice."""
    command = [sys.executable, "-W", "ignore", "-c", code + TWICE, *map(str, words)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


@torch.no_grad()
def compare(name: str, size: tuple[int, int], threads: list[int], repeats: int, folder: Path) -> None:
    """Prints the rows of one network."""
    size_opts = ["INPUT.MIN_SIZE_TEST", str(min(size)), "INPUT.MAX_SIZE_TEST", str(max(size))]
    opts = [*OUTPUTS, *size_opts]
    model, file, image = untrained(config_file(name), folder), folder / "model.onnx", folder / "image.png"
    report = export(model, output=file, opts=opts)
    batch = next(iter(noise(1, size)))
    cv2.imwrite(str(image), batch[0]["image"].permute(1, 2, 0).numpy())
    bgr = cv2.imread(str(image))
    predictor = build_predictor(load_trained(model, opts))
    found = len(next(iter(run_heads(predictor.model, batch))).instances)
    for number in threads:
        torch.set_num_threads(number)
        exported = OnnxPredictor(file, threads=number)
        pixels = {"image": batch[0]["image"][None].float().numpy()}
        whole = seconds([lambda: predictor(bgr), lambda p=exported: p(bgr)], repeats, "cpu")
        alone = seconds(
            [lambda: run_heads(predictor.model, batch), lambda p=exported, x=pixels: p.session.run(None, x)],
            repeats,
            "cpu",
        )
        memory = (
            peak_megabytes(WITH_TORCH.format(opts=opts), model, image, number),
            peak_megabytes(WITH_ONNX, file, image, number),
        )
        print(
            f"| {name} | {number} | {whole[0]:.2f} | {whole[1]:.2f} | {whole[0] / whole[1]:.2f} | "
            f"{alone[0]:.2f}, {alone[1]:.2f} | {alone[0] / alone[1]:.2f} | {memory[0]}, {memory[1]} | "
            f"{report['bytes'] / 1e6:.0f} |",
            flush=True,
        )
    print(f"  ({name}: {found} instances)", file=sys.stderr)


def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", default=["coco/panoptic_fpn_r50.yaml", "coco/upsnet_r50.yaml"])
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width of the image")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5, help="the median counts")
    args = parse_arguments(parser, config_file=["toy/upsnet_r18.yaml"], size=(64, 96), threads=[1], repeats=1)
    print(
        f"{args.size[0]} x {args.size[1]}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, median of "
        f"{args.repeats}, interleaved; pairs: PyTorch, onnxruntime\n\n{HEADER}"
    )
    for name in args.config_file:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, tuple(args.size), args.threads, args.repeats, Path(folder))


if __name__ == "__main__":
    main()
