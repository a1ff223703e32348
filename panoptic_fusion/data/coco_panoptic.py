"""Registers datasets in COCO panoptic format, with one call or one entry of DATASETS.REGISTER in a YAML file.

Registration reads nothing. The JSON is read on first access to the dataset, its label space, or its metadata.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode
from pycocotools import mask as mask_api

from ..errors import ConfigError
from ..files import file_state
from .catalogs import LABEL_SPACES, REGISTERED
from .coco_json import PanopticJson, is_number, paused_gc, read_instances_json, read_panoptic_json
from .dataset_errors import DatasetError, Report, raise_error
from .image_header import MAX_PIXELS
from .instances_json import write_instances_json
from .label_space import LabelSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanopticFiles:
    """Paths of a dataset: image folder, PNG folder, COCO panoptic JSON, and optionally a COCO instances JSON.

    ~ and $VARIABLES in the paths are expanded. The instances JSON provides masks that may overlap. Its image ids and
    category ids must match the panoptic JSON.
    """

    images: str
    panoptic_root: str
    panoptic_json: str
    instances_json: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            if path is not None:
                object.__setattr__(self, field.name, os.path.expanduser(os.path.expandvars(os.fspath(path))))

    def check_folders(self, report: Report = raise_error) -> None:
        """Reports missing folders."""
        for what, folder in (("images", self.images), ("panoptic_root", self.panoptic_root)):
            if not os.path.isdir(folder):
                report(DatasetError(f"the folder is missing ({what})", folder, "missing file"))


@dataclass(frozen=True)
class _Stored:
    """Valid content of the JSON files of a dataset, read once per process.

    `states`: of both files when they were read. `dicts`: pickled, which takes a twentieth of the memory and gives each
    caller lists of its own.
    """

    states: list[list[int] | None]
    label_space: LabelSpace
    dicts: bytes


_OF_FILES = ("image_root", "panoptic_root", "panoptic_json", "instances_json", "evaluator_type")  # set in metadata
_STORED: dict[PanopticFiles, _Stored] = {}


def register_panoptic(
    name: str, images: str, panoptic_root: str, panoptic_json: str, instances_json: str | None = None
) -> None:
    """Registers a dataset in detectron2's DatasetCatalog and MetadataCatalog under `name`, without reading it.

    The other arguments are the fields of `PanopticFiles`. A second call with the same arguments does nothing. A call
    with different arguments, or with a name that other code has registered, raises ConfigError. Only the names of
    built-in datasets (see `panoptic_fusion.data.datasets`) can be moved to other files.
    """
    files = PanopticFiles(images, panoptic_root, panoptic_json, instances_json)
    if REGISTERED.get(name) == files and name in DatasetCatalog:
        return
    builtin_key = MetadataCatalog.get(name).get("builtin_key") if name in DatasetCatalog else None
    if builtin_key is not None:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        MetadataCatalog.get(name).set(builtin_key=builtin_key)
    if name in DatasetCatalog:
        before = f"with other arguments: {asdict(REGISTERED[name])}" if name in REGISTERED else "by other code"
        raise ConfigError(f"dataset {name!r} is already registered, {before}; choose another name")
    present = MetadataCatalog[name].as_dict() if name in MetadataCatalog else {}
    # Without a dataset, classes under this name come from a trained model whose data was not available, and paths from
    # a dataset that was removed from DatasetCatalog alone.
    present = {key: value for key, value in present.items() if key not in (*_LazyMetadata._LAZY, *_OF_FILES)}
    metadata = _LazyMetadata(**{**present, "name": name})
    metadata.set(image_root=files.images, panoptic_root=files.panoptic_root, panoptic_json=files.panoptic_json)
    metadata.set(evaluator_type="panoptic_fusion")
    if files.instances_json is not None:
        metadata.set(instances_json=files.instances_json)
    LABEL_SPACES.pop(name, None)
    REGISTERED[name] = files
    MetadataCatalog[name] = metadata
    DatasetCatalog.register(name, partial(_load_registered, name))


def register_from_config(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Registers each entry of `cfg.DATASETS.REGISTER`: a mapping of keyword arguments for `register_panoptic`.

    Returns the names. Raises ConfigError, see `check_entries`.
    """
    entries = list(entries)
    check_entries(entries)
    for entry in entries:
        register_panoptic(**entry)
    return [entry["name"] for entry in entries]


def check_entries(entries: Iterable[Mapping[str, Any]]) -> None:
    """Checks the entries of `cfg.DATASETS.REGISTER`.

    Raises:
        ConfigError: a key of an entry is unknown, missing, or not a string. The message names the entry and the key.
    """
    required = ("name", "images", "panoptic_root", "panoptic_json")
    known = (*required, "instances_json")
    for index, entry in enumerate(entries):
        where = f"DATASETS.REGISTER[{index}]"
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{where} must be a mapping with the keys {', '.join(known)}, not {entry!r}")
        for key, value in entry.items():
            if key not in known:
                raise ConfigError(f"{where} has an unknown key {key!r}; the keys are {', '.join(known)}")
            if not (isinstance(value, str) and value) and not (key == "instances_json" and value is None):
                raise ConfigError(f"{where}: {key} must be a text, not {value!r}")
        for key in required:
            if key not in entry:
                raise ConfigError(f"{where} has no key {key!r}; it needs {', '.join(required)}")


