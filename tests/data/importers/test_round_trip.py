"""Scenes with exact outlines, written in each format by hand, imported, and compared with the truth pixel by pixel."""

import json
from pathlib import Path

import numpy as np
import pytest
from annotation_writers import WRITERS, labels_of, things_of
from polygon_scenes import agreement, make_scene

from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.custom_dataset import find_dataset
from panoptic_fusion.data.importers import import_annotations


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in range(3)]


def imported(folder):
    """(stem of the image, id map, segments, category names, things) of each image of an import."""
    for files in find_dataset(folder).values():
        yield from in_split(files.panoptic_json, files.panoptic_root)
    test = folder / "test" / "panoptic.json"
    if test.is_file():
        yield from in_split(test, test.with_name("panoptic"))


def in_split(path, root):
    content = json.loads(Path(path).read_text("utf-8"))
    names = {c["id"]: c["name"] for c in content["categories"]}
    things = sorted(c["name"] for c in content["categories"] if c["isthing"])
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        id_map = read_id_map(f"{root}/{annotation['file_name']}")
        yield image["file_name"], id_map, annotation["segments_info"], names, things


@pytest.mark.parametrize("name", WRITERS)
def test_restores_the_scenes(name, scenes, tmp_path):
    writer, source, output = WRITERS[name], tmp_path / "source", tmp_path / "output"
    source.mkdir()
    writer.write(source, scenes)
    things = None if writer.says_things or writer.semantic or not writer.classes else things_of(scenes)
    result = import_annotations(source, output, things=things, workers=1)
    assert result.format == writer.format
    assert result.faults == []
    assert sum(result.images.values()) == len(scenes)
    images = sorted(imported(output), key=lambda image: image[0])  # stable: Roboflow's splits have equal names
    for scene, (_, id_map, segments, names, found) in zip(scenes, images, strict=True):
        if not writer.classes:
            names = {}
            check_objects_without_class(scene, id_map)
            continue
        if writer.semantic:
            check_classes(scene, id_map, segments, names)
            continue
        share = agreement(scene, id_map, segments, names)
        assert share >= writer.least, f"{share:.4f}"
        assert found == things_of(scenes)
        assert set(names.values()) >= set(labels_of(scenes))
    for files in find_dataset(output).values():
        kinds = {fault.kind for fault in check_dataset(files, 0).faults}
        assert kinds <= ({"no thing class"} if writer.semantic else set())


def check_objects_without_class(scene, id_map):
    """The visible parts of the objects: by area, since without classes all are things, the smaller in front."""
    truth = np.zeros(id_map.shape, int)
    order = sorted(range(len(scene.objects)), key=lambda k: -scene.objects[k].mask.sum())
    for k in order:
        truth[scene.objects[k].mask] = k + 1
    pairs = set(zip(truth.ravel().tolist(), id_map.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def check_classes(scene, id_map, segments, names):
    """One segment per class, on the pixels of the class."""
    labels = ["", *(item.label for item in scene.objects)]
    expected = np.array(labels)[scene.truth()]
    found = np.full(id_map.shape, "", expected.dtype)
    for segment in segments:
        found[id_map == segment["id"]] = names[segment["category_id"]]
    assert (found == expected).all()
    assert len({s["category_id"] for s in segments}) == len(segments)
