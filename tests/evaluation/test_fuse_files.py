"""`panoptic-fusion fuse`: panopticapi's result, all kinds of semantic files, bad files, resuming."""

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from model_files import CATEGORIES, write_outputs
from PIL import Image

import panoptic_fusion
from panoptic_fusion.data import coco_json
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation import fuse_files as module
from panoptic_fusion.evaluation.fuse_files import fuse_files

LIMIT = 20


def fuse_folder(folder: Path, semantic="semantic.json", output="out", **options):
    options = {"stuff_area_limit": LIMIT, "processes": 1, **options}
    paths = (folder / name for name in ("instances.json", semantic, "images.json", output))
    return fuse_files(*paths, **options)


def segments_of(root: Path, annotations):
    """{image id: set of (category id, mask)}: a result without its segment ids."""
    result = {}
    for annotation in annotations:
        ids = read_id_map(str(root / annotation["file_name"]))
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        parts = {(s["category_id"], (ids == s["id"]).tobytes()) for s in annotation["segments_info"]}
        assert len(parts) == len(annotation["segments_info"])
        result[annotation["image_id"]] = parts
    return result


def read_output(folder: Path, output="out"):
    content = json.loads((folder / output / "panoptic.json").read_text())
    return segments_of(folder / output / "panoptic", content["annotations"])


def test_equals_panopticapis_combine_script_on_50_images(tmp_path):
    combine = pytest.importorskip(
        "panopticapi.combine_semantic_and_instance_predictions", reason="the reference code is not installed"
    )
    images, instances, semantic = write_outputs(tmp_path, 50)
    # What its `combine_predictions` does before and after its pool of processes.
    by_image, stuff = defaultdict(list), defaultdict(list)
    for entry in sorted((e for e in instances if e["score"] >= 0.5), key=lambda e: -e["score"]):
        by_image[entry["image_id"]].append(entry)
    for entry in semantic:
        if entry["category_id"] in (2, 7):
            stuff[entry["image_id"]].append(entry)
    (tmp_path / "theirs").mkdir()
    theirs = combine.combine_to_panoptic_single_core(
        0, [i["id"] for i in images], {i["id"]: i for i in images}, by_image, stuff, str(tmp_path / "theirs"), 0.5,
        LIMIT, {c["id"]: c for c in CATEGORIES},
    )  # fmt: skip
    result = fuse_folder(tmp_path, processes=2)
    assert result == {"images": 50, "problems": []}
    expected = {}
    for annotation, image in zip(theirs, images, strict=True):
        annotation["image_id"] = image["id"]
        ids = read_id_map(str(tmp_path / "theirs" / annotation["file_name"]))
        expected[image["id"]] = {
            (s["category_id"], (ids == s["id"]).tobytes())
            for s in annotation["segments_info"]
            if (ids == s["id"]).any()
        }
    assert read_output(tmp_path) == expected
    assert sum(map(len, expected.values())) > 150


def test_labels_and_logits_give_the_result_of_the_json(tmp_path):
    write_outputs(tmp_path, 12)
    for semantic in ("semantic.json", "labels", "logits"):
        for rule in ("heuristic", "seamless", "mask_guided"):
            assert fuse_folder(tmp_path, semantic, f"{semantic} {rule}", rule=rule)["problems"] == []
    for rule in ("heuristic", "seamless", "mask_guided"):
        expected = read_output(tmp_path, f"semantic.json {rule}")
        assert expected == read_output(tmp_path, f"labels {rule}") == read_output(tmp_path, f"logits {rule}")
    assert read_output(tmp_path, "labels heuristic") != read_output(tmp_path, "labels mask_guided")


def test_rules_that_need_more(tmp_path):
    _, instances, _ = write_outputs(tmp_path, 4)
    assert fuse_folder(tmp_path, "logits", "upsnet", rule="upsnet") == {"images": 4, "problems": []}
    with pytest.raises(UserError, match="'upsnet' needs semantic logits, but .* is not a folder"):
        fuse_folder(tmp_path, rule="upsnet")
    result = fuse_folder(tmp_path, "labels", "labels", rule="upsnet")
    assert result["images"] == 0 and "needs semantic logits" in result["problems"][0]
    result = fuse_folder(tmp_path, output="no ranking", rule="spatial_ranking")
    assert len(result["problems"]) == len(instances) and "needs ranking as a number" in result["problems"][0]
    ranked = [{**entry, "ranking": -entry["score"]} for entry in instances]
    (tmp_path / "instances.json").write_text(json.dumps(ranked))
    assert fuse_folder(tmp_path, output="ranked", rule="spatial_ranking") == {"images": 4, "problems": []}
    fuse_folder(tmp_path, output="by score")
    assert read_output(tmp_path, "ranked") != read_output(tmp_path, "by score")


