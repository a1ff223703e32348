"""Maps rows of heads to classes, in this project's layout and in detectron2's, and copies rows class by class.

Both layouts predict boxes and masks of the things in ascending order of their category ids, and scores with the
background last. They differ in the semantic channels: this project has stuff first, then things; detectron2 has one
channel of all things, then stuff.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from panoptic_fusion.data.label_space import LabelSpace

PANOPTIC_FUSION, DETECTRON2 = "panoptic_fusion", "detectron2"
LAYOUTS = (PANOPTIC_FUSION, DETECTRON2)

_HEAD = re.compile(
    r"(?:^|\.)(?:(roi_heads\.box_predictor\.(?:cls_score|bbox_pred)|roi_heads\.mask_head\.predictor|"
    r"sem_seg_head\.predictor)|(fusion\.srm)\.branches\.\d+\.\d+)\.(?:weight|bias)$"
)
_THINGS, _BACKGROUND = "things", "background"

# Takes the keys of a model's rows and of a file's rows (see `ClassRows.row_keys`). Returns the index of the file's row
# for each row of the model, or None if the file has no such row.
RowMatch = Callable[[Sequence[Hashable], Sequence[Hashable]], list[int | None]]


def head_of(name: str) -> str | None:
    """Returns the head of a tensor with one row per class, such as "sem_seg_head.predictor"; None for other tensors.

    OANet's ranking module, "fusion.srm", has one row and one column per thing class.
    """
    match = _HEAD.search(name)
    return match and (match[1] or match[2])


def class_axes(head: str, tensor: Tensor) -> int:
    """Returns the number of leading dimensions of a head's tensor that are classes: 1, or 2 in the ranking module."""
    return 2 if head == "fusion.srm" and tensor.dim() > 1 else 1


@dataclass(frozen=True)
class ClassRows:
    """Classes of a network and the order of its rows.

    Attributes:
        layout: "panoptic_fusion" or "detectron2".
        label_space: classes of the network; None if they are not known.
        ontology: ontology of the semantic channels, in the layout "panoptic_fusion".
    """

    layout: str
    label_space: LabelSpace | None
    ontology: str = "full"

    def row_keys(self, head: str) -> list[Hashable]:
        """Returns the key of each row of a head (see `head_of`); the key of a class is (name, category id, isthing)."""
        space = self.label_space
        things = [(name, i, True) for name, i in zip(space.thing_classes, space.thing_ids, strict=True)]
        stuff = [(name, i, False) for name, i in zip(space.stuff_classes, space.stuff_ids, strict=True)]
        if head.endswith("cls_score"):
            return [*things, _BACKGROUND]
        if head.endswith("bbox_pred"):
            return [(thing, delta) for thing in things for delta in range(4)]
        if not head.startswith("sem_seg_head"):
            return things
        if self.layout == DETECTRON2:
            return [_THINGS, *stuff]
        return [*stuff, *{"full": things, "collapsed": [_THINGS], "stuff": []}[self.ontology]]


def same_class(wanted: Sequence[Hashable], given: Sequence[Hashable]) -> list[int | None]:
    """Matches rows by name, category id and kind (thing or stuff), as a `RowMatch`."""
    rows = {key: row for row, key in enumerate(given)}
    return [rows.get(key) for key in wanted]


def take_rows(
    tensors: Mapping[str, Tensor],
    source: ClassRows,
    model: Mapping[str, Tensor],
    target: ClassRows,
    match: RowMatch = same_class,
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Reorders the rows of the heads to match a model, class by class.

    Heads without a row per class (class-agnostic boxes or masks), and heads whose other dimensions differ, are not
    changed.

    Args:
        tensors: tensors of a file, under the model's names.
        source: classes of the file; if they are not known, none of its rows is used.
        model: state dict of the model, which provides the rows of classes that the file does not have.
        target: classes of the model.
        match: rule that selects a row of the file for each row of the model.

    Returns:
        The tensors, and {head: names of the classes whose rows come from the model}.
    """
    taken, new = dict(tensors), {}
    for name, ours in model.items():
        head, theirs = head_of(name), tensors.get(name)
        if head is None or theirs is None:
            continue
        wanted, axes = target.row_keys(head), class_axes(head, ours)
        if len(ours) != len(wanted) or theirs.dim() != ours.dim() or ours.shape[axes:] != theirs.shape[axes:]:
            continue
        given = source.row_keys(head) if source.label_space else []
        if source.label_space and {*theirs.shape[:axes]} != {len(given)}:
            continue
        matched = match(wanted, given)
        rows = torch.tensor([row for row, theirs_row in enumerate(matched) if theirs_row is not None], dtype=torch.long)
        their_rows = torch.tensor([row for row in matched if row is not None], dtype=torch.long)
        taken[name] = ours.detach().cpu().clone()
        if axes == 2:
            taken[name][rows[:, None], rows] = theirs[their_rows[:, None], their_rows].to(ours.dtype)
        else:
            taken[name][rows] = theirs[their_rows].to(ours.dtype)
        missing = dict.fromkeys(class_name(key) for key, row in zip(wanted, matched, strict=True) if row is None)
        if missing:
            new[head] = list(missing)
    return taken, new


def class_name(key: Hashable) -> str:
    """Returns the class name in a key of `ClassRows.row_keys`."""
    while isinstance(key, tuple):
        key = key[0]
    return key


def fits(tensors: Mapping[str, Tensor], rows: ClassRows) -> bool:
    """Returns whether the heads in `tensors` have one row per class; class-agnostic heads always fit."""
    for name, tensor in tensors.items():
        head = head_of(name)
        agnostic = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_head.predictor": 1}.get(head)
        if head and tensor.shape[:1] not in {(len(rows.row_keys(head)),), (agnostic,)}:
            return False
    return True


def has_semantic_predictor(names: Mapping[str, Tensor]) -> bool:
    """Returns whether a tensor of semantic channels is among these names."""
    return any(head_of(name) == "sem_seg_head.predictor" for name in names)
