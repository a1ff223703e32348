"""Which class each row of a head is of, in this project's layout and in detectron2's, and rows taken over by class.

Both predict boxes and masks of the things in ascending order of their category ids, scores with the background last.
They differ in the semantic channels: stuff first, then things, here; one channel of all things, then stuff, there.
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

# Takes the keys of a model's rows and of a file's (see `ClassRows.row_keys`). Returns the number of the file's row for
# each row of the model, None where there is none.
RowMatch = Callable[[Sequence[Hashable], Sequence[Hashable]], list[int | None]]


def head_of(name: str) -> str | None:
    """The head that a tensor with a row per class is of, such as "sem_seg_head.predictor"; None for other tensors.

    OANet's ranking module, "fusion.srm", has a row and a column per thing class.
    """
    match = _HEAD.search(name)
    return match and (match[1] or match[2])


def class_axes(head: str, tensor: Tensor) -> int:
    """How many of the first dimensions of a head's tensor are classes: rows, and columns in the ranking module."""
    return 2 if head == "fusion.srm" and tensor.dim() > 1 else 1


@dataclass(frozen=True)
class ClassRows:
    """The classes of a network and the order of its rows.

    Attributes:
        layout: "panoptic_fusion" or "detectron2".
        label_space: the classes; None if they are not known.
        ontology: of the semantic channels, in the layout "panoptic_fusion".
    """

    layout: str
    label_space: LabelSpace | None
    ontology: str = "full"

    def row_keys(self, head: str) -> list[Hashable]:
        """What each row of a head (see `head_of`) is of. A class is (name, category id, isthing)."""
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
    """The `RowMatch` in which name, category id and kind (thing or stuff) must agree."""
    rows = {key: row for row, key in enumerate(given)}
    return [rows.get(key) for key in wanted]


def take_rows(
    tensors: Mapping[str, Tensor],
    source: ClassRows,
    model: Mapping[str, Tensor],
    target: ClassRows,
    match: RowMatch = same_class,
) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Brings the rows of the heads into the order of a model, class by class.

    Heads without a row per class (class-agnostic boxes or masks), and heads whose other dimensions differ, stay as they
    are.

    Args:
        tensors: of a file, by the model's names.
        source: the classes of the file; if they are not known, none of its rows is used.
        model: the model's state dict; its values are the rows of classes that the file does not have.
        target: the classes of the model.
        match: which row of the file each row of the model takes.

    Returns:
        The tensors, and {head: names of the classes whose rows are the model's own}.
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
    """The name in a key of `ClassRows.row_keys`."""
    while isinstance(key, tuple):
        key = key[0]
    return key


def fits(tensors: Mapping[str, Tensor], rows: ClassRows) -> bool:
    """Whether the heads among `tensors` have as many rows as there are classes; class-agnostic ones fit always."""
    for name, tensor in tensors.items():
        head = head_of(name)
        agnostic = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_head.predictor": 1}.get(head)
        if head and tensor.shape[:1] not in {(len(rows.row_keys(head)),), (agnostic,)}:
            return False
    return True


def has_semantic_predictor(names: Mapping[str, Tensor]) -> bool:
    """Whether a tensor of semantic channels is among these names."""
    return any(head_of(name) == "sem_seg_head.predictor" for name in names)
