"""Measures memory and time of the Seamless ResNet-50 with InPlaceABN and with torch's norms.

    python benchmarks/in_place_abn.py [--height 512 --width 1024 --device cuda]

The norms compared are InPlaceABN, BatchNorm2d + LeakyReLU in place (the more memory-efficient torch variant), and
BatchNorm2d + nn.LeakyReLU() with torch's defaults. "saved" is the size of the tensors that the forward pass keeps for
the backward pass (each storage counted once, without parameters). On CUDA, "peak" is torch.cuda.max_memory_allocated
during forward and backward, minus the memory allocated before.
"""

import argparse
import time

import torch
from arguments import parse_arguments
from torch import nn
from torch.nn import functional as F

from panoptic_fusion.modeling.backbone.abn_resnet import build_abn_resnet


class DefaultBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d followed by an out-of-place LeakyReLU."""

    def forward(self, x, residual=None):
        """Returns LeakyReLU(BatchNorm(x) + residual)."""
        y = super().forward(x)
        return F.leaky_relu(y if residual is None else y + residual, 0.01)


NORMS = {"InPlaceABN": "InPlaceABN", "BatchNorm2d + LeakyReLU_": "BN", "BatchNorm2d + LeakyReLU": DefaultBatchNorm}


def saved_bytes(net: nn.Module, x: torch.Tensor) -> int:
    """Returns the bytes of the distinct storages that `net(x)` saves for backward, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(x)
    del y
    return sum(storages.values())


def measure(norm, x: torch.Tensor) -> dict[str, float]:
    """Returns saved MiB, seconds of a training step, and on CUDA the peak MiB of the step."""
    torch.manual_seed(0)
    net = build_abn_resnet(50, norm=norm).to(x.device)
    result = {"saved": saved_bytes(net, x) / 2**20}

    def step():
        sum(y.sum() for y in net(x).values()).backward()
        if x.is_cuda:
            torch.cuda.synchronize()

    step()
    if x.is_cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        result["peak"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    start = time.perf_counter()
    for _ in range(3):
        step()
    result["seconds"] = (time.perf_counter() - start) / 3
    return result


def main() -> None:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parse_arguments(parser, device="cpu", height=64, width=64)
    x = torch.randn(args.batch, 3, args.height, args.width, device=args.device)
    print(f"ResNet-50, input {tuple(x.shape)}, {args.device}, {torch.get_num_threads()} CPU thread(s)")
    base = None
    for name, norm in NORMS.items():
        result = measure(norm, x)
        base = base or result
        peak = f"  peak {result['peak']:8.1f} MiB" if "peak" in result else ""
        print(
            f"{name:26s} saved {result['saved']:8.1f} MiB{peak}  step {result['seconds']:6.3f} s   InPlaceABN saves "
            f"{base['saved'] / result['saved']:.3f} of this"
        )


if __name__ == "__main__":
    main()
