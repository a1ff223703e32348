"""Finding a user's dataset in a folder, and splitting it."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.custom_dataset import find_dataset, registration, split_data
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
    found = find_dataset(root)
    assert list(found) == ["train", "val"]
    for split, count in (("train", 6), ("val", 3)):
        result = check_dataset(found[split], 0)
        assert result.faults == [] and result.num_images == count
        assert (found[split].instances_json is not None) == instances
        assert ("instances_json" in registration("x", found[split])) == instances


def test_without_a_validation_part(tiny_data, tmp_path):
    for layout in ("by split", "by kind", "undivided"):
        assert list(find_dataset(lay_out(tiny_data, tmp_path / layout, layout, ["train"]))) == ["train"]


@pytest.mark.parametrize(
    ("layout", "images", "missing"),
    [
        ("by split", "val/images", "val/panoptic.json"),
        ("by kind", "images/val", "annotations/panoptic_val.json"),
    ],
)
def test_validation_images_without_their_json(tiny_data, tmp_path, layout, images, missing):
    """Else the training part would be split, and these images never be used."""
    root = lay_out(tiny_data, tmp_path / "mine", layout)
    (root / missing).unlink()
    with pytest.raises(UserError, match=f"mine/{images} exists, but .*mine/{missing} does not"):
        find_dataset(root)


def test_a_relative_folder_and_one_at_home(tiny_data, tmp_path, monkeypatch):
    root = lay_out(tiny_data, tmp_path / "home" / "mine", "by split")
    expected = find_dataset(root)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert find_dataset("~/mine") == find_dataset("home/mine") == expected
    assert expected["val"].images == str(root / "val" / "images")


@pytest.mark.parametrize("make", [False, True])
def test_nothing_there(tmp_path, make):
    root = tmp_path / "mine"
    if make:
        (root / "photos").mkdir(parents=True)
    with pytest.raises(UserError, match="mine (has none|does not).*train/images.*annotations/panoptic_train.json"):
        find_dataset(root)


def test_a_split(tiny_data, tmp_path):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    (tmp_path / "a").mkdir()
    parts = split_data(files, tmp_path / "a", 0.34)
    names = {}
    for split in ("val", "train"):
        result = check_dataset(parts[split], 0)
        assert result.faults == [] and result.num_images >= 1
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
    again = split_data(find_dataset(tmp_path / "mine")["train"], tmp_path / "b", 0.34)
    for split, part in again.items():
        images = json.loads(Path(part.panoptic_json).read_text())["images"]
        assert {image["file_name"] for image in images} == names[split]


def test_a_split_of_an_instances_json_with_annotations_only(tiny_data, tmp_path):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
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


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.999, 5)])
def test_both_parts_have_an_image(tiny_data, tmp_path, share, count):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    parts = split_data(files, tmp_path, share)
    assert len(json.loads(Path(parts["val"].panoptic_json).read_text())["images"]) == count


def test_added_images_do_not_move_others(tiny_data, tmp_path):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    content = json.loads(Path(files.panoptic_json).read_text())
    found = []
    for count in (300, 400):
        names = [f"photos/{i:04}.jpg" for i in range(400 - count, 400)]  # the new ones come first
        images = [{"id": i, "file_name": n, "height": 9, "width": 9} for i, n in enumerate(names)]
        annotations = [{"image_id": i, "file_name": f"{i}.png", "segments_info": []} for i in range(count)]
        Path(files.panoptic_json).write_text(json.dumps({**content, "images": images, "annotations": annotations}))
        part = split_data(replace(files, instances_json=None), tmp_path, 0.2)["val"]
        found.append({image["file_name"] for image in json.loads(Path(part.panoptic_json).read_text())["images"]})
    # The first byte of the hash, out of 256, decides; 51.2 of them are below 0.2.
    first_bytes = {f"photos/{i:04}.jpg": hashlib.sha1(f"photos/{i:04}.jpg".encode()).digest()[0] for i in range(400)}
    assert {name for name, byte in first_bytes.items() if byte < 51} <= found[1]
    assert found[1] <= {name for name, byte in first_bytes.items() if byte <= 51}
    assert found[0] == found[1] - {f"photos/{i:04}.jpg" for i in range(100)}
    assert 40 < len(found[0]) < 80


@pytest.mark.parametrize("share", [0, 1, -0.5, 20])
def test_a_share_that_cannot_be(tiny_data, tmp_path, share):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    with pytest.raises(UserError, match="--val-share"):
        split_data(files, tmp_path, share)


def test_one_image_cannot_be_split(tiny_data, tmp_path):
    files = find_dataset(lay_out(tiny_data, tmp_path / "mine", "undivided", ["train"]))["train"]
    content = json.loads(Path(files.panoptic_json).read_text())
    content["images"], content["annotations"] = content["images"][:1], content["annotations"][:1]
    Path(files.panoptic_json).write_text(json.dumps(content))
    with pytest.raises(UserError, match="1 annotated image"):
        split_data(files, tmp_path)
