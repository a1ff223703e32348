"""Reads one binary PNG per object, named `<image>_<class>_<number>.png`, next to the images or in another folder."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from typing import Any

from ..dataset_errors import DatasetError
from .pixels import mask_shape, read_map
from .shapes import Dataset, ImageAnnotation
from .tree import Tree, split_of

NAME = "binary-masks"
_NAME = re.compile(r"(.+)_([^_\d][^_]*)_(\d+)")


def _masks(tree: Tree) -> tuple[dict[str, list[tuple[str, str]]], dict[str, list[tuple[str, str]]]]:
    """Returns the masks (file, class) of each image file, and PNGs named like masks by the stem of their image."""
    images = {os.path.splitext(os.path.basename(file))[0]: file for file in tree.images()}
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    others: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in tree.having(".png"):
        match = _NAME.fullmatch(os.path.splitext(os.path.basename(file))[0])
        if match and match[1] not in images:
            others[match[1]].append((file, match[2]))
        elif match and images[match[1]] != file:
            found[images[match[1]]].append((file, match[2]))
    return found, others


def recognize(tree: Tree) -> bool:
    """Returns whether a tree of files has this format; see `formats`."""
    pngs = len(tree.having(".png"))
    return pngs > 0 and 2 * sum(map(len, _masks(tree)[0].values())) > pngs


def open_dataset(tree: Tree) -> Dataset:
    """Returns the dataset in a tree of files; see `formats`."""
    found, others = _masks(tree)
    dataset = Dataset(NAME, {}, read, order="smaller-in-front")
    for image, masks in sorted(found.items()):
        paths = [(str(tree.path(file)), label) for file, label in masks]
        item = {"image": str(tree.path(image)), "masks": paths, "split": split_of(os.path.dirname(image))}
        dataset.items[image] = item
    known = {label for masks in found.values() for _, label in masks}
    for stem, all_masks in sorted(others.items()):
        masks = [(file, label) for file, label in all_masks if file not in found]
        if known & {label for _, label in masks}:
            file, more = str(tree.path(masks[0][0])), f" and {len(masks) - 1} more" if len(masks) > 1 else ""
            text = f"the image {stem!r} of this mask{more} was not found. Put it next to the masks, or remove them."
            dataset.faults.append(DatasetError(text, file, "missing image"))
    return dataset


def read(item: dict[str, Any]) -> ImageAnnotation:
    """Reads the masks of one image."""
    annotation = ImageAnnotation(item["masks"][0][0], [item["image"]], None, split=item["split"])
    for file, label in item["masks"]:
        annotation.more_files.append(file)
        try:
            pixels = read_map(file)
        except DatasetError as error:
            annotation.faults.append(error)
            continue
        mask = pixels > 0 if pixels.ndim == 2 else pixels[..., :3].any(-1)
        if annotation.size is None:
            annotation.size = mask.shape
        if mask.shape != annotation.size:
            height, width = annotation.size
            text = (
                f"the mask is {mask.shape[1]}x{mask.shape[0]}, others of its image {width}x{height}. Export it again."
            )
            annotation.faults.append(DatasetError(text, file, "wrong PNG size"))
            continue
        annotation.shapes.append(mask_shape(mask, label, os.path.basename(file)))
    return annotation
