"""What this process has registered: the files and classes of datasets, beside detectron2's catalogs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from detectron2.data import DatasetCatalog, MetadataCatalog

from .label_space import LabelSpace

if TYPE_CHECKING:
    from .coco_panoptic import PanopticFiles

REGISTERED: dict[str, PanopticFiles] = {}
LABEL_SPACES: dict[str, LabelSpace] = {}  # of datasets whose JSON has been read


@contextlib.contextmanager
def forgotten_datasets() -> Iterator[None]:
    """Puts the registered datasets back as they were before its block, so that their names can be used for others.

    Built-in datasets that were registered on their first use, in the block, stay.
    """
    registries = (DatasetCatalog, MetadataCatalog, REGISTERED, LABEL_SPACES)
    before = [dict(registry) for registry in registries]
    try:
        yield
    finally:
        built_in = {name for name, metadata in MetadataCatalog.items() if metadata.get("builtin_key")} - set(before[1])
        kept = [{name: registry[name] for name in built_in & set(registry)} for registry in registries]
        same_files = {name for name, files in REGISTERED.items() if before[2].get(name) == files}
        kept[3] |= {name: space for name, space in LABEL_SPACES.items() if name in same_files}  # read in the block
        for registry, old, new in zip(registries, before, kept, strict=True):
            registry.clear()
            registry.update(old | new)
