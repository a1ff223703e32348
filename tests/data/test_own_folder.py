"""Finding a user's data set in a folder, and splitting it."""

import json
import shutil
from pathlib import Path

import pytest

from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.own_folder import find_data, registration, split_data
from panoptic_fusion.errors import UserError


def lay_out(tiny_data, root: Path, layout: str, splits=("train", "val"), instances: bool = True) -> Path:
    """A copy of the tiny scenes in one of the layouts."""
    for split in splits:
        source = tiny_data[split]
        names = {
            "by split": (f"{split}/images", f"{split}/panoptic", f"{split}/panoptic.json", f"{split}/instances.json"),
            "by kind": (
                f"images/{split}",
                f"annotations/panoptic_{split}",
                f"annotations/panoptic_{split}.json",
                f"annotations/instances_{split}.json",
            ),
            "undivided": ("images", "panoptic", "panoptic.json", "instances.json"),
        }[layout]
        for key, name in zip(("images", "panoptic_root", "panoptic_json", "instances_json"), names, strict=True):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if key == "instances_json" and not instances:
                continue
            (shutil.copytree if Path(source[key]).is_dir() else shutil.copy)(source[key], root / name)
    return root


@pytest.mark.parametrize("instances", [True, False])
@pytest.mark.parametrize("layout", ["by split", "by kind"])
def test_layouts(tiny_data, tmp_path, layout, instances):
    root = lay_out(tiny_data, tmp_path / "mine", layout, instances=instances)
    found = find_data(root)
    assert list(found) == ["train", "val"]
    for split, count in (("train", 6), ("val", 3)):
        result = check_dataset(found[split], 0)
        assert result.faults == [] and result.num_images == count
        assert (found[split].instances_json is not None) == instances
        assert ("instances_json" in registration("x", found[split])) == instances


def test_without_a_validation_part(tiny_data, tmp_path):
    for layout in ("by split", "by kind", "undivided"):
        assert list(find_data(lay_out(tiny_data, tmp_path / layout, layout, ["train"]))) == ["train"]


@pytest.mark.parametrize("make", [False, True])
def test_nothing_there(tmp_path, make):
    root = tmp_path / "mine"
    if make:
        (root / "photos").mkdir(parents=True)
    with pytest.raises(UserError, match="mine (has none|does not).*train/images.*annotations/panoptic_train.json"):
        find_data(root)


def test_a_split(tiny_data, tmp_path):
    files = find_data(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    (tmp_path / "a").mkdir()
    parts = split_data(files, tmp_path / "a", 0.34)
    names = {}
    for split, count in (("val", 2), ("train", 4)):
        result = check_dataset(parts[split], 0)
        assert result.faults == [] and result.num_images == count
        content = json.loads(Path(parts[split].panoptic_json).read_text())
        names[split] = {image["file_name"] for image in content["images"]}
    everything = {image["file_name"] for image in json.loads(Path(files.panoptic_json).read_text())["images"]}
    assert names["val"] | names["train"] == everything and not names["val"] & names["train"]

    # The same images in another order and with other ids: the same split.
    content = json.loads(Path(files.panoptic_json).read_text())
    renumbered = {image["id"]: 1000 - i for i, image in enumerate(content["images"])}
    for image in content["images"]:
        image["id"] = renumbered[image["id"]]
    for annotation in content["annotations"]:
        annotation["image_id"] = renumbered[annotation["image_id"]]
    content["images"].reverse()
    Path(files.panoptic_json).write_text(json.dumps(content))
    (tmp_path / "mine" / "instances.json").unlink()
    (tmp_path / "b").mkdir()
    again = split_data(find_data(tmp_path / "mine")["train"], tmp_path / "b", 0.34)
    for split, part in again.items():
        images = json.loads(Path(part.panoptic_json).read_text())["images"]
        assert {image["file_name"] for image in images} == names[split]


def test_a_split_of_an_instances_json_with_annotations_only(tiny_data, tmp_path):
    files = find_data(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    annotations = json.loads(Path(files.instances_json).read_text())["annotations"]
    Path(files.instances_json).write_text(json.dumps({"annotations": annotations}))
    found = []
    for part in split_data(files, tmp_path, 0.5).values():
        content = json.loads(Path(part.instances_json).read_text())
        images = {image["id"] for image in json.loads(Path(part.panoptic_json).read_text())["images"]}
        assert content.keys() == {"annotations"} and {a["image_id"] for a in content["annotations"]} <= images
        assert check_dataset(part, 0).faults == []
        found += [a["id"] for a in content["annotations"]]
    assert sorted(found) == sorted(a["id"] for a in annotations)


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.99, 5), (0.5, 3)])
def test_both_parts_have_an_image(tiny_data, tmp_path, share, count):
    files = find_data(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    parts = split_data(files, tmp_path, share)
    assert len(json.loads(Path(parts["val"].panoptic_json).read_text())["images"]) == count


@pytest.mark.parametrize("share", [0, 1, -0.5, 20])
def test_a_share_that_cannot_be(tiny_data, tmp_path, share):
    files = find_data(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    with pytest.raises(UserError, match="--val-share"):
        split_data(files, tmp_path, share)


def test_one_image_cannot_be_split(tiny_data, tmp_path):
    files = find_data(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    content = json.loads(Path(files.panoptic_json).read_text())
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    Path(files.panoptic_json).write_text(json.dumps(content))
    with pytest.raises(UserError, match="1 annotated image"):
        split_data(files, tmp_path)