def panoptic_files(name: str) -> PanopticFiles:
    """Returns the paths of a registered dataset in COCO panoptic format. Raises ConfigError for any other name."""
    if name in REGISTERED:
        return REGISTERED[name]
    metadata = MetadataCatalog[name] if name in DatasetCatalog and name in MetadataCatalog else None
    paths = [metadata.get(key) if metadata else None for key in ("image_root", "panoptic_root", "panoptic_json")]
    if None in paths:
        known = ", ".join(sorted(REGISTERED)) or "none"
        raise ConfigError(f"no panoptic dataset {name!r} is registered (registered: {known}); see DATASETS.REGISTER")
    return PanopticFiles(*paths, metadata.get("instances_json"))


def get_label_space(name: str) -> LabelSpace:
    """Returns the label space of a registered dataset; the first call reads its JSON and fills its metadata.

    Raises ConfigError if the name is unknown and DatasetError if the JSON is missing or invalid.
    """
    if name not in LABEL_SPACES:
        if name not in REGISTERED and MetadataCatalog.get(name).get("stuff_classes") is not None:
            return LabelSpace.from_metadata(MetadataCatalog.get(name))
        path = panoptic_files(name).panoptic_json
        _check_there(name, path)
        try:
            label_space = _load_once(panoptic_files(name)).label_space
        except DatasetError:  # in what only the images need, or in the categories as well
            label_space = read_panoptic_json(path).label_space
        _remember(name, label_space)
    return LABEL_SPACES[name]


def load_panoptic(files: PanopticFiles, report: Report = raise_error) -> tuple[LabelSpace | None, list[dict[str, Any]]]:
    """Reads the JSON files of a dataset; opens no image.

    Returns its label space and one dict per image, in the order of the JSON's images:
    `file_name`, `image_id`, `height`, `width`, `pan_seg_file_name`, and
    `segments_info`, a list of {id, category_id (contiguous thing id if isthing, else stuff id), isthing (bool), iscrowd
    (0 or 1), and, if present in the JSON, area and bbox}; with an instances JSON also
    `annotations`, a list of {bbox (XYWH), bbox_mode, segmentation (RLE or polygons), category_id (contiguous thing id),
    iscrowd, and, if present in the JSON, area}.
    Each error is passed to `report`, which by default raises it as a DatasetError. Images without an annotation are
    left out; their number is logged. Without `report`, each file is read once per process until it changes.
    """
    if report is not raise_error:
        return _read(files, report)
    files.check_folders()
    stored = _load_once(files)
    with paused_gc():
        return stored.label_space, pickle.loads(stored.dicts)  # pickled by this process


def _load_once(files: PanopticFiles) -> _Stored:
    """Returns the content of a dataset's JSON files, reading them only on the first call and after a change."""
    states = [file_state(path) for path in (files.panoptic_json, files.instances_json) if path is not None]
    stored = _STORED.get(files)
    if stored is None or stored.states != states:
        label_space, dicts = _read(files, raise_error)
        stored = _STORED[files] = _Stored(states, label_space, pickle.dumps(dicts))
    return stored


@paused_gc()
def _read(files: PanopticFiles, report: Report) -> tuple[LabelSpace | None, list[dict[str, Any]]]:
    """Reads the JSON files, see `load_panoptic`."""
    panoptic = read_panoptic_json(files.panoptic_json, report)
    left_out = len(panoptic.images.keys() - panoptic.annotations.keys())
    if left_out:
        text = "%s: %d of %d images have no annotation and are left out"
        logger.warning(text, files.panoptic_json, left_out, len(panoptic.images))
    files.check_folders(report)
    instances = None
    if files.instances_json is not None and panoptic.label_space is not None:
        instances = read_instances_json(files.instances_json, panoptic.images, panoptic.label_space, report)
    return panoptic.label_space, dataset_dicts(files, panoptic, instances)


def dataset_dicts(
    files: PanopticFiles, panoptic: PanopticJson, instances: Mapping[Any, list[dict[str, Any]]] | None
) -> list[dict[str, Any]]:
    """Returns the dicts described in `load_panoptic` for all images that have an annotation."""
    if panoptic.label_space is None:
        return []
    contiguous = panoptic.label_space.contiguous_ids()
    dicts = []
    for image_id, image in panoptic.images.items():
        annotation = panoptic.annotations.get(image_id)
        if annotation is None:
            continue
        record = {
            "file_name": os.path.join(files.images, image["file_name"]),
            "image_id": image_id,
            "height": image["height"],
            "width": image["width"],
            "pan_seg_file_name": os.path.join(files.panoptic_root, annotation["file_name"]),
            "segments_info": [
                _segment(s, contiguous) for s in annotation["segments_info"] if s["category_id"] in contiguous
            ],
        }
        if instances is not None:
            entries = instances.get(image_id, ())
            record["annotations"] = [_instance(e, contiguous, image["height"], image["width"]) for e in entries]
        dicts.append(record)
    return dicts


