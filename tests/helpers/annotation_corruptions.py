"""Ways to damage an annotation folder; each must be reported with the file that is damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

CLASS_LISTS = {"categories", "classes", "labels_config"}
SIZE_KEYS = {"height", "width", "imageHeight", "imageWidth", "original_height", "original_width", "nrows", "ncols"}
MASK_KEYS = {"counts", "rle", "mask", "data", "dense_rle"}
BAD_NUMBERS = ["abc", None, float("nan"), float("inf"), -1e30, [], {}]


class NotApplicable(Exception):
    """The folder has nothing that this damage could be done to."""


def annotation_files(root: Path, *suffixes: str) -> list[Path]:
    names = {"meta.json", "classes.json", "labels.json", "labels.txt", "labelmap.txt", "data.yaml"}
    return [p for p in sorted(root.rglob("*")) if p.suffix in suffixes and p.name not in names]


def image_files(root: Path) -> list[Path]:
    found = (p for p in sorted(root.rglob("*")) if p.is_file())
    return [p for p in found if p.suffix == ".jpg" or "leftImg8bit" in p.name or "frame_" in p.name]


def map_files(root: Path) -> list[Path]:
    images = set(image_files(root))
    return [p for p in sorted(root.rglob("*.png")) if p not in images and "Masks" not in p.parts]


def pick(rng: np.random.Generator, found: list) -> Any:
    if not found:
        raise NotApplicable
    return found[int(rng.integers(len(found)))]


def nodes(content: Any, inside: str = "") -> Iterator[tuple[Any, Any, Any, str]]:
    """(container, key, value, name of the list around it) of every node of a json, lists of classes left out."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(pairs):
        if key in CLASS_LISTS:
            continue
        yield content, key, value, inside
        yield from nodes(value, key if isinstance(key, str) else inside)


def is_points(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 3:
        return False
    if isinstance(value[0], dict):
        return set(value[0]) == {"x", "y"}
    if isinstance(value[0], list):
        return len(value[0]) == 2 and isinstance(value[0][0], int | float)
    return False


def change_json(rng: np.random.Generator, root: Path, want: Callable, change: Callable) -> Path:
    path = pick(rng, annotation_files(root, ".json"))
    content = json.loads(path.read_text(encoding="utf-8"))
    container, key, value, _ = pick(rng, [n for n in nodes(content) if want(*n)])
    change(container, key, value)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def truncated(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, annotation_files(root, ".json", ".xml"))
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(1, len(data) - 2))])
    return path


def emptied(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, annotation_files(root, ".json", ".xml"))
    path.write_bytes(b"")
    return path


def garbage(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, annotation_files(root, ".json", ".xml", ".txt"))
    path.write_bytes(b"\xff\xfe\x00" + rng.bytes(200))
    return path


def bad_coordinate(rng: np.random.Generator, root: Path) -> Path:
    bad = BAD_NUMBERS[int(rng.integers(len(BAD_NUMBERS)))]

    def change(container: Any, key: Any, value: list) -> None:
        index = int(rng.integers(len(value)))
        if isinstance(value[index], dict):
            value[index]["x"] = bad
        else:
            value[index][0] = bad

    return change_json(rng, root, lambda c, k, v, i: is_points(v), change)


def two_points(rng: np.random.Generator, root: Path) -> Path:
    return change_json(rng, root, lambda c, k, v, i: is_points(v), lambda c, k, v: c.__setitem__(k, v[:2]))


def far_outside(rng: np.random.Generator, root: Path) -> Path:
    def change(container: Any, key: Any, value: list) -> None:
        moved = [{"x": p["x"] + 5000, "y": p["y"]} if isinstance(p, dict) else [p[0] + 5000, p[1]] for p in value]
        container[key] = moved

    return change_json(rng, root, lambda c, k, v, i: is_points(v), change)


def bad_label(labels: list[str]) -> Callable:
    def apply(rng: np.random.Generator, root: Path) -> Path:
        bad = [None, 7, "", [], {}][int(rng.integers(5))]
        want = lambda c, k, v, i: isinstance(v, str) and v in labels and k not in ("note",)  # noqa: E731
        return change_json(rng, root, want, lambda c, k, v: c.__setitem__(k, bad))

    return apply


