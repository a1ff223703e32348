"""Compares the argmax of interpolated semantic logits: numba, plain torch, and interpolating all logits.

    python benchmarks/argmax.py [--model OUTPUT_DIR --image FILE] [--repeat 5]

Each case is timed in alternating calls of one thread (median CPU time). `noise` and `regions` are synthetic; with
--model, the logits of a trained network are timed too. Exit code 1 if the labels of numba and plain torch differ.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
from arguments import parse_arguments
from torch.nn import functional as F

from panoptic_fusion.modeling.fusion import SemSegLogits, interpolated_argmax
from panoptic_fusion.modeling.fusion.sem_seg_logits import max_over_channels

COMPILED = interpolated_argmax.compiled


def everywhere(logits: SemSegLogits) -> torch.Tensor:
    """Returns the argmax of all interpolated logits, strip by strip."""
    return torch.cat([max_over_channels(strip)[1] for _, _, strip in logits.strips()]).long()


def plain(logits: SemSegLogits) -> torch.Tensor:
    """Returns the argmax that is computed without numba."""
    interpolated_argmax.compiled = lambda *args: None
    try:
        return logits.argmax()
    finally:
        interpolated_argmax.compiled = COMPILED


def cpu_ms(functions: list[Callable], repeat: int) -> list[float]:
    """Returns the median CPU milliseconds of each function; calls alternate, after one warm-up each."""
    times = [[] for _ in functions]
    for i in range(repeat + 1):
        for function, row in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            if i:
                row.append(1e3 * (time.process_time() - start))
    return [statistics.median(row) for row in times]


def synthetic(quick: bool) -> Iterator[tuple[str, SemSegLogits]]:
    """Yields (name, logits): street scenes at their own size, and COCO images, which are resized."""
    rng = torch.Generator().manual_seed(0)
    divisor = 8 if quick else 1
    for channels in (19, 133):
        for padded, image, output in (
            ((1024, 2048), (1024, 2048), (1024, 2048)),
            ((800, 1088), (800, 1067), (480, 640)),
            ((800, 1088), (800, 1067), (1200, 1600)),
        ):
            padded, image, output = ([side // divisor // 4 * 4 for side in size] for size in (padded, image, output))
            size = padded[0] // 4, padded[1] // 4
            noise = torch.randn(channels, *size, generator=rng)
            coarse = torch.randn(1, channels, size[0] // 24 + 1, size[1] // 24 + 1, generator=rng)
            regions = F.interpolate(4 * coarse, size=size, mode="bicubic")[0] + 0.05 * noise
            for name, logits in (("noise", noise), ("regions", regions)):
                sizes = "x".join(map(str, image)) + " to " + "x".join(map(str, output))
                yield f"{name}, {channels} classes, {sizes}", SemSegLogits(logits, padded, image, output)


def trained(model: str, image: str) -> Iterator[tuple[str, SemSegLogits]]:
    """Yields (name, logits) of a trained network for one image, at the image's size and at twice its size."""
    import numpy as np
    from detectron2.engine import DefaultPredictor

    from panoptic_fusion.data.image_file import read_rgb
    from panoptic_fusion.networks.inference import run_heads
    from panoptic_fusion.networks.trained import load_trained

    predictor = DefaultPredictor(load_trained(model, ["MODEL.DEVICE", "cpu"]))
    pixels = np.ascontiguousarray(read_rgb(image)[:, :, ::-1])
    resized = predictor.aug.get_transform(pixels).apply_image(pixels)
    heads = run_heads(predictor.model, [{"image": torch.as_tensor(resized.transpose(2, 0, 1).copy())}])
    heads = next(iter(heads))
    for factor in (1, 2):
        size = tuple(factor * side for side in pixels.shape[:2])
        logits = SemSegLogits(heads.sem_seg_logits, heads.padded_size, heads.image_size, size)
        sizes = "x".join(map(str, heads.image_size)) + " to " + "x".join(map(str, size))
        yield f"trained, {logits.num_channels} classes, {sizes}", logits


@torch.no_grad()
def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="number of timed calls")
    parser.add_argument("--model", help="OUTPUT_DIR of a training run")
    parser.add_argument("--image", help="image for --model")
    args = parse_arguments(parser, repeat=1)
    torch.set_num_threads(1)
    cases = [*synthetic(args.quick), *(trained(args.model, args.image) if args.model else ())]
    has_numba = COMPILED(interpolated_argmax.argmax_rows, interpolated_argmax.SIGNATURE) is not None
    print("| logits | everywhere, ms | plain, ms | numba, ms | plain | numba |\n|---|---|---|---|---|---|")
    same = True
    for name, logits in cases:
        functions = [lambda x=logits: everywhere(x), lambda x=logits: plain(x), logits.argmax][: 2 + has_numba]
        different = (logits.argmax() != plain(logits)).sum().item()
        same &= different == 0 or name.startswith("noise")  # rounding: plain torch interpolates noise in another order
        times = cpu_ms(functions, args.repeat)
        cells = [f"{ms:.1f}" for ms in times] + ["none"] * (not has_numba)
        cells += [f"{times[0] / ms:.1f}x" for ms in times[1:]] + ["none"] * (not has_numba)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