def unannotated_images(name: str) -> list[dict[str, Any]]:
    """Returns the images of a registered dataset that have no annotation, as dicts of all-void images.

    The format is as in `load_panoptic`, with an empty `segments_info` and without `pan_seg_file_name`.
    """
    files = panoptic_files(name)
    panoptic = read_panoptic_json(files.panoptic_json)
    missing = {i: image for i, image in panoptic.images.items() if i not in panoptic.annotations}
    void = {i: {"file_name": "", "segments_info": []} for i in missing}
    dicts = dataset_dicts(files, replace(panoptic, images=missing, annotations=void), None)
    return [{key: value for key, value in record.items() if key != "pan_seg_file_name"} for record in dicts]


def derive_instances_json(name: str, path: str, max_pixels: int = MAX_PIXELS) -> None:
    """Writes the things of a registered dataset as a COCO instances JSON, see `write_instances_json`."""
    dicts, files = DatasetCatalog.get(name), panoptic_files(name)
    write_instances_json(dicts, get_label_space(name), files.images, path, max_pixels)


class _LazyMetadata(Metadata):
    """Metadata that reads the dataset's JSON when classes, colors, or id tables are first accessed."""

    _LAZY = (
        "thing_classes",
        "stuff_classes",
        "thing_colors",
        "stuff_colors",
        "thing_dataset_id_to_contiguous_id",
        "stuff_dataset_id_to_contiguous_id",
        "ignore_label",
    )

    def __getattr__(self, key: str) -> Any:
        name = self.__dict__.get("name")
        # While `get_label_space` fills this object, the label space is known and the entry is just not set yet.
        if key in self._LAZY and name in REGISTERED and name not in LABEL_SPACES:
            get_label_space(name)
            return self.__dict__[key]
        return super().__getattr__(key)


def _remember(name: str, label_space: LabelSpace) -> None:
    LABEL_SPACES[name] = label_space
    label_space.apply_to_metadata(MetadataCatalog.get(name))


def _check_there(name: str, path: str) -> None:
    """Checks that the dataset's JSON file exists; the message helps if a relative path starts in another folder."""
    if os.path.isfile(path):
        return
    where = "" if os.path.isabs(path) else f", relative to the working folder: {os.path.abspath(path)}"
    remedy = missing_remedy(name, path)
    make = f"; {remedy}" if remedy else ""
    raise DatasetError(f"the file is missing (panoptic_json of dataset {name!r}{where}){make}", path, "missing file")


def missing_remedy(name: str, path: str) -> str:
    """Returns how to make the missing JSON of a dataset: "" unless it is a built-in dataset or the toy scenes."""
    if path.startswith("datasets/toy/"):
        return "`panoptic-fusion prepare toy` makes it"
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog else None
    return metadata.get("missing_remedy", "") if metadata else ""  # set for the built-in datasets


def _load_registered(name: str) -> list[dict[str, Any]]:
    files = panoptic_files(name)
    label_space, dicts = load_panoptic(files)
    if name not in LABEL_SPACES:
        _remember(name, label_space)
    elif LABEL_SPACES[name] != label_space:
        text = f"the categories have changed since this process first read them for dataset {name!r}: start it again"
        raise DatasetError(text, files.panoptic_json, "bad category")
    return dicts


def _segment(segment: Mapping[str, Any], contiguous: Mapping[int, tuple[bool, int]]) -> dict[str, Any]:
    isthing, category_id = contiguous[segment["category_id"]]
    record = {
        "id": segment["id"],
        "category_id": category_id,
        "isthing": isthing,
        "iscrowd": int(segment.get("iscrowd", 0)),
    }
    if "area" in segment:
        record["area"] = int(segment["area"])
    if "bbox" in segment:
        record["bbox"] = segment["bbox"]
    return record


def _instance(
    entry: Mapping[str, Any], contiguous: Mapping[int, tuple[bool, int]], height: int, width: int
) -> dict[str, Any]:
    segmentation = entry["segmentation"]
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        segmentation = mask_api.frPyObjects(segmentation, height, width)
    if "bbox" in entry:
        bbox = entry["bbox"]
    else:
        rles = mask_api.frPyObjects(segmentation, height, width) if isinstance(segmentation, list) else [segmentation]
        bbox = mask_api.toBbox(mask_api.merge(rles)).tolist()
    record = {
        "bbox": bbox,
        "bbox_mode": BoxMode.XYWH_ABS,
        "segmentation": segmentation,
        "category_id": contiguous[entry["category_id"]][1],
        "iscrowd": int(entry.get("iscrowd", 0)),
    }
    if is_number(entry.get("area")):
        record["area"] = entry["area"]
    return record
