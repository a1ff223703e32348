"""Ways to break a tiny dataset, for the fuzz of the checker: each changes one thing and says what must be reported."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


@dataclass
class Tree:
    """A tiny dataset in memory (the jsons) and on disk (the rest); a corruption changes it in place."""

    root: Path
    rng: np.random.Generator
    panoptic: dict[str, Any]
    instances: dict[str, Any]
    raw_panoptic: bytes | None = None  # written instead of `panoptic`

    def pick(self, items: list) -> Any:
        return items[int(self.rng.integers(len(items)))]

    def annotation(self) -> dict:
        return self.pick(self.panoptic["annotations"])

    def image(self) -> dict:
        return self.pick(self.panoptic["images"])

    def image_of(self, annotation: dict) -> dict:
        return next(i for i in self.panoptic["images"] if i["id"] == annotation["image_id"])

    def png(self, annotation: dict) -> Path:
        return self.root / "png" / annotation["file_name"]

    def instance(self) -> dict:
        return self.pick(self.instances["annotations"])


@dataclass
class Expected:
    """The fault that must be reported, with a text that its message must hold, and kinds that may come along."""

    kind: str
    text: str
    also: set[str] = field(default_factory=set)
    training: bool = True  # whether training must stop with this fault, too


PNG_FAULTS = {"id without segment", "segment without pixel", "area mismatch", "bbox mismatch"}
CORRUPTIONS: list[Callable[[Tree], Expected]] = []


def corruption(function: Callable[[Tree], Expected]) -> Callable[[Tree], Expected]:
    CORRUPTIONS.append(function)
    return function


# -- files ------------------------------------------------------------------------------------------------------------


@corruption
def missing_image(tree: Tree) -> Expected:
    name = tree.image()["file_name"]
    (tree.root / "images" / name).unlink()
    return Expected("missing image", name)


@corruption
def missing_png(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.png(annotation).unlink()
    return Expected("missing PNG", annotation["file_name"])


@corruption
def renamed_png(tree: Tree) -> Expected:
    annotation = tree.annotation()
    annotation["file_name"] = tree.pick(["nowhere.png", "a/b.png", ".", "x" * 300])
    if len(annotation["file_name"]) > 255:  # no file system can have it
        return Expected("bad annotation entry", "needs the file_name of a PNG, not 'xxx")
    return Expected("missing PNG", annotation["file_name"] if annotation["file_name"] != "." else "png")


@corruption
def damaged_png(tree: Tree) -> Expected:
    annotation = tree.annotation()
    data = bytearray(tree.png(annotation).read_bytes())
    data[int(tree.rng.integers(len(data)))] ^= 1 << int(tree.rng.integers(8))
    tree.png(annotation).write_bytes(data)
    return Expected("corrupt PNG", annotation["file_name"])


@corruption
def truncated_png(tree: Tree) -> Expected:
    annotation = tree.annotation()
    data = tree.png(annotation).read_bytes()
    tree.png(annotation).write_bytes(data[: int(tree.rng.integers(len(data)))])
    return Expected("corrupt PNG", annotation["file_name"])


@corruption
def png_is_something_else(tree: Tree) -> Expected:
    annotation = tree.annotation()
    buffer = io.BytesIO()
    Image.open(tree.png(annotation)).save(buffer, tree.pick(["jpeg", "bmp", "gif", "tiff"]))
    tree.png(annotation).write_bytes(tree.pick([buffer.getvalue(), tree.rng.bytes(200)]))
    return Expected("corrupt PNG", annotation["file_name"])


@corruption
def png_not_rgb(tree: Tree) -> Expected:
    annotation = tree.annotation()
    mode = tree.pick(["L", "P", "RGBA", "LA", "1", "I;16"])
    Image.open(tree.png(annotation)).convert(mode).save(tree.png(annotation))
    return Expected("PNG not RGB", annotation["file_name"])


@corruption
def png_of_other_size(tree: Tree) -> Expected:
    annotation = tree.annotation()
    image = Image.open(tree.png(annotation))
    width, height = image.size
    size = tree.pick([(width + 1, height), (width, height - 1), (2 * width, 2 * height), (1, 1), (width // 2, height)])
    image.resize(size, Image.NEAREST).save(tree.png(annotation))
    return Expected("wrong PNG size", annotation["file_name"])


@corruption
def corrupt_image(tree: Tree) -> Expected:
    path = tree.root / "images" / tree.image()["file_name"]
    data = path.read_bytes()
    path.write_bytes(tree.pick([b"", data[: len(data) // 2], tree.rng.bytes(300), b"<html>not found</html>"]))
    return Expected("corrupt image", path.name)


@corruption
def image_of_other_size(tree: Tree) -> Expected:
    path = tree.root / "images" / tree.image()["file_name"]
    image = Image.open(path)
    size = (image.size[0] + int(tree.rng.integers(1, 9)), image.size[1])
    image.resize(size).save(path)
    return Expected("wrong image size", path.name)


@corruption
def size_in_json(tree: Tree) -> Expected:
    image = tree.image()
    image[tree.pick(["height", "width"])] += int(tree.rng.integers(1, 50))
    return Expected("wrong image size", image["file_name"], {"wrong PNG size", "instance of wrong size"})


@corruption
def missing_folder(tree: Tree) -> Expected:
    name = tree.pick(["images", "png"])
    os.rename(tree.root / name, tree.root / "elsewhere")
    return Expected("missing file", name)


# -- PNG and segments_info --------------------------------------------------------------------------------------------


@corruption
def id_without_segment(tree: Tree) -> Expected:
    annotation = tree.annotation()
    removed = annotation["segments_info"].pop(int(tree.rng.integers(len(annotation["segments_info"]))))
    return Expected("id without segment", f"{annotation['file_name']}: id {removed['id']} ")


@corruption
def stray_pixel(tree: Tree) -> Expected:
    annotation = tree.annotation()
    rgb = np.array(Image.open(tree.png(annotation)))
    rgb[int(tree.rng.integers(rgb.shape[0])), int(tree.rng.integers(rgb.shape[1]))] ^= 0x55
    Image.fromarray(rgb).save(tree.png(annotation))
    return Expected("id without segment", annotation["file_name"], PNG_FAULTS)


@corruption
def segment_without_pixel(tree: Tree) -> Expected:
    annotation = tree.annotation()
    extra = {"id": 16_000_000, "category_id": 4, "iscrowd": 0, "area": 3, "bbox": [0, 0, 3, 1]}
    annotation["segments_info"].insert(int(tree.rng.integers(3)), extra)
    return Expected("segment without pixel", f"{annotation['file_name']}: segment id 16000000 ")


@corruption
def other_id(tree: Tree) -> Expected:
    annotation = tree.annotation()
    segment = tree.pick(annotation["segments_info"])
    segment["id"] = segment["id"] % 16_000_000 + 7
    return Expected("segment without pixel", f"{annotation['file_name']}: segment id {segment['id']} ", PNG_FAULTS)


@corruption
def area(tree: Tree) -> Expected:
    annotation = tree.annotation()
    segment = tree.pick(annotation["segments_info"])
    segment["area"] += tree.pick([-1, 1, 100, -segment["area"]])
    return Expected("area mismatch", f"{annotation['file_name']}: segment id {segment['id']} ", training=False)


@corruption
def bbox(tree: Tree) -> Expected:
    annotation = tree.annotation()
    segment = tree.pick(annotation["segments_info"])
    segment["bbox"][int(tree.rng.integers(4))] += tree.pick([-5, 2, 100])
    return Expected("bbox mismatch", f"{annotation['file_name']}: segment id {segment['id']} ", training=False)


@corruption
def segment_id_zero(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.pick(annotation["segments_info"])["id"] = 0
    return Expected("segment id 0", annotation["file_name"], {"id without segment"})


@corruption
def duplicate_segment(tree: Tree) -> Expected:
    annotation = tree.annotation()
    annotation["segments_info"].append(dict(tree.pick(annotation["segments_info"])))
    return Expected("duplicate segment id", annotation["file_name"])


@corruption
def unknown_category(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.pick(annotation["segments_info"])["category_id"] = tree.pick([1, 99, -1, 10**30])
    return Expected("unknown category", annotation["file_name"])


@corruption
def bad_segment_field(tree: Tree) -> Expected:
    annotation = tree.annotation()
    key = tree.pick(["id", "category_id", "iscrowd", "area", "bbox"])
    values = ["5", 1.5, None, [], {}, float("nan"), "x", [1, 2, 3], -3.5, [0, 0, None, 1], float("inf")]
    if key == "id":
        values += [-1, 256**3, 10**40, True]
    tree.pick(annotation["segments_info"])[key] = tree.pick(values)
    return Expected("bad segment entry", annotation["file_name"], {"id without segment"})


@corruption
def missing_segment_field(tree: Tree) -> Expected:
    annotation = tree.annotation()
    del tree.pick(annotation["segments_info"])[tree.pick(["id", "category_id"])]
    return Expected("bad segment entry", annotation["file_name"], {"id without segment"})


@corruption
def segment_is_no_object(tree: Tree) -> Expected:
    annotation = tree.annotation()
    annotation["segments_info"].append(tree.pick([None, 3, "x", [], [1]]))
    return Expected("bad segment entry", annotation["file_name"])


@corruption
def two_stuff_segments(tree: Tree) -> Expected:
    annotation = tree.annotation()
    segments = [s for s in annotation["segments_info"] if s["category_id"] in (3, 7, 9)]
    segments[1]["category_id"] = segments[0]["category_id"]
    return Expected("several stuff segments of a class", annotation["file_name"], training=False)


@corruption
def crowd_stuff(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.pick([s for s in annotation["segments_info"] if s["category_id"] in (3, 7, 9)])["iscrowd"] = 1
    return Expected("crowd stuff", annotation["file_name"], training=False)


# -- the json ---------------------------------------------------------------------------------------------------------


@corruption
def duplicate_image_id(tree: Tree) -> Expected:
    image = {**tree.image(), "file_name": "twin.jpg"}
    tree.panoptic["images"].append(image)
    return Expected("duplicate image id", "twin.jpg")


@corruption
def duplicate_annotation(tree: Tree) -> Expected:
    annotation = {**tree.annotation(), "file_name": "twin.png"}
    tree.panoptic["annotations"].append(annotation)
    return Expected("duplicate annotation", "twin.png")


@corruption
def annotation_without_image(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.panoptic["images"].remove(tree.image_of(annotation))
    return Expected("annotation without image", annotation["file_name"], {"instance without image"})


@corruption
def image_without_annotation(tree: Tree) -> Expected:
    annotation = tree.annotation()
    tree.panoptic["annotations"].remove(annotation)
    return Expected("image without annotation", tree.image_of(annotation)["file_name"], training=False)


@corruption
def wrong_image_id(tree: Tree) -> Expected:
    annotation = tree.annotation()
    annotation["image_id"] = tree.pick([9999, "5", -1])
    return Expected("annotation without image", annotation["file_name"], {"image without annotation"})


@corruption
def bad_image_entry(tree: Tree) -> Expected:
    index = int(tree.rng.integers(len(tree.panoptic["images"])))
    image = tree.panoptic["images"][index]
    key = tree.pick(["id", "file_name", "height", "width"])
    if tree.rng.random() < 0.3:
        del image[key]
    else:
        image[key] = tree.pick([None, [], {}, 2.5] + ([True, -4, 0, 10**30] if key in ("height", "width") else []))
    if tree.rng.random() < 0.2:
        tree.panoptic["images"][index] = tree.pick([None, 3, "image", []])
    return Expected("bad image entry", f"images[{index}]", {"annotation without image", "instance without image"})


@corruption
def bad_annotation_entry(tree: Tree) -> Expected:
    index = int(tree.rng.integers(len(tree.panoptic["annotations"])))
    annotation = tree.panoptic["annotations"][index]
    key = tree.pick(["image_id", "file_name", "segments_info"])
    if tree.rng.random() < 0.3:
        del annotation[key]
    else:
        annotation[key] = tree.pick([None, 2.5, {}, True])
    if tree.rng.random() < 0.2:
        tree.panoptic["annotations"][index] = tree.pick([None, 3, "annotation", []])
    return Expected("bad annotation entry", f"annotations[{index}]", {"image without annotation"})


@corruption
def missing_list(tree: Tree) -> Expected:
    key = tree.pick(["categories", "images", "annotations"])
    if tree.rng.random() < 0.5:
        del tree.panoptic[key]
    else:
        tree.panoptic[key] = tree.pick([None, {}, "x", 3])
    return Expected("missing list in json", f"panoptic.json: the JSON has no list {key!r}", {"instance without image"})


@corruption
def bad_category(tree: Tree) -> Expected:
    categories = tree.panoptic["categories"] = [dict(c) for c in tree.panoptic["categories"]]
    index = int(tree.rng.integers(len(categories)))
    key = tree.pick(["id", "name", "isthing", "color", "all", "twice"])
    if key == "all":
        categories.clear()
    elif key == "twice":
        categories.append({**categories[index], tree.pick(["id", "name"]): tree.pick([77, "seventy-seven"])})
    elif key == "color":
        categories[index]["color"] = tree.pick(["red", [1, 2], [1, 2, 300], 5, [0.5, 0.5, 0.5]])
    elif tree.rng.random() < 0.4:
        del categories[index][key]
    else:
        categories[index][key] = tree.pick([None, [], 2.5, {}])
    return Expected("bad category", "panoptic.json")


@corruption
def no_thing_class(tree: Tree) -> Expected:
    tree.panoptic["categories"] = [{**c, "isthing": 0} for c in tree.panoptic["categories"]]
    also = {"several stuff segments of a class", "crowd stuff", "instance of unknown category"}
    return Expected("no thing class", "panoptic.json", also, training=False)


@corruption
def corrupt_json(tree: Tree) -> Expected:
    text = (tree.root / "panoptic.json").read_bytes()
    cut = text[: int(tree.rng.integers(len(text)))]
    tree.raw_panoptic = tree.pick([cut, b"", b"[]", b"null", b'"x"', b"\xff\xfe\x00", b"<xml/>", b"[" * 100_000])
    return Expected("corrupt json", "panoptic.json")


@corruption
def missing_json(tree: Tree) -> Expected:
    tree.raw_panoptic = b"remove"
    return Expected("missing file", "panoptic.json")


# -- the instances json -----------------------------------------------------------------------------------------------


@corruption
def bad_instance(tree: Tree) -> Expected:
    index = int(tree.rng.integers(len(tree.instances["annotations"])))
    instance = tree.instances["annotations"][index]
    key = tree.pick(["id", "category_id", "image_id", "segmentation", "bbox", "iscrowd"])
    if key in ("bbox", "iscrowd") or tree.rng.random() < 0.5:
        instance[key] = tree.pick([None, {}, "x", 2.5, [1]] if key != "image_id" else [None, {}, 2.5, True])
    else:
        del instance[key]
    return Expected("bad instance entry", f"instances.json: annotations[{index}]")


@corruption
def bad_mask(tree: Tree) -> Expected:
    index = int(tree.rng.integers(len(tree.instances["annotations"])))
    instance = tree.instances["annotations"][index]
    size = [20, 20]
    instance["segmentation"] = tree.pick(
        [
            [],
            [[]],
            [[1, 2, 3, 4]],
            [[1, 2, 3, 4, 5, 6, 7]],
            [["a"] * 6],
            [[1, 2, 3, 4, 5, None]],
            [[1, 2, 3, 4, 5, 1e30]],
            [3],
            {"size": size},
            {"counts": "x"},
            {"size": size, "counts": "PPPPPPPPPP"},
            {"size": size, "counts": "1234"},
            {"size": size, "counts": "\n"},
            {"size": size, "counts": [1, 2, 3]},
            {"size": size, "counts": [401, -1]},
            {"size": size, "counts": [200.0, 200.0]},
            {"size": size, "counts": None},
            {"size": [20], "counts": [20]},
            {"size": [-20, -20], "counts": [400]},
        ]
    )
    return Expected("bad instance entry", f"instances.json: annotations[{index}] (id {instance['id']})")


@corruption
def mask_of_other_size(tree: Tree) -> Expected:
    instance = tree.instance()
    instance["segmentation"] = {"size": [50, 60], "counts": [1000, 1000, 1000]}
    return Expected("instance of wrong size", f"(id {instance['id']})")


@corruption
def empty_mask(tree: Tree) -> Expected:
    instance = tree.instance()
    image = tree.image_of(instance)
    size = [image["height"], image["width"]]
    instance["segmentation"] = tree.pick([{"size": size, "counts": [size[0] * size[1]]}, [[-9, -9, -5, -9, -5, -5]]])
    return Expected("instance without pixel", f"instance id {instance['id']} of", training=False)


@corruption
def instance_bbox(tree: Tree) -> Expected:
    instance = tree.pick([a for a in tree.instances["annotations"] if isinstance(a["segmentation"], dict)])
    instance["bbox"][int(tree.rng.integers(4))] += tree.pick([-5, 2, 100])
    return Expected("bbox mismatch", f"instance id {instance['id']} of", training=False)


@corruption
def instance_category(tree: Tree) -> Expected:
    instance = tree.instance()
    instance["category_id"] = tree.pick([3, 7, 1, 0, -8, 10**20])
    return Expected("instance of unknown category", f"(id {instance['id']})")


@corruption
def instance_image(tree: Tree) -> Expected:
    instance = tree.instance()
    instance["image_id"] = tree.pick([1, "5", -5])
    return Expected("instance without image", f"(id {instance['id']})")


@corruption
def duplicate_instance(tree: Tree) -> Expected:
    instance = dict(tree.instance())
    tree.instances["annotations"].append(instance)
    return Expected("duplicate instance id", f"(id {instance['id']})")


@corruption
def instances_without_annotations(tree: Tree) -> Expected:
    del tree.instances["annotations"]
    return Expected("missing list in json", "instances.json")


# -- images and classes that are easily misread ----------------------------------------------------------------------


def _oriented(tree: Tree, image: dict, orientation: int) -> None:
    path, exif = tree.root / "images" / image["file_name"], Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).copy().save(path, exif=exif)


def _tall_or_wide(tree: Tree) -> list[dict]:
    return [image for image in tree.panoptic["images"] if image["height"] != image["width"]]


@corruption
def stored_orientation(tree: Tree) -> Expected:
    image = tree.pick(_tall_or_wide(tree))
    _oriented(tree, image, tree.pick([5, 6, 7, 8]))
    return Expected("stored orientation", image["file_name"], training=False)


@corruption
def unclear_orientation(tree: Tree) -> Expected:
    image = tree.image()
    _oriented(tree, image, tree.pick([2, 3, 4]))
    return Expected("unclear orientation", image["file_name"], training=False)


@corruption
def mixed_orientation(tree: Tree) -> Expected:
    sure = tree.pick(_tall_or_wide(tree))
    unsure = tree.pick([image for image in tree.panoptic["images"] if image is not sure])
    _oriented(tree, sure, 6)
    _oriented(tree, unsure, 3)
    also = {"stored orientation", "unclear orientation"}
    return Expected("mixed orientation", unsure["file_name"], also, training=False)


@corruption
def image_of_floats(tree: Tree) -> Expected:
    path = tree.root / "images" / tree.image()["file_name"]
    gray = Image.open(path).convert("L")
    gray.convert(tree.pick(["F", "I"])).save(path, format="TIFF")
    return Expected("unsupported image", path.name)


@corruption
def dark_image(tree: Tree) -> Expected:
    path = tree.root / "images" / tree.image()["file_name"]
    gray = np.asarray(Image.open(path).convert("L"), np.uint16)
    Image.fromarray(gray * 16).save(path, format=tree.pick(["PNG", "TIFF"]))
    return Expected("dark 16-bit image", path.name, training=False)


@corruption
def no_images(tree: Tree) -> Expected:
    tree.panoptic["images"] = []
    tree.panoptic["annotations"] = []
    return Expected("no image", "panoptic.json: the list of images is empty", {"instance without image"})


@corruption
def no_annotations(tree: Tree) -> Expected:
    tree.panoptic["annotations"] = []
    return Expected("no image", "panoptic.json: none of its 4 images", {"image without annotation"})


@corruption
def only_void(tree: Tree) -> Expected:
    for annotation in tree.panoptic["annotations"]:
        annotation["segments_info"] = []
        Image.new("RGB", Image.open(tree.png(annotation)).size).save(tree.png(annotation))
    return Expected("only void", "panoptic.json", training=False)


@corruption
def too_many_classes(tree: Tree) -> Expected:
    more = [{"id": 100 + i, "name": f"stuff {i}", "isthing": 0} for i in range(256)]
    tree.panoptic["categories"] = [*tree.panoptic["categories"], *more]
    return Expected("too many classes", "merge stuff classes", training=False)


@corruption
def classes_for_another_ontology(tree: Tree) -> Expected:
    """3 stuff and 2 things are there: as many more that `full` cannot hold them."""
    things = int(tree.rng.integers(251, 300))
    stuff = tree.pick([0, 251, 252])
    more = [{"id": 100 + i, "name": f"thing {i}", "isthing": 1} for i in range(things)]
    more += [{"id": 1000 + i, "name": f"stuff {i}", "isthing": 0} for i in range(stuff)]
    tree.panoptic["categories"] = [*tree.panoptic["categories"], *more]
    fitting = {0: "'collapsed' or 'stuff'", 251: "'collapsed' or 'stuff'", 252: "'stuff'"}[stuff]
    return Expected("needs another ontology", f"ONTOLOGY to {fitting}", training=False)


@corruption
def two_images_of_one_stem(tree: Tree) -> Expected:
    """stem.jpg and stem.png, whose PNGs have one name."""
    first, second = tree.panoptic["annotations"][:2]
    image = tree.image_of(first)
    second["file_name"] = first["file_name"]
    also = PNG_FAULTS | {"wrong PNG size"}
    return Expected("shared PNG", f"images {image['file_name']!r} and", also)


@corruption
def image_listed_twice(tree: Tree) -> Expected:
    annotation = tree.annotation()
    image = {**tree.image_of(annotation), "id": 424242}
    tree.panoptic["images"].append(image)
    tree.panoptic["annotations"].append({**annotation, "image_id": 424242})
    return Expected("image listed twice", image["file_name"], training=False)