def test_bad_entries_and_files_are_named_and_the_rest_is_fused(tmp_path):
    images, instances, semantic = write_outputs(tmp_path, 6)
    fuse_folder(tmp_path, output="before")
    good = instances[0]
    bad = [
        ({**good, "category_id": 2}, "has the category_id 2, which is not one of the categories for it"),
        ({**good, "score": "high"}, "needs score as a number"),
        ({**good, "segmentation": {"size": good["segmentation"]["size"], "counts": "~"}}, "counts do not add up"),
        ({**good, "segmentation": {"size": [3, 3], "counts": [9]}}, "has a mask of 3x3, but its image is"),
        ({**good, "segmentation": None}, "needs a segmentation"),
    ]
    instances = instances + [entry for entry, _ in bad] + [{**good, "image_id": "else"}, 7]
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "semantic.json").write_text(json.dumps([*semantic, {**semantic[0], "category_id": 77}]))
    result = fuse_folder(tmp_path)
    assert result["images"] == 6 and read_output(tmp_path) == read_output(tmp_path, "before")
    assert len(result["problems"]) == len(bad) + 2
    for (_, text), problem in zip(bad, [p for p in result["problems"] if ": instance " in p], strict=True):
        assert text in problem and ".jpg: instance" in problem
    assert any("2 entries are for images that are not listed" in p for p in result["problems"])
    assert any("semantic entry" in p and "77" in p for p in result["problems"])

    (tmp_path / "labels" / "000.png").write_bytes(b"no PNG")
    (tmp_path / "labels" / "001.png").unlink()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "labels" / "002.png")
    np.save(tmp_path / "labels" / "003.npy", np.zeros((3, 5, 5), np.float32))
    (tmp_path / "labels" / "004.npy").write_bytes(b"\x93NUMPY no array")
    result = fuse_folder(tmp_path, "labels", "out2")
    assert result["images"] == 1 and list(read_output(tmp_path, "out2")) == [images[5]["id"]]
    for number, text in enumerate(["cannot be read", "missing", "one gray value per pixel", "C = 4", "not a readable"]):
        assert any(f"{number:03d}.jpg" in p and text in p and "\n" not in p for p in result["problems"]), text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("instances.json", None, "instances.json: the file is missing"),
        ("instances.json", "{", "instances.json: not a readable JSON"),
        ("instances.json", "{}", "instances.json: not a COCO result JSON"),
        ("semantic.json", "3", "semantic.json: not a COCO result JSON"),
        ("images.json", "[]", "images.json"),
        ("images.json", '{"images": [], "categories": [{"id": 1, "name": "a", "isthing": 1}]}', "images is empty"),
        ("images.json", '{"images": [], "categories": [{"id": "x"}]}', "images.json: category .* has no name"),
        ("images.json", None, "images.json"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    write_outputs(tmp_path, 1)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as error:
        fuse_folder(tmp_path)
    assert "\n" not in str(error.value)


def test_each_json_is_read_once(tmp_path, monkeypatch):
    write_outputs(tmp_path, 2)
    (tmp_path / "categories.json").write_text(json.dumps({"categories": CATEGORIES}))
    read = []
    monkeypatch.setattr(coco_json, "check_regular_file", lambda path, kind: read.append(Path(path).name))
    fuse_folder(tmp_path)
    assert sorted(read) == ["images.json", "instances.json", "semantic.json"]
    read.clear()
    fuse_folder(tmp_path, "labels", "out2", categories=tmp_path / "categories.json")
    assert sorted(read) == ["categories.json", "images.json", "instances.json"]


def test_wrong_options_come_before_work(tmp_path):
    write_outputs(tmp_path, 1)
    for options, message in (({"rule": "nms"}, "rule is 'nms'"), ({"overlap_thresh": 2}, "overlap_thresh is 2")):
        with pytest.raises(UserError, match=message):
            fuse_folder(tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_a_killed_run_continues(tmp_path, monkeypatch):
    write_outputs(tmp_path, 9)
    fuse_folder(tmp_path, output="whole")
    real, done = module.fuse_image, []

    def fuse_image(outputs, **options):
        if len(done) == 4 and not (tmp_path / "second").exists():
            raise KeyboardInterrupt
        done.append(outputs.image["file_name"])
        return real(outputs, **options)

    monkeypatch.setattr(module, "fuse_image", fuse_image)
    with pytest.raises(KeyboardInterrupt):
        fuse_folder(tmp_path)
    assert not (tmp_path / "out" / "panoptic.json").exists()
    with open(tmp_path / "out" / "finished.jsonl", "a") as file:
        file.write('\n{"image": {"id": 5, "file_na')  # as a killed write leaves it
    (tmp_path / "out" / "panoptic" / "001.png").unlink()
    (tmp_path / "out" / "panoptic" / ".004.png.99999999.partial").touch()
    (tmp_path / "second").touch()
    done.clear()
    assert fuse_folder(tmp_path) == {"images": 9, "problems": []}
    assert done == ["001.jpg", *(f"{i:03d}.jpg" for i in range(4, 9))]
    assert read_output(tmp_path) == read_output(tmp_path, "whole")
    same = [(tmp_path / folder / "panoptic.json").read_text() for folder in ("out", "whole")]
    assert same[0] == same[1]
    assert sorted(p.name for p in (tmp_path / "out" / "panoptic").iterdir()) == [f"{i:03d}.png" for i in range(9)]
    done.clear()
    assert fuse_folder(tmp_path)["images"] == 9 and done == []
    with pytest.raises(UserError, match="has the result of other files or options"):
        fuse_folder(tmp_path, overlap_thresh=0.25)


def test_images_of_the_same_name_in_two_folders_keep_their_own_files(tmp_path):
    images, _, _ = write_outputs(tmp_path, 4)
    fuse_folder(tmp_path, "labels", "flat")
    names = ["a/x.jpg", "b/x.jpg", "a/y.jpg", "z.png"]
    for image, name in zip(images, names, strict=True):
        old = tmp_path / "labels" / image["file_name"].replace(".jpg", ".png")
        new = tmp_path / "labels" / Path(name).with_suffix(".png")
        new.parent.mkdir(exist_ok=True)
        old.rename(new)
        image["file_name"] = name
    (tmp_path / "labels" / "a" / "y.png").rename(tmp_path / "labels" / "y.png")  # unique: the subfolder may be left out
    (tmp_path / "images.json").write_text(json.dumps({"images": images, "categories": CATEGORIES}))
    assert fuse_folder(tmp_path, "labels") == {"images": 4, "problems": []}
    assert read_output(tmp_path) == read_output(tmp_path, "flat")
    (tmp_path / "labels" / "b" / "x.png").rename(tmp_path / "labels" / "x.png")
    result = fuse_folder(tmp_path, "labels", "out2")
    assert result["images"] == 3 and "b/x" in result["problems"][0] and "missing" in result["problems"][0]


def test_images_with_problems_are_fused_again(tmp_path):
    write_outputs(tmp_path, 3)
    shutil.move(tmp_path / "labels" / "001.png", tmp_path / "001.png")
    assert fuse_folder(tmp_path, "labels")["images"] == 2
    shutil.move(tmp_path / "001.png", tmp_path / "labels" / "001.png")
    assert fuse_folder(tmp_path, "labels") == {"images": 3, "problems": []}


def test_images_whose_semantic_file_has_changed_are_fused_again(tmp_path):
    write_outputs(tmp_path, 3)
    fuse_folder(tmp_path, "labels")
    changed = tmp_path / "labels" / "001.png"
    labels = np.asarray(Image.open(changed))
    Image.fromarray(np.full_like(labels, labels[labels > 0][0])).save(changed)
    assert fuse_folder(tmp_path, "labels") == {"images": 3, "problems": []}
    fuse_folder(tmp_path, "labels", "new")
    assert read_output(tmp_path) == read_output(tmp_path, "new")


def test_command(tmp_path, run_script):
    write_outputs(tmp_path, 3)
    (tmp_path / "categories.json").write_text(json.dumps(CATEGORIES))
    words = ["--instances", "instances.json", "--semantic", "labels", "--images", "images.json"]
    words = [str(tmp_path / word) if "." in word or word == "labels" else word for word in words]
    words += ["--categories", str(tmp_path / "categories.json"), "--stuff-area-limit", str(LIMIT), "--workers", "1"]
    code, out, errors = run_script("fuse", *words, "--output", str(tmp_path / "out"))
    assert code == 0, errors
    assert out.startswith("3 images fused, 0 problems: ")
    fuse_folder(tmp_path, output="python")
    assert read_output(tmp_path) == read_output(tmp_path, "python")
    (tmp_path / "labels" / "002.png").unlink()
    code, out, errors = run_script("fuse", *words, "--rule", "seamless", "--output", str(tmp_path / "out2"))
    assert code == 1 and out.startswith("2 images fused, 1 problem:") and "002.jpg" in errors
    code, _, errors = run_script("fuse", *words, "--overlap-thresh", "3", "--output", str(tmp_path / "out3"))
    assert code == 2 and "overlap_thresh is 3.0: pass a number in [0, 1]" in errors
    assert panoptic_fusion.fuse_files.__module__ == "panoptic_fusion.cli.fuse_files"


def test_the_command_knows_the_rules():
    from panoptic_fusion.cli import fuse_files as command
    from panoptic_fusion.modeling.fusion.rules import RULES

    assert tuple(RULES) == command.RULES
    assert all(any(name in rule.options for rule in RULES.values()) for name in command.OPTIONS)
