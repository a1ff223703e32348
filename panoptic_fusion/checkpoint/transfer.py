"""Copies the rows of the heads from a model with other classes, class by class (MODEL.TRANSFER "names").

Two classes are the same if their names agree except for case, "-", "_" and spaces, or if a synonym file lists them
together. In the semantic predictor, a class may be a thing in one model and stuff in the other. The background and the
channel of all things (ontology "collapsed") only match their own counterparts, so a thing class never gets the row of
the channel of all things.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from torch import Tensor

from panoptic_fusion.errors import ConfigError, one_line
from panoptic_fusion.markdown import markdown_table

from .class_rows import ClassRows, class_axes, class_name, head_of, take_rows

TRANSFERS = ("none", "names")
AGNOSTIC_ROWS = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_head.predictor": 1}
TITLES = {
    "roi_heads.box_predictor.cls_score": "class score",
    "roi_heads.box_predictor.bbox_pred": "box",
    "roi_heads.mask_head.predictor": "mask",
    "sem_seg_head.predictor": "semantic",
    "fusion.srm": "ranking",
}


@dataclass(frozen=True)
class NameMatch:
    """`RowMatch` by the names of the classes.

    Attributes:
        synonyms: groups of names that mean the same. A class uses the row of its own name if the file has it, otherwise
            the row of the first name in its group that the file has.
    """

    synonyms: Sequence[Sequence[str]] = field(default=())

    def __call__(self, wanted: Sequence[Hashable], given: Sequence[Hashable]) -> list[int | None]:
        """Matches the rows, see `RowMatch`."""
        groups = {fold(name): group for group in self.synonyms for name in group}
        exact, folded = {}, {}
        for row, key in enumerate(given):
            exact[_key(key, class_name(key))] = row
            folded.setdefault(_key(key, fold(class_name(key))), row)

        def find(key: Hashable) -> int | None:
            name = class_name(key)
            own = exact.get(_key(key, name), folded.get(_key(key, fold(name))))
            others = (folded.get(_key(key, fold(other))) for other in groups.get(fold(name), ()))
            return own if own is not None else next((row for row in others if row is not None), None)

        return [find(key) for key in wanted]


def fold(name: str) -> str:
    """Returns a name without case, with each run of "-", "_" and spaces replaced by one space."""
    return re.sub(r"[-_\s]+", " ", name).strip().casefold()


def _key(key: Hashable, name: str) -> Hashable:
    """Returns a row's key with `name` in place of its class: (name, number of the box delta)."""
    if isinstance(key, str):  # the background or the channel of all things
        return key
    return name, key[1] if isinstance(key[0], tuple) else 0


def read_synonyms(path: str) -> list[list[str]]:
    """Reads a YAML file of {name: another name, or a list of other names}.

    Args:
        path: path to the file.

    Returns:
        The groups, each with its key first.

    Raises:
        ConfigError: the file is not such a mapping, or a name is in two groups; the message names the key and the file.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"MODEL.TRANSFER_SYNONYMS: {path} is not valid yaml: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"MODEL.TRANSFER_SYNONYMS: {path} must map names to lists of names, such as person: [human]")
    groups, seen = [], {}
    for name, others in content.items():
        group = [name, *(others if isinstance(others, list) else [others])]
        if not all(isinstance(word, str) and fold(word) for word in group):
            raise ConfigError(f"MODEL.TRANSFER_SYNONYMS: {path}: {name!r} must have a name or a list of names, quoted")
        for word in {fold(word) for word in group}:
            if seen.setdefault(word, name) != name:
                raise ConfigError(
                    f"MODEL.TRANSFER_SYNONYMS: {path}: {word!r} is in two groups, {seen[word]!r} and {name!r}"
                )
        groups.append(group)
    return groups


def transfer(
    tensors: Mapping[str, Tensor], source: ClassRows, model: Mapping[str, Tensor], target: ClassRows, match: NameMatch
) -> tuple[dict[str, Tensor], str]:
    """Reorders the tensors of a file for a model with other classes.

    A class-agnostic box regression or mask predictor is copied as a whole. If the model's predictor is class-specific
    and the classes of the file are known, each class gets a copy of it. Head tensors whose shape differs from the
    model's are dropped, so that the model's own tensors keep their initialization. Backbone tensors with a different
    shape are kept, and the loader rejects them.

    Args:
        tensors, source, model, target: see `take_rows`.
        match: rule that determines when two classes are the same.

    Returns:
        The tensors, and a table of the model's classes (rows) and heads (columns): "copied" or "new".
    """
    taken, _ = take_rows(tensors, source, model, target, match)
    copied: dict[str, str] = {}  # head -> "rows", "whole" or "" (not in the file in a shape that fits)
    for name, ours in model.items():
        head, theirs = head_of(name), tensors.get(name)
        how = _how(head, theirs, ours, source, target) if head else "whole"
        if head:
            copied[head] = how if copied.get(head, how) == how else ""
        if theirs is None or theirs.shape == ours.shape:
            continue
        if head and how == "whole":
            taken[name] = theirs.repeat(len(ours) // len(theirs), *[1] * (theirs.dim() - 1))
        elif not head and "backbone." not in name:
            del taken[name]
    taken = {name: value for name, value in taken.items() if copied.get(head_of(name), "whole")}
    return taken, _table(copied, source, target, match)


def _how(head: str, theirs: Tensor | None, ours: Tensor, source: ClassRows, target: ClassRows) -> str:
    """Returns how a head's tensor is copied: by its "rows", as a "whole" (class-agnostic), or not at all ("")."""
    if theirs is None or theirs.dim() != ours.dim():
        return ""
    axes = class_axes(head, ours)
    if theirs.shape[axes:] != ours.shape[axes:]:
        return ""
    per_class = len(ours) == len(target.row_keys(head))
    num_rows = len(source.row_keys(head)) if source.label_space else None
    if len(theirs) == AGNOSTIC_ROWS.get(head) != num_rows and not (per_class and num_rows is None):
        return "whole" if len(ours) % len(theirs) == 0 else ""
    return "rows" if per_class and (num_rows is None or {*theirs.shape[:axes]} == {num_rows}) else ""


def _table(copied: Mapping[str, str], source: ClassRows, target: ClassRows, match: NameMatch) -> str:
    heads = [head for head in TITLES if head in copied]
    cells: dict[str, dict[str, str]] = {}  # class -> head -> text
    origin: dict[str, str] = {}
    for head in heads:
        wanted, given = target.row_keys(head), source.row_keys(head) if source.label_space else []
        for key, row in zip(wanted, match(wanted, given), strict=True):
            name = f"({key})" if isinstance(key, str) else class_name(key)
            is_copied = copied[head] == "whole" or (copied[head] == "rows" and row is not None)
            cells.setdefault(name, {})[head] = "copied" if is_copied else "new"
            if is_copied and row is not None:
                origin[name] = class_name(given[row])
    rows = [[name, origin.get(name, ""), *(of.get(head, "") for head in heads)] for name, of in cells.items()]
    return markdown_table(rows, ["class", "from", *(TITLES[head] for head in heads)])


def new_parts(missing: Sequence[str]) -> str:
    """Lists the missing tensors of a file by part, such as "sem_seg_head (12 tensors), fusion.srm (8 tensors)"."""
    counts: dict[str, int] = {}
    for name in missing:
        words = name.split(".")
        part = ".".join(words[: 2 if words[0] in ("roi_heads", "backbone", "fusion") else 1])
        counts[part] = counts.get(part, 0) + 1
    return ", ".join(f"{part} ({count} tensor{'s' * (count > 1)})" for part, count in counts.items())
