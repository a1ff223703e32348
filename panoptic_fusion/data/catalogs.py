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
    """Puts the registered datasets back as they were before its block, so that their names can be used for others."""
    registries = (DatasetCatalog, MetadataCatalog, REGISTERED, LABEL_SPACES)
    *before, label_spaces = (dict(registry) for registry in registries)
    try:
        yield
    finally:
        read = {name: space for name, space in LABEL_SPACES.items() if before[2].get(name) == REGISTERED.get(name)}
        for registry, content in zip(registries, (*before, {**label_spaces, **read}), strict=True):
            registry.clear()
            registry.update(content)
