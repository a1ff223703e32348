"""Registering a known data set: classes at once, files only when they are asked for."""

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
    """A data set whose classes and folders are known before it is there.

    key: its name for `panoptic-fusion prepare`.
    names: split ("train", "val" ...) -> name in detectron2's catalogs.
    files: (root of the data set, split) -> where its files are.
    categories: the COCO panoptic categories in the official order; needs no file of the data set. None if the classes
        are the ones of the panoptic JSON, which is then read when they are first asked for.
    layout: the expected tree in one line, with {split}.
    folder: its folder under $DETECTRON2_DATASETS, by default `key`.
    metadata: (root of the data set, split) -> further entries of detectron2's Metadata.
    """

    key: str
    names: Mapping[str, str]
    files: Callable[[str, str], PanopticFiles]
    categories: Callable[[], Sequence[dict[str, Any]]] | None
    layout: str
    folder: str | None = None
    metadata: Callable[[str, str], dict[str, Any]] = field(default=lambda root, split: {})

    def label_space(self) -> LabelSpace:
        """Its classes as the models see them; of a dataset with `categories`."""
        return LabelSpace.from_categories(self.categories())

    def load(self, root: str, split: str) -> list[dict[str, Any]]:
        """The dicts of `load_panoptic` for one split.

        Raises FileNotFoundError, in one line, if it is not there or not prepared, and UserError if its json has other
        classes.
        """
        files = self.files(root, split)
        command = self._command(root)
        for path in filter(None, asdict(files).values()):
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"data set {self.names[split]!r}: {path} is missing; {self._remedy(root, split)}"
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
        """Registers all splits under `root`, the data set's folder; returns their names. No file is opened.

        A name that this function has registered before moves to the new root. Raises ConfigError for a name that other
        code has registered.
        """
        for split, name in self.names.items():
            if name in DatasetCatalog:
                if MetadataCatalog.get(name).get("builtin_key") != self.key:
                    raise ConfigError(f"data set {name!r} is registered already by other code")
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
            coco_panoptic.register_panoptic(name, **asdict(self.files(root, split)))
            if self.categories is not None:  # the JSON need not be read, and the load has more to say of missing files
                coco_panoptic._remember(name, self.label_space())
            MetadataCatalog.get(name).set(
                builtin_key=self.key, missing_remedy=self._remedy(root, split), **self.metadata(root, split)
            )
            DatasetCatalog.remove(name)
            DatasetCatalog.register(name, partial(self.load, root, split))
        return list(self.names.values())
