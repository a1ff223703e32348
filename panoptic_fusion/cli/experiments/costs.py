"""Measures the costs of trained models: parameters, multiply-accumulates, seconds and peak memory per image size.

`measure` runs this module in child processes: one process per size that interleaves all models (seconds), and one
process per model and size (all other costs). Run as a module, it does one such job.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import cv2
import torch
import torchvision  # noqa: F401  (registers deform_conv2d)
from detectron2.config import CfgNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from panoptic_fusion.data.mapper import read_image
from panoptic_fusion.networks.trained import build_predictor, load_eval_dicts, load_trained

from .peak_memory import peak_bytes

Size = tuple[int, int]  # width, height


@dataclass
class CostsAtSize:
    """Costs of one image: multiply-accumulates, peak memory in bytes, and seconds."""

    macs: int
    memory: int
    seconds: float = 0.0


@dataclass
class Costs:
    """Costs of one model."""

    parameters: int
    sizes: dict[Size, CostsAtSize] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Returns the costs as a dict for JSON."""
        sizes = {f"{w}x{h}": asdict(costs) for (w, h), costs in self.sizes.items()}
        return {"parameters": self.parameters, "sizes": sizes}


def measure(
    models: dict[str, str], sizes: list[Size], repeats: int, threads: int, *, allow_download: bool = False
) -> dict[str, Costs]:
    """Measures the costs of trained models.

    Args:
        models: {name: OUTPUT_DIR of the training run}.
        sizes: sizes of the network's input.
        repeats: number of timed images per model and size, after one warm-up image; the median is reported.
        threads: number of PyTorch threads.
        allow_download: downloads weights from any address that a config names, see `check_downloads`.

    Returns:
        {name: Costs}.
    """
    costs = {}
    options = ["--allow-download"] if allow_download else []
    for name, folder in models.items():
        for width, height in sizes:
            row = _child(threads, *options, "memory", folder, f"{width}x{height}")
            costs.setdefault(name, Costs(row["parameters"]))
            costs[name].sizes[(width, height)] = CostsAtSize(row["macs"], row["memory"])
    for width, height in sizes:
        rows = _child(threads, *options, "seconds", f"{width}x{height}", str(repeats), *models.values())
        for name, seconds in zip(models, rows, strict=True):
            costs[name].sizes[(width, height)].seconds = seconds
    return costs


def count_parameters(model: nn.Module) -> int:
    """Returns the number of weights and biases, including the buffers of frozen batch norms."""
    frozen = [b for name, b in model.named_buffers() if name.rpartition(".")[2] in ("weight", "bias")]
    return sum(tensor.numel() for tensor in (*model.parameters(), *frozen))


def count_macs(model: nn.Module, inputs: list[dict]) -> int:
    """Returns the multiply-accumulates of all convolutions (also deformable) and matrix products of one inference."""
    deformable = {torch.ops.torchvision.deform_conv2d: _deform_conv_flop}
    with FlopCounterMode(display=False, custom_mapping=deformable) as counter, torch.no_grad():
        model(inputs)
    return counter.get_total_flops() // 2


def _deform_conv_flop(input_shape, weight_shape, *args, out_shape=None, **kwargs) -> int:
    """Returns twice the multiply-accumulates of the convolution; sampling is not counted, as in RoIAlign."""
    batch, channels, height, width = out_shape
    _, channels_per_group, kernel_h, kernel_w = weight_shape
    return 2 * batch * channels * height * width * channels_per_group * kernel_h * kernel_w


def prepare(folder: str, allow_download: bool = False) -> tuple[nn.Module, CfgNode]:
    """Loads a trained model with only its panoptic output; returns the model and its config."""
    opts = ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]
    cfg = load_trained(folder, opts, allow_download=allow_download)
    return build_predictor(cfg).model, cfg


def inputs_of(cfg: CfgNode, size: Size) -> list[dict]:
    """Returns the middle image of the validation set at `size`, as a batch of one."""
    dicts = load_eval_dicts(cfg, cfg.DATASETS.TEST[0])
    image = cv2.resize(read_image(dicts[len(dicts) // 2], cfg.INPUT.FORMAT), size, interpolation=cv2.INTER_LINEAR)
    return [{"image": torch.from_numpy(image.copy()).permute(2, 0, 1), "height": size[1], "width": size[0]}]


def _memory(folder: str, size: Size, allow_download: bool) -> dict:
    """Returns parameters, multiply-accumulates, and memory: the weights plus the peak of one image's tensors."""
    model, cfg = prepare(folder, allow_download)
    inputs = inputs_of(cfg, size)
    macs = count_macs(model, inputs)  # first: tensors that only the first call creates do not count as memory
    with torch.no_grad():
        memory = peak_bytes(lambda: model(inputs), cfg.MODEL.DEVICE)
    memory += sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return {"parameters": count_parameters(model), "macs": macs, "memory": memory}


def _seconds(folders: list[str], size: Size, repeats: int, allow_download: bool) -> list[float]:
    """Returns the median seconds of each model; the models are interleaved, after one warm-up image each."""
    loaded = [prepare(folder, allow_download) for folder in folders]
    models = [(model, inputs_of(cfg, size)) for model, cfg in loaded]
    times = [[] for _ in models]
    with torch.no_grad():
        for repeat in range(repeats + 1):
            for (model, inputs), samples in zip(models, times, strict=True):
                start = time.perf_counter()
                model(inputs)
                if _on_gpu(model):
                    torch.cuda.synchronize()
                if repeat:
                    samples.append(time.perf_counter() - start)
    return [statistics.median(samples) for samples in times]


def _on_gpu(model: nn.Module) -> bool:
    return next(model.parameters()).device.type == "cuda"


def _child(threads: int, *job: str):
    """Runs one job in a child process and returns its result."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "panoptic_fusion.cli.experiments.costs", *job]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"measuring {' '.join(job)} failed:\n{done.stderr}")
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))[6:])


def run_job(words: Sequence[str]) -> dict | list[float]:
    """Runs one job, given as the arguments of this module, and returns its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--allow-download", action="store_true")
    parser.add_argument("job", choices=["memory", "seconds"])
    parser.add_argument("words", nargs="+", help="memory: FOLDER SIZE; seconds: SIZE REPEATS FOLDER ...")
    args = parser.parse_args(words)

    def size(text: str) -> Size:
        return tuple(int(side) for side in text.split("x"))

    if args.job == "memory":
        return _memory(args.words[0], size(args.words[1]), args.allow_download)
    return _seconds(args.words[2:], size(args.words[0]), int(args.words[1]), args.allow_download)


def main() -> None:
    """Runs one job and prints its result as JSON."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    cv2.setNumThreads(1)
    print("FOUND " + json.dumps(run_job(sys.argv[1:])))


if __name__ == "__main__":
    main()
