"""Compares MiniDL's pooling, box_average, with F.avg_pool2d on the 64 x 64 window with a replicated border.

python benchmarks/minidl_pool.py [--channels 256 --height 256 --width 512 --device cuda --backward]
"""

import argparse
import time
from collections.abc import Callable

import torch
from arguments import parse_arguments
from torch import Tensor
from torch.nn import functional as F

from panoptic_fusion.layers import box_average


def pad_avg_pool(x: Tensor, kernel_size: int) -> Tensor:
    """Pools x (N, C, H, W) by F.avg_pool2d, and replicates the border to keep its size."""
    kh, kw = min(kernel_size, x.shape[-2]), min(kernel_size, x.shape[-1])
    top, left = (kh - 1) // 2, (kw - 1) // 2
    y = F.avg_pool2d(x, (kh, kw), stride=1)
    return F.pad(y, (left, kw - 1 - left, top, kh - 1 - top), mode="replicate")


def timed(function: Callable[[], Tensor], repeats: int) -> tuple[float, Tensor]:
    """Returns the minimum seconds of several runs, and the result."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        if result.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best, result


def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--kernel", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backward", action="store_true", help="time forward and backward together")
    args = parse_arguments(parser, device="cpu", channels=4, height=32, width=32, kernel=8)
    torch.manual_seed(0)
    x = torch.rand(1, args.channels, args.height, args.width, device=args.device, requires_grad=args.backward)

    def run(pool):
        y = pool(x, args.kernel)
        return torch.autograd.grad(y.square().sum(), x)[0] if args.backward else y

    print(f"input {tuple(x.shape)}, window {args.kernel}, {args.device}, {torch.get_num_threads()} CPU thread(s)")
    fast, y = timed(lambda: run(box_average), 5)
    print(f"box_average           {fast:8.3f} s")
    slow, expected = timed(lambda: run(pad_avg_pool), 1)
    print(f"F.avg_pool2d + F.pad  {slow:8.3f} s   ratio {slow / fast:.0f}")
    print(f"largest difference    {(y - expected).abs().max():.1e}")


if __name__ == "__main__":
    main()
