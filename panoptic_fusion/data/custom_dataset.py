"""Custom datasets: finds the files in a folder, and splits a dataset without a validation split."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from ..errors import UserError
from ..files import write_json
from .coco_json import read_panoptic_json
from .coco_panoptic import PanopticFiles

# Possible locations of images, PNGs, panoptic JSON, and (optional) instances JSON; {split} is "train" or "val".
LAYOUTS = (
    ("{split}/images", "{split}/panoptic", "{split}/panoptic.json", "{split}/instances.json"),
    (
        "images/{split}",
        "annotations/panoptic_{split}",
        "annotations/panoptic_{split}.json",
        "annotations/instances_{split}.json",
    ),
)
UNDIVIDED = ("images", "panoptic", "panoptic.json", "instances.json")


def holds_data(folder: str | os.PathLike) -> bool:
    """Returns whether a folder holds a panoptic JSON under one of the names in `LAYOUTS` or `UNDIVIDED`."""
    names = [name.format(split=split) for _, _, name, _ in LAYOUTS for split in ("train", "val")]
    return any(Path(os.path.expanduser(folder), name).is_file() for name in (*names, UNDIVIDED[2]))


def find_dataset(folder: str | os.PathLike) -> dict[str, PanopticFiles]:
    """Finds the files of a dataset by the names in `LAYOUTS` or `UNDIVIDED`.

    Returns:
        {"train": ..., "val": ...}, or only {"train": ...} without a validation split.

    Raises:
        UserError: if the folder matches none of the layouts (the message lists them), or there are validation images
            without their JSON.
    """
    folder = Path(os.path.realpath(os.path.expanduser(folder)))
    for layout in LAYOUTS:
        found = {split: _files(folder, [name.format(split=split) for name in layout]) for split in ("train", "val")}
        if found["train"] is not None:
            images, _, panoptic_json, _ = (folder / name.format(split="val") for name in layout)
            if found["val"] is None and images.is_dir():
                raise UserError(
                    f"{images} exists, but {panoptic_json} does not: add it, or move the folder away to hold out "
                    "training images for validation"
                )
            return {split: files for split, files in found.items() if files is not None}
    files = _files(folder, UNDIVIDED)
    if files is not None:
        return {"train": files}
    expected = " or ".join(", ".join(f"{name.format(split='train')}" for name in x[:3]) for x in (*LAYOUTS, UNDIVIDED))
    what = "has none of these" if folder.is_dir() else "does not exist"
    raise UserError(f"{folder} {what}: images, PNGs and COCO panoptic JSON as {expected}; see docs/your_own_data.md")


def split_data(files: PanopticFiles, folder: str | os.PathLike, share: float = 0.2) -> dict[str, PanopticFiles]:
    """Splits a dataset into training and validation; the split is the same on every call and every machine.

    An image goes to the validation split if the SHA-1 hash of its file name, scaled to [0, 1), is below `share`. The
    assignment therefore does not change when images are added. If a split would be empty, it gets the image nearest to
    it. Images without an annotation go to training, where DATASETS.UNANNOTATED determines how they are used.

    Args:
        files: locations of the dataset's files.
        folder: existing folder; `panoptic_train.json`, `panoptic_val.json`, and, if the dataset has an instances
            JSON, `instances_train.json` and `instances_val.json` are written to it. Images and PNGs stay where they
            are.
        share: average fraction of the images that go to validation, in (0, 1).

    Returns:
        {"train": ..., "val": ...}.

    Raises:
        UserError: if `share` is out of range, or there is only one image.
        DatasetError: if the JSON is missing or invalid.
    """
    if not 0 < share < 1:
        raise UserError(f"--val-share is {share}: use a number in (0, 1)")
    annotated = read_panoptic_json(files.panoptic_json).annotations
    content = json.loads(Path(files.panoptic_json).read_bytes())
    names = {image["id"]: str(image["file_name"]) for image in content["images"] if image["id"] in annotated}
    if len(names) < 2:
        raise UserError(
            f"{files.panoptic_json} has {len(names)} annotated image, and a split needs at least 2; add images, or a "
            "validation split of your own (it may contain the same image if you only want to try it out)"
        )
    places = {i: int(hashlib.sha1(name.encode()).hexdigest(), 16) / 16**40 for i, name in names.items()}
    order = sorted(places, key=places.get)
    count = min(max(sum(place < share for place in places.values()), 1), len(order) - 1)
    unannotated = {image["id"] for image in content["images"]} - names.keys()
    parts = {"val": set(order[:count]), "train": set(order[count:]) | unannotated}
    result = {}
    for split in ("train", "val"):
        own = replace(files, panoptic_json=_write_part(files.panoptic_json, folder, f"panoptic_{split}", parts[split]))
        if files.instances_json is not None:
            part = _write_part(files.instances_json, folder, f"instances_{split}", parts[split])
            own = replace(own, instances_json=part)
        result[split] = own
    return result


def registration(name: str, files: PanopticFiles) -> dict[str, str]:
    """Returns an entry of DATASETS.REGISTER."""
    return {"name": name, **{key: value for key, value in asdict(files).items() if value is not None}}


def _files(folder: Path, names: list[str] | tuple[str, ...]) -> PanopticFiles | None:
    images, root, panoptic_json, instances_json = (folder / name for name in names)
    if not panoptic_json.is_file():
        return None
    instances = str(instances_json) if instances_json.is_file() else None
    return PanopticFiles(str(images), str(root), str(panoptic_json), instances)


def _write_part(path: str, folder: str | os.PathLike, name: str, image_ids: set) -> str:
    content = json.loads(Path(path).read_bytes())
    if "images" in content:  # optional in an instances JSON
        content["images"] = [image for image in content["images"] if image["id"] in image_ids]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in image_ids]
    part = os.path.join(folder, f"{name}.json")
    write_json(part, content)
    return part
