"""Converts published UPSNet checkpoints to weights of this project's UPSNet configs.

Such a file is a dict of tensors. The type of the network (blocks, deformable stages, global context, layers of the
stuff head, classes) is read from the names and shapes. The complete list of tensors of this network is then compared
with the file.

The published classes are numbered from 1, with background 0, in the order of the dataset's ids. The published semantic
channels are stuff, then things. The rows are reordered to match `LabelSpace`, by category id.

Differences from the published code: the mask and the box deltas of the background are dropped, because detectron2 does
not have them. Fine-tuning on other classes initializes the last layers from scratch; the published code copies the rows
of classes that both datasets have. The generated config sets MODEL.BOX_CONVENTION "inclusive", because the weights were
trained with boxes that name their last pixel.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from panoptic_fusion.data.datasets import BUILTIN
from panoptic_fusion.errors import UserError

from .published import (
    DEPTHS,
    Entry,
    check_blocks,
    count,
    count_stuff,
    keep_tensors,
    move_background_last,
    norm,
    num_rows,
    rename_tensors,
    resnet_convs,
    with_bias,
)
from .weights_file import read_weights_file

# Numbers of (stuff, thing) classes of the published models: their dataset, and the category key that orders them.
CLASSES = {(53, 80): ("coco", "id"), (11, 8): ("cityscapes", "trainId")}
CONFIGS = {("coco", 101): "upsnet_r101_dcn.yaml", ("cityscapes", 101): "upsnet_r101.yaml"}
DEFORMABLE = {(False,) * 4, (False, True, True, True)}
BACKBONE = "resnet_backbone"
HEAD = "fcn_head.fcn_subnet.conv"


@dataclass(frozen=True)
class Layout:
    """Properties that distinguish the published networks.

    Attributes:
        blocks: number of blocks in each of the four stages.
        deformable: whether each of the four stages has deformable convolutions.
        context: whether the global average of the last stage is added to P5.
        num_layers: number of deformable layers of the stuff head, at least 2.
        num_things, num_stuff: numbers of thing and stuff classes.
    """

    blocks: tuple[int, ...]
    deformable: tuple[bool, ...]
    context: bool
    num_layers: int
    num_things: int
    num_stuff: int

    @property
    def depth(self) -> int:
        """Depth of the ResNet: 50, 101 or 152."""
        return DEPTHS[self.blocks]

    @property
    def dataset(self) -> str:
        """Name of the dataset: "coco" or "cityscapes"."""
        return CLASSES[self.num_stuff, self.num_things][0]


def convert_upsnet(path: str | os.PathLike) -> tuple[dict[str, Tensor], Layout]:
    """Reads a published checkpoint and renames its tensors; no code in the file is executed.

    Returns:
        The tensors under this project's names, and the layout of their network.

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read or is not such a checkpoint, or a tensor is missing, unexpected or has a
            wrong shape; the message names the tensor.
    """
    path = os.fspath(path)
    tensors = read_file(path)
    layout = detect_layout(tensors, path)
    return rename_tensors(tensors, entries(layout), path), layout


def read_file(path: str) -> dict[str, Tensor]:
    """Reads the tensors of a file, without the prefix of a multi-GPU model; see `convert_upsnet` for the errors."""
    content = read_weights_file(path)
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} is not a UPSNet checkpoint: it must be a dict from names to tensors")
    tensors = {name.removeprefix("module."): value for name, value in content.items()}
    if not any(name.startswith(f"{BACKBONE}.") for name in tensors):
        raise UserError(f"{path} is not a UPSNet checkpoint: it needs tensors whose names start with {BACKBONE}")
    return keep_tensors(tensors, path)


def detect_layout(tensors: Mapping[str, Tensor], path: str = "checkpoint") -> Layout:
    """Reads the layout from the names and shapes; the errors are the same as in `convert_upsnet`."""
    pattern = BACKBONE + r"\.res{}\.layers\.(\d+)\.{}\.weight"
    stages = (2, 3, 4, 5)
    blocks = tuple(count(tensors, pattern.format(stage, "conv1")) for stage in stages)
    check_blocks(blocks, f"{path}: {BACKBONE}")
    deformable = tuple(count(tensors, pattern.format(stage, "conv2_offset")) > 0 for stage in stages)
    if deformable not in DEFORMABLE:
        found = [f"res{stage}" for stage, is_deformable in zip(stages, deformable, strict=True) if is_deformable]
        raise UserError(f"{path}: {', '.join(found)} have conv2_offset; it must be res3, res4 and res5, or none")
    num_things = num_rows(tensors, "mask_branch.mask_score.weight", 4, path) - 1
    num_stuff = count_stuff(tensors, "fcn_head.score.weight", num_things, path)
    if (num_stuff, num_things) not in CLASSES:
        known = " and ".join(f"{stuff} and {things} ({name})" for (stuff, things), (name, _) in CLASSES.items())
        raise UserError(f"{path} has {num_stuff} stuff and {num_things} thing classes; supported: {known}")
    return Layout(
        blocks=blocks,
        deformable=deformable,
        context="fpn.fpn_gap.weight" in tensors,
        num_layers=max(2, count(tensors, re.escape(HEAD) + r"\.(\d+)\.0\.conv\.weight")),
        num_things=num_things,
        num_stuff=num_stuff,
    )


def class_order(categories: list[dict], key: str) -> tuple[list[int], list[int]]:
    """Returns the positions of the classes of `LabelSpace` in the published order.

    In the published order, stuff and things are each sorted by `key`.

    Args:
        categories: categories of the dataset, with `id` and `isthing`.
        key: category key that defines the published order.

    Returns:
        The published position among the stuff classes for stuff 0, 1, ..., and the same for things.
    """
    order = []
    for isthing in (0, 1):
        chosen = [category for category in categories if category["isthing"] == isthing]
        published = [category["id"] for category in sorted(chosen, key=lambda category: category[key])]
        order.append([published.index(category_id) for category_id in sorted(published)])
    return order[0], order[1]


def entries(layout: Layout) -> Iterator[Entry]:
    """Yields an entry for each tensor of a network with the given layout."""
    yield from _backbone(layout)
    yield from _pyramid(layout)
    yield from _detection(layout)
    yield from _semantic(layout)


def _class_order(layout: Layout) -> tuple[list[int], list[int]]:
    key = CLASSES[layout.num_stuff, layout.num_things][1]
    return class_order(BUILTIN[layout.dataset].categories(), key)


def _backbone(layout: Layout) -> Iterator[Entry]:
    ours = "backbone.bottom_up"
    yield Entry(f"{BACKBONE}.conv1.conv1.weight", (64, 3, 7, 7), f"{ours}.stem.conv1.weight")
    yield from norm(f"{BACKBONE}.conv1.bn1", f"{ours}.stem.conv1.norm", 64)
    for stage, block, part, shape in resnet_convs(layout.blocks):
        old, new = f"{BACKBONE}.res{stage}.layers.{block}", f"{ours}.res{stage}.{block}.{part}"
        conv, bn = ("downsample.0", "downsample.1") if part == "shortcut" else (part, f"bn{part[-1]}")
        yield Entry(f"{old}.{conv}.weight", shape, f"{new}.weight")
        yield from norm(f"{old}.{bn}", f"{new}.norm", shape[0])
        if part == "conv2" and layout.deformable[stage - 2]:
            yield from with_bias(f"{old}.conv2_offset", f"{new}_offset", (18, shape[0], 3, 3))


def _pyramid(layout: Layout) -> Iterator[Entry]:
    for level in (2, 3, 4, 5):
        shape = (256, 64 * 2**level, 1, 1)
        yield from with_bias(f"fpn.fpn_p{level}_1x1", f"backbone.fpn_lateral{level}", shape)
        yield from with_bias(f"fpn.fpn_p{level}", f"backbone.fpn_output{level}", (256, 256, 3, 3))
    if layout.context:
        yield from with_bias("fpn.fpn_gap", "backbone.fpn_gap", (256, 2048))


def _detection(layout: Layout) -> Iterator[Entry]:
    _, order = _class_order(layout)

    def things(tensor: Tensor) -> Tensor:
        return tensor[1:][order]

    def classes(tensor: Tensor) -> Tensor:
        tensor = move_background_last(tensor)
        return tensor[[*order, len(order)]]

    def deltas(tensor: Tensor) -> Tensor:
        return things(tensor.unflatten(0, (-1, 4))).flatten(0, 1)

    num = layout.num_things + 1
    new = "proposal_generator.rpn_head"
    yield from with_bias("rpn.conv_proposal.0", f"{new}.conv", (256, 256, 3, 3))
    yield from with_bias("rpn.cls_score", f"{new}.objectness_logits", (3, 256, 1, 1))
    yield from with_bias("rpn.bbox_pred", f"{new}.anchor_deltas", (12, 256, 1, 1))

    yield from with_bias("rcnn.fc6.0", "roi_heads.box_head.fc1", (1024, 256 * 7 * 7))
    yield from with_bias("rcnn.fc7.0", "roi_heads.box_head.fc2", (1024, 1024))
    yield from with_bias("rcnn.cls_score", "roi_heads.box_predictor.cls_score", (num, 1024), classes)
    yield from with_bias("rcnn.bbox_pred", "roi_heads.box_predictor.bbox_pred", (4 * num, 1024), deltas)
    for i in (1, 2, 3, 4):
        yield from with_bias(f"mask_branch.mask_conv{i}.0", f"roi_heads.mask_head.mask_fcn{i}", (256, 256, 3, 3))
    yield from with_bias("mask_branch.mask_deconv1.0", "roi_heads.mask_head.deconv", (256, 256, 2, 2))
    yield from with_bias("mask_branch.mask_score", "roi_heads.mask_head.predictor", (num, 256, 1, 1), things)


def _semantic(layout: Layout) -> Iterator[Entry]:
    channels = [256] * (layout.num_layers - 1) + [128] * 2
    for i in range(layout.num_layers):
        old, new = f"{HEAD}.{i}.0", f"sem_seg_head.layers.{i}"
        yield from with_bias(f"{old}.conv_offset", f"{new}.offset", (18, channels[i], 3, 3))
        yield from with_bias(f"{old}.conv", f"{new}.conv", (channels[i + 1], channels[i], 3, 3))
    stuff, things = _class_order(layout)
    order = [*stuff, *(layout.num_stuff + thing for thing in things)]
    shape = (len(order), 4 * 128, 1, 1)
    yield from with_bias("fcn_head.score", "sem_seg_head.predictor", shape, lambda tensor: tensor[order])


def describe(layout: Layout) -> str:
    """Returns the config that belongs to the weights, as YAML; its _BASE_ is relative to the root of the repository."""
    base = CONFIGS.get((layout.dataset, layout.depth), "upsnet_r50.yaml")
    backbone = "build_gap_fpn_backbone" if layout.context else "build_fpn_backbone"
    return f"""\
# {layout.num_stuff} stuff and {layout.num_things} thing classes, stuff channels first: the classes of {layout.dataset}
_BASE_: "configs/{layout.dataset}/{base}"
MODEL:
  BOX_CONVENTION: "inclusive"
  ALLOW_SHAPE_MISMATCH: False
  BACKBONE:
    NAME: "{backbone}"
  RESNETS:
    DEPTH: {layout.depth}
    DEFORM_ON_PER_STAGE: {list(layout.deformable)}
  SEM_SEG_HEAD:
    NUM_CONVS: {layout.num_layers}
"""
