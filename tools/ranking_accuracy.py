#!/usr/bin/env python
"""Measures how often the spatial ranking module paints the right one of two overlapping instances in front.

    panoptic-fusion prepare toy --output datasets/toy
    panoptic-fusion prepare toy --output datasets/toy_class_free --depth class-free
    python tools/ranking_accuracy.py datasets/toy datasets/toy_class_free

The module is trained on ground truth alone, for each kernel and each training signal: the overlapping masks of the
instances JSON ("amodal"), or masks generated from the panoptic PNGs ("PNG"). It is evaluated on the overlapping masks
of the validation instances JSON. No network runs. Prints a Markdown table: the mean and the range over the seeds.
"""

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Instances
from ranking_truth import Pair, class_majority, overlapping_pairs, share_right, smaller_in_front
from torch import Tensor

from panoptic_fusion.data.annotation import load_annotation, semantic_map
from panoptic_fusion.data.coco_panoptic import PanopticFiles, load_panoptic
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.mapper import instances_of_annotations, instances_of_labels
from panoptic_fusion.errors import run_cli
from panoptic_fusion.modeling.fusion import FusionTrainingInputs, SemSegLogits, SpatialRankingFusion
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking import SCORE_CELLS
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import KERNELS

SIGNALS = ("amodal", "PNG")
BATCH, WARMUP, MOMENTUM = 8, 20, 0.9


@dataclass(frozen=True)
class Image:
    """Ground truth of an image: semantic channels (H, W) int64, and its things by training signal."""

    sem_seg: Tensor
    things: dict[str, Instances]


@dataclass(frozen=True)
class Data:
    """A dataset of toy scenes."""

    label_space: LabelSpace
    train: list[Image]
    val: list[Image]

    def pairs(self, images: list[Image]) -> list[list[Pair]]:
        """Returns the pairs of overlapping amodal masks of each image."""
        found = []
        for image in images:
            things = image.things["amodal"]
            labels = torch.where(image.sem_seg == 255, -1, image.sem_seg - self.label_space.num_stuff)
            found.append(overlapping_pairs(things.gt_masks.tensor, things.gt_classes.tolist(), labels))
        return found


def read_split(folder: Path, limit: int | None) -> tuple[LabelSpace, list[Image]]:
    """Reads at most `limit` images of a split, without their pixels."""
    names = ("images", "panoptic", "panoptic.json", "instances.json")
    label_space, records = load_panoptic(PanopticFiles(*(str(folder / name) for name in names)))
    images = []
    for record in records[:limit]:
        labels, segments = load_annotation(record), record["segments_info"]
        amodal = instances_of_annotations(record["annotations"], labels.shape, T.TransformList([]), labels.shape)
        things = dict(zip(SIGNALS, (amodal, instances_of_labels(labels, segments)), strict=True))
        sem_seg = semantic_map(labels, segments, label_space, "full").astype(np.int64)
        images.append(Image(torch.from_numpy(sem_seg), things))
    return label_space, images


def train(data: Data, kernel: str, signal: str, seed: int, args: argparse.Namespace) -> SpatialRankingFusion:
    """Trains a module on one signal with SGD: linear warm-up, then a constant rate."""
    torch.manual_seed(seed)
    fusion = SpatialRankingFusion(
        label_space=data.label_space, ontology="full", kernel=kernel, stuff_area_limit=0,
        instances_confidence_thresh=0.0, overlap_thresh=0.5,
    )  # fmt: skip
    optimizer = torch.optim.SGD(fusion.parameters(), args.rate, momentum=MOMENTUM)
    for step in range(args.iterations):
        optimizer.param_groups[0]["lr"] = args.rate * min(1, (step + 1) / WARMUP)
        images = [data.train[i] for i in torch.randint(len(data.train), (BATCH,)).tolist()]
        sem_seg, things = torch.stack([x.sem_seg for x in images]), [x.things[signal] for x in images]
        loss = fusion.losses(FusionTrainingInputs(None, sem_seg, things, None, [], None))["loss_srm"]
        optimizer.zero_grad()
        loss.backward()
        if args.clip > 0:
            for parameter in fusion.parameters():  # as SOLVER.CLIP_GRADIENTS with CLIP_TYPE "norm"
                torch.nn.utils.clip_grad_norm_(parameter, args.clip)
        optimizer.step()
    return fusion.eval()


@torch.no_grad()
def accuracy(data: Data, fusion: SpatialRankingFusion, cells: str) -> float:
    """Returns the fraction of validation pairs whose front one has the higher ranking score over `cells`."""
    fusion.score_over, scores = cells, []
    for image, pairs in zip(data.val, data.pairs(data.val), strict=True):
        if pairs:
            found = ranking_scores(fusion, image).tolist()
            scores += [(found[pair.rows[0]], found[pair.rows[1]]) for pair in pairs]
    return share_right(scores)


def ranking_scores(fusion: SpatialRankingFusion, image: Image) -> Tensor:
    """Returns the ranking scores of the amodal masks of an image, (R,)."""
    things, size = image.things["amodal"], tuple(image.sem_seg.shape)
    instances = Instances(
        size, pred_boxes=things.gt_boxes, pred_masks=things.gt_masks.tensor, pred_classes=things.gt_classes,
        scores=torch.ones(len(things)),
    )  # fmt: skip
    logits = torch.zeros(fusion.label_space.num_channels("full"), *size)
    return fusion.ranking_scores(fusion.scene(SemSegLogits(logits, size, size, size), instances))


def rows(folder: Path, args: argparse.Namespace) -> Iterator[list[str]]:
    """Yields the rows of a dataset: the trivial rules, then each kernel and signal."""
    label_space, images = read_split(folder / "train", args.images)
    data = Data(label_space, images, read_split(folder / "val", args.images)[1])
    seen, pairs = (sum(data.pairs(x), []) for x in (data.train, data.val))
    if not pairs:
        raise SystemExit(f"{folder}: no two validation instances of different classes overlap")
    for rule, right in (("class majority", class_majority(seen, pairs)), ("smaller in front", smaller_in_front(pairs))):
        yield [folder.name, rule, f"{right:.3f}", f"{right:.3f}"]
    for signal in SIGNALS:
        for kernel in KERNELS:
            fusions = [train(data, kernel, signal, seed, args) for seed in range(1, args.seeds + 1)]
            found = [[accuracy(data, fusion, cells) for fusion in fusions] for cells in SCORE_CELLS]
            cells = [f"{statistics.mean(x):.3f} ({min(x):.3f} to {max(x):.3f})" for x in found]
            yield [folder.name, f"{kernel}, {signal}", *cells]


def main() -> None:
    """Runs the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", type=Path, help="folders of `panoptic-fusion prepare toy`")
    parser.add_argument("--seeds", type=int, default=3, help="runs per row, default: %(default)s")
    parser.add_argument("--iterations", type=int, default=600, help="per run, default: %(default)s")
    parser.add_argument("--images", type=int, help="of each split, default: all")
    parser.add_argument("--rate", type=float, default=0.1, help="learning rate, default: %(default)s")
    parser.add_argument("--clip", type=float, default=0.0, help="largest gradient norm of a parameter, default: none")
    args = parser.parse_args()
    print("| scenes | order | pairs right, score over mask | pairs right, score over contested cells |")
    print("|---|---|---|---|")
    for folder in args.datasets:
        for row in rows(folder, args):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    run_cli(main)
