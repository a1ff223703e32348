"""Converts published Seamless Scene Segmentation checkpoints to weights of this project's Seamless configs.

Such a file is `{"config": text, "state_dict": {"body", "rpn_head", "roi_head", "sem_head", ...}, ...}` with a dict of
tensors per part. The type of the network (blocks, levels, anchors, classes, norm) is read from the tensors. The
complete list of tensors of this network is then compared with the file.

In-place activated norms are copied unchanged, including negative weights, because `InPlaceABN` computes |weight| + eps.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

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
from .published_settings import anchors, pixel_statistics
from .weights_file import read_weights_file

PARTS = ("body", "rpn_head", "roi_head", "sem_head")
PIXEL_MEAN, PIXEL_STD = (106.4337, 116.6171, 119.5595), (65.4970, 67.6004, 74.1234)
# Anchors of the two published settings by number of ratios: the ordered ratios, and size / stride.
ANCHORS = {3: ([1.0, 0.5, 2.0], 8), 5: ([0.2, 0.5, 1.0, 2.0, 5.0], 2)}
CONFIGS = {(11, 8): "cityscapes", (17, 9): "idd", (28, 37): "vistas"}


@dataclass(frozen=True)
class Layout:
    """Properties that distinguish the published networks.

    Attributes:
        blocks: number of blocks in each of the four stages.
        num_extra: number of pyramid levels in addition to the backbone's levels.
        num_anchors: number of anchors per position.
        num_things, num_stuff: numbers of thing and stuff classes.
        group_norm: whether RPN, box and mask head use GroupNorm ("syncbn+gn") instead of in-place batch norm
            ("syncbn").
    """

    blocks: tuple[int, ...]
    num_extra: int
    num_anchors: int
    num_things: int
    num_stuff: int
    group_norm: bool

    @property
    def depth(self) -> int:
        """Depth of the ResNet: 50, 101 or 152."""
        return DEPTHS[self.blocks]


def convert_seamseg(path: str | os.PathLike) -> tuple[dict[str, Tensor], Layout, str]:
    """Reads a published checkpoint and renames its tensors; no code in the file is executed.

    Returns:
        The tensors under this project's names, the layout of their network, and the text of the config in the file (""
        if it has none).

    Raises:
        FileNotFoundError: the file does not exist.
        UserError: the file cannot be read or is not such a checkpoint, or a tensor is missing, unexpected or has a
            wrong shape; the message names the tensor.
    """
    path = os.fspath(path)
    tensors, settings = read_file(path)
    layout = detect_layout(tensors, path)
    return rename_tensors(tensors, entries(layout), path), layout, settings


def read_file(path: str) -> tuple[dict[str, Tensor], str]:
    """Reads the tensors of the network's four parts, named "part::name", and the config; see `convert_seamseg`.

    The tensors of the optimizer and the meters are left out. The errors are the same as in `convert_seamseg`.
    """
    content = read_weights_file(path)
    states = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(states, Mapping) or not all(isinstance(states.get(part), Mapping) for part in PARTS):
        raise UserError(f"{path} is not a Seamless checkpoint: it needs a state_dict with {', '.join(PARTS)}")
    tensors = {f"{part}::{name}": value for part in PARTS for name, value in states[part].items()}
    settings = content.get("config")
    return keep_tensors(tensors, path), settings if isinstance(settings, str) else ""


def detect_layout(tensors: Mapping[str, Tensor], path: str = "checkpoint") -> Layout:
    """Reads the layout from the names and shapes; the errors are the same as in `convert_seamseg`."""
    pattern = r"body::backbone\.mod{}\.block(\d+)\.convs\.conv1\.weight"
    blocks = tuple(count(tensors, pattern.format(stage), first=1) for stage in (2, 3, 4, 5))
    check_blocks(blocks, f"{path}: the backbone body::backbone")
    num_things = num_rows(tensors, "roi_head::roi_msk.weight", 4, path)
    return Layout(
        blocks=blocks,
        num_extra=count(tensors, r"body::fpn\.extra\.(\d+)\.conv\.weight"),
        num_anchors=num_rows(tensors, "rpn_head::conv_obj.weight", 4, path),
        num_things=num_things,
        num_stuff=count_stuff(tensors, "sem_head::conv_sem.weight", num_things, path),
        group_norm="roi_head::fc.bn1.running_mean" not in tensors,
    )


def entries(layout: Layout) -> Iterator[Entry]:
    """Yields an entry for each tensor of a network with the given layout."""
    yield from _backbone(layout)
    yield from _pyramid(layout)
    yield from _detection(layout)
    yield from _semantic(layout)


def swap_xy(tensor: Tensor) -> Tensor:
    """Reorders rows in groups of four from (dy, dx, dh, dw) to (dx, dy, dw, dh)."""
    return tensor.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def _backbone(layout: Layout) -> Iterator[Entry]:
    theirs, ours = "body::backbone", "backbone.bottom_up"
    yield Entry(f"{theirs}.mod1.conv1.weight", (64, 3, 7, 7), f"{ours}.stem.conv1.weight")
    yield from norm(f"{theirs}.mod1.bn1", f"{ours}.stem.conv1.norm", 64)
    for stage, block, part, shape in resnet_convs(layout.blocks):
        old = f"{theirs}.mod{stage}.block{block + 1}"
        conv, bn = ("proj_conv", "proj_bn") if part == "shortcut" else (f"convs.{part}", f"convs.bn{part[-1]}")
        new = f"{ours}.res{stage}.{block}.{part}"
        yield Entry(f"{old}.{conv}.weight", shape, f"{new}.weight")
        yield from norm(f"{old}.{bn}", f"{new}.norm", shape[0])


def _pyramid(layout: Layout) -> Iterator[Entry]:
    levels = [(f"lateral.{i}", f"fpn_lateral{i + 2}", (256, 256 * 2**i, 1, 1)) for i in range(4)]
    levels += [(f"output.{i}", f"fpn_output{i + 2}", (256, 256, 3, 3)) for i in range(4)]
    levels += [(f"extra.{i}", f"top_block.p{i + 6}", (256, 256 if i else 2048, 3, 3)) for i in range(layout.num_extra)]
    for old, new, shape in levels:
        yield Entry(f"body::fpn.{old}.conv.weight", shape, f"backbone.{new}.weight")
        yield from norm(f"body::fpn.{old}.bn", f"backbone.{new}.norm", 256)


def _detection(layout: Layout) -> Iterator[Entry]:
    things, anchors, stats = layout.num_things, layout.num_anchors, not layout.group_norm
    old, new = "rpn_head::", "proposal_generator.rpn_head."
    yield Entry(f"{old}conv1.weight", (256, 256, 3, 3), f"{new}conv.weight")
    yield from norm(f"{old}bn1", f"{new}conv.norm", 256, stats)
    yield from with_bias(f"{old}conv_obj", f"{new}objectness_logits", (anchors, 256, 1, 1))
    yield from with_bias(f"{old}conv_bbx", f"{new}anchor_deltas", (4 * anchors, 256, 1, 1), swap_xy)

    old, new = "roi_head::", "roi_heads."
    for i, in_channels in ((1, 256 * 7 * 7), (2, 1024)):
        yield Entry(f"{old}fc.fc{i}.weight", (1024, in_channels), f"{new}box_head.fc{i}.weight")
        yield from norm(f"{old}fc.bn{i}", f"{new}box_head.norm{i}", 1024, stats)
    yield from with_bias(f"{old}roi_cls", f"{new}box_predictor.cls_score", (things + 1, 1024), move_background_last)
    yield from with_bias(f"{old}roi_bbx", f"{new}box_predictor.bbox_pred", (4 * things, 1024), swap_xy)
    for i in range(1, 5):
        yield Entry(f"{old}conv.conv{i}.weight", (256, 256, 3, 3), f"{new}mask_head.mask_fcn{i}.weight")
        yield from norm(f"{old}conv.bn{i}", f"{new}mask_head.mask_fcn{i}.norm", 256, stats)
    yield Entry(f"{old}conv.conv_up.weight", (256, 256, 2, 2), f"{new}mask_head.deconv.weight")
    yield from norm(f"{old}conv.bn_up", f"{new}mask_head.deconv_norm", 256, stats)
    yield from with_bias(f"{old}roi_msk", f"{new}mask_head.predictor", (things, 256, 1, 1))


def _semantic(layout: Layout) -> Iterator[Entry]:
    for i in range(4):
        old, new = f"sem_head::output.{i}", f"sem_seg_head.heads.p{i + 2}"
        yield Entry(f"{old}.conv1_3x3.weight", (128, 256, 3, 3), f"{new}.branch_3x3.weight")
        yield Entry(f"{old}.conv1_dil.weight", (128, 256, 3, 3), f"{new}.branch_dilated.weight")
        yield Entry(f"{old}.conv1_glb.weight", (128, 256, 1, 1), f"{new}.branch_pooled.weight")
        yield from norm(f"{old}.bn1", f"{new}.norm", 384)
        yield Entry(f"{old}.conv2.weight", (128, 384, 1, 1), f"{new}.fuse.weight")
        yield from norm(f"{old}.bn2", f"{new}.fuse.norm", 128)
    classes = layout.num_stuff + layout.num_things
    yield from with_bias("sem_head::conv_sem", "sem_seg_head.predictor", (classes, 512, 1, 1))


def describe(layout: Layout, settings: str = "") -> str:
    """Returns the config that belongs to the weights, as YAML; its _BASE_ is relative to the root of the repository.

    The tensors do not determine the anchor sizes or the pixel mean and standard deviation. They are taken from the
    file's own `settings`, else the published values are used. The lines of the `settings` are added as comments.

    Raises:
        UserError: the anchors match no published setting, or the `settings` contradict the tensors.
    """

    if layout.num_anchors not in ANCHORS:
        raise UserError(f"the checkpoint has {layout.num_anchors} anchors at a position; supported: {list(ANCHORS)}")
    ratios, scale = anchors(settings, *ANCHORS[layout.num_anchors])
    levels = range(2, 6 + layout.num_extra)
    head_norm = "GN" if layout.group_norm else "InPlaceABN"
    classes = (layout.num_stuff, layout.num_things)
    dataset = CONFIGS.get(classes)
    base = f"configs/{dataset}/seamless_r50.yaml" if dataset else "configs/Base-Seamless.yaml"
    lines = [line.strip() for line in settings.splitlines()]
    lines = [line for line in lines if re.match(r"[^#;=]*(anchor|stride|scale|mean|std|norm)[^=]*=", line)]
    comments = "# the file says:\n" + "".join(f"#   {line}\n" for line in lines) if lines else ""
    note = f"the classes of {dataset}, in its official order" if dataset else "set MODEL.CATEGORIES or DATASETS.TRAIN"
    return f"""\
# {classes[0]} stuff and {classes[1]} thing classes, stuff channels first: {note}
_BASE_: "{base}"
MODEL:
  PIXEL_MEAN: {pixel_statistics(settings, "mean", PIXEL_MEAN)}
  PIXEL_STD: {pixel_statistics(settings, "std", PIXEL_STD)}
  RESNETS:
    DEPTH: {layout.depth}
    NORM: "InPlaceABN"
  FPN:
    NORM: "InPlaceABN"
  ANCHOR_GENERATOR:
    SIZES: {[[scale * 2**level] for level in levels]}
    ASPECT_RATIOS: {[ratios]}
  RPN:
    IN_FEATURES: {[f"p{level}" for level in levels]}
    NORM: "{head_norm}"
  ROI_BOX_HEAD:
    NORM: "{head_norm}"
  ROI_MASK_HEAD:
    NORM: "{head_norm}"
  SEM_SEG_HEAD:
    NORM: "InPlaceABN"
INPUT:
  FORMAT: "RGB"
{comments}"""
