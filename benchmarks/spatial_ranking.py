"""Measures the cost of the spatial ranking module: inference and training steps with and without it, interleaved.

    python benchmarks/spatial_ranking.py --model output/toy_oanet_r18

The model's fusion is SpatialRankingFusion. Without the module, HeuristicFusion replaces it on the same network, with
the same images of the model's validation split (so the instances are real predictions) and the same training batches,
in one process. The limits are from the project's issue 6: at most 10% more for inference, 15% for a training step. The
exit code is 1 if a limit is exceeded.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path

import torch
from arguments import parse_arguments
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from fusion import seconds

from panoptic_fusion import config_file, load_trained, resolve_config
from panoptic_fusion.config.read import read_config
from panoptic_fusion.data.toy.scenes import generate_toy_scenes
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.errors import ConfigError, run_cli
from panoptic_fusion.modeling.fusion import HeuristicFusion, SpatialRankingFusion, build_panoptic_fusion
from panoptic_fusion.networks.trained import build_predictor

MAX_INFERENCE, MAX_STEP = 1.10, 1.15


def fusions_of(cfg: CfgNode, network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Returns the heuristic with the config's values, and the model's own fusion."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.PANOPTIC_FUSION.NAME = HeuristicFusion.__name__
    return {"heuristic": build_panoptic_fusion(cfg), "spatial ranking": network.fusion}


def train_step(network: torch.nn.Module, batch: list[dict]) -> None:
    """Runs forward and backward; the same proposals are sampled each time."""
    torch.manual_seed(0)
    network.zero_grad(set_to_none=True)
    with EventStorage():
        sum(network(batch).values()).backward()


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="OUTPUT_DIR of a training run with SpatialRankingFusion")
    parser.add_argument("--images", type=int, default=50, help="of the validation set")
    parser.add_argument("--batches", type=int, default=5, help="of the training set")
    parser.add_argument("--repeats", type=int, default=5, help="of each image and batch; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    args = parse_arguments(parser, images=1, batches=1, repeats=1)
    torch.set_num_threads(args.threads)
    if not (args.model or args.quick):
        parser.error("one of --model and --quick is needed")
    with tempfile.TemporaryDirectory() as folder:
        args.model = args.model or untrained(Path(folder))
        return compare(args)


def untrained(folder: Path) -> str:
    """Returns an OUTPUT_DIR in `folder`: OANet's network with random weights, on two toy scenes."""
    data = generate_toy_scenes(folder / "scenes", num_train=2, num_val=2, size=(96, 128))
    cfg = read_config(config_file("toy/oanet_r18.yaml"), ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "1"])
    cfg.DATASETS.REGISTER = [{"name": f"quick_{split}", **files} for split, files in data.items()]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("quick_train",), ("quick_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg = resolve_config(cfg)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model_final.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    return str(folder)


def compare(args: argparse.Namespace) -> int:
    """Times both and prints the table; returns 1 if a ratio exceeds its limit."""
    cfg = load_trained(args.model, ["MODEL.FREEZE", "[]", "MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"])
    network = build_predictor(cfg).model
    if not isinstance(network.fusion, SpatialRankingFusion):
        raise ConfigError(f"MODEL.PANOPTIC_FUSION.NAME of {args.model} is not SpatialRankingFusion")
    fusions, device = fusions_of(cfg, network), cfg.MODEL.DEVICE

    def with_fusion(name: str, function, batch: list[dict]):
        def run() -> None:
            network.fusion = fusions[name]
            function(network, batch)

        return run

    def total(function, batches: list[list[dict]]) -> dict[str, list[float]]:
        """Returns the median seconds of each batch, for each fusion."""
        rows = [seconds([with_fusion(n, function, b) for n in fusions], args.repeats, device) for b in batches]
        return dict(zip(fusions, map(list, zip(*rows, strict=True)), strict=True))

    images = list(itertools.islice(PanopticTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), args.images))
    with torch.no_grad():
        inference = total(lambda net, batch: net(batch), images)
    network.train()
    steps = total(train_step, list(itertools.islice(PanopticTrainer.build_train_loader(cfg), args.batches)))

    print(
        f"{args.model}, {len(images)} images of {cfg.DATASETS.TEST[0]}, {args.batches} batches of "
        f"{cfg.SOLVER.IMS_PER_BATCH} images, {device}, {args.threads} thread(s), torch {torch.__version__}, median of "
        f"{args.repeats}, interleaved\n"
    )
    print("| | heuristic, ms | spatial ranking, ms | ratio of the sums | median of the ratios | limit |")
    print("|---|---|---|---|---|---|")
    within = True
    for what, times, limit in (("inference, an image", inference, MAX_INFERENCE), ("training step", steps, MAX_STEP)):
        base, ours = times.values()
        ratio = sum(ours) / sum(base)
        pairs = statistics.median(b / a for a, b in zip(base, ours, strict=True))
        within &= ratio <= limit
        base_ms, our_ms = (1e3 * statistics.mean(t) for t in (base, ours))
        print(f"| {what} | {base_ms:.1f} | {our_ms:.1f} | {ratio:.3f} | {pairs:.3f} | {limit:.2f} |")
    return 0 if within or args.quick else 1


if __name__ == "__main__":
    run_cli(main)
