"""Registers a built-in dataset: classes immediately, files only when they are accessed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ...errors import ConfigError, UserError
from .. import coco_panoptic
from ..coco_panoptic import PanopticFiles
from ..label_space import LabelSpace


@dataclass(frozen=True)
class BuiltinDataset:
    """A dataset whose classes and folders are known before it is downloaded.

    key: its name for `panoptic-fusion prepare`.
    names: split ("train", "val" ...) -> name in detectron2's catalogs.
    files: (root of the dataset, split) -> the paths of its files.
    categories: the COCO panoptic categories in the official order; needs no file of the dataset. None if the classes
        come from the panoptic JSON, which is then read on first access.
    layout: the expected folder layout in one line, with {split}.
    folder: its folder under $DETECTRON2_DATASETS, by default `key`.
    metadata: (root of the dataset, split) -> additional entries of detectron2's Metadata.
    """

    key: str
    names: Mapping[str, str]
    files: Callable[[str, str], PanopticFiles]
    categories: Callable[[], Sequence[dict[str, Any]]] | None
    layout: str
    folder: str | None = None
    metadata: Callable[[str, str], dict[str, Any]] = field(default=lambda root, split: {})

    def label_space(self) -> LabelSpace:
        """Returns the classes as the models see them; requires `categories`."""
        return LabelSpace.from_categories(self.categories())

    def load(self, root: str, split: str) -> list[dict[str, Any]]:
        """Returns the `load_panoptic` dicts of one split.

        Raises FileNotFoundError, in one line, if the split is missing or not prepared, and UserError if its JSON has
        other classes.
        """
        files = self.files(root, split)
        command = self._command(root)
        for path in filter(None, asdict(files).values()):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"dataset {self.names[split]!r}: {path} is missing; {self._remedy(root, split)}"
                )
        found, dicts = coco_panoptic.load_panoptic(files)
        if self.categories is None:
            return dicts
        expected = self.label_space()
        if (found.thing_ids, found.stuff_ids) != (expected.thing_ids, expected.stuff_ids):
            raise UserError(
                f"{files.panoptic_json}: its categories are not the {expected.num_things} things and "
                f"{expected.num_stuff} stuff classes of {self.names[split]!r}; remove it and run {command}"
            )
        return dicts

    def _command(self, root: str) -> str:
        return f"`panoptic-fusion prepare {self.key} {root}`"

    def _remedy(self, root: str, split: str) -> str:
        return (
            f"expected in {root}: {self.layout.format(split=split)}; prepare it with {self._command(root)} (where to "
            "get the data: docs/datasets.md; another place: set DETECTRON2_DATASETS)"
        )

    def register(self, root: str) -> list[str]:
        """Registers all splits under `root`, the dataset's folder; returns their names. Opens no file.

        A name that this function registered before moves to the new root. Raises ConfigError for a name that other code
        has registered.
        """
        for split, name in self.names.items():
            if name in DatasetCatalog:
                if MetadataCatalog.get(name).get("builtin_key") != self.key:
                    raise ConfigError(f"dataset {name!r} is already registered by other code")
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            coco_panoptic.register_panoptic(name, **asdict(self.files(root, split)))
            if self.categories is not None:  # the JSON need not be read, and `load` reports missing files in detail
                coco_panoptic._remember(name, self.label_space())
            MetadataCatalog.get(name).set(
                builtin_key=self.key, missing_remedy=self._remedy(root, split), **self.metadata(root, split)
            )
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, partial(self.load, root, split))
        return list(self.names.values())