def bad_size(rng: np.random.Generator, root: Path) -> Path:
    bad = [0, -4, "wide", 10**9, 77][int(rng.integers(5))]

    def want(container: Any, key: Any, value: Any, inside: str) -> bool:
        return key in SIZE_KEYS and isinstance(value, int)

    # 0 stands for an unknown size in labelme and others, which the image then tells
    return change_json(rng, root, want, lambda c, k, v: c.__setitem__(k, bad if bad != 0 else -1))


def bad_mask(rng: np.random.Generator, root: Path) -> Path:
    def change(container: Any, key: Any, value: Any) -> None:
        container[key] = value[: len(value) // 2] if len(value) > 5 else value + value

    def want(container: Any, key: Any, value: Any, inside: str) -> bool:
        return key in MASK_KEYS and isinstance(value, list | str) and len(value) > 1

    return change_json(rng, root, want, change)


def bad_attribute(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, annotation_files(root, ".xml"))
    tree = ElementTree.parse(path)
    keys = ("points", "rle", "label", "width", "height", "left", "z_order")
    found = [(e, k) for e in tree.iter() for k in e.keys() if k in keys and e.get("outside") != "1"]
    texts = [(e, None) for e in tree.iter() if e.tag in ("x", "y", "name", "nrows", "ncols", "mask") and e.text]
    texts = [pair for pair in texts if not tree.getroot().tag == "annotations"]
    element, key = pick(rng, found + texts)
    if key is None:
        element.text = "" if element.tag in ("name", "mask") else "abc"
    else:
        element.set(key, "" if key == "label" else "nan" if key == "z_order" else "1,x;2,3;abc,-")
    tree.write(path, encoding="utf-8")
    return path


def bad_line(rng: np.random.Generator, root: Path) -> Path:
    paths = [path for path in annotation_files(root, ".txt") if path.parent.name in ("train", "val")]
    path = pick(rng, paths)
    lines = path.read_text().splitlines()
    index = int(rng.integers(len(lines)))
    words = lines[index].split()
    kind = int(rng.integers(5))
    lines[index] = [
        " ".join(["999", *words[1:]]),
        " ".join([*words[:-1], "nan"]),
        " ".join([*words[:-1]]),
        " ".join([words[0], "0.5", "0.5"]),
        " ".join([words[0], *("300.5" for _ in words[1:])]),
    ][kind]
    path.write_text("\n".join(lines))
    return path


def bad_csv(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, annotation_files(root, ".csv"))
    lines = path.read_text(encoding="utf-8").splitlines()
    index = int(rng.integers(1, len(lines)))
    before = lines[index]
    lines[index] = re.sub(r'(""all_points_x"": \[|"\[7, )\d+', r"\1null", before)
    if lines[index] == before:  # a head of VIA 3
        raise NotApplicable
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def lost_image(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, image_files(root))
    path.unlink()
    return path


def damaged_image(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, image_files(root))
    path.write_bytes(path.read_bytes()[: int(rng.integers(0, 12))])
    return path


def other_image(rng: np.random.Generator, root: Path) -> Path:
    if (root / "data.yaml").is_file():  # YOLO: its coordinates are fractions of any size
        raise NotApplicable
    path = pick(rng, image_files(root))
    Image.new("RGB", (31, 17)).save(path)
    return path


def damaged_map(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, map_files(root))
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(0, len(data) // 2))])
    return path


def other_map(rng: np.random.Generator, root: Path) -> Path:
    path = pick(rng, map_files(root))
    with Image.open(path) as image:
        smaller = image.resize((40, 30), Image.Resampling.NEAREST)
    smaller.save(path)
    return path


def lost_map(rng: np.random.Generator, root: Path) -> Path:
    maps = [path for path in map_files(root) if path.parent.name in ("semantic", "masks") and len(map_files(root)) > 3]
    path = pick(rng, [path for path in maps if (root / "instances").is_dir() or (root / "panoptic.json").is_file()])
    path.unlink()
    return path


def all_corruptions(labels: list[str]) -> dict[str, Callable[[np.random.Generator, Path], Path]]:
    found = (
        truncated, emptied, garbage, bad_coordinate, two_points, far_outside, bad_size, bad_mask, bad_attribute,
        bad_line, bad_csv, lost_image, damaged_image, other_image, damaged_map, other_map, lost_map,
    )  # fmt: skip
    return {**{function.__name__: function for function in found}, "bad_label": bad_label(labels)}
