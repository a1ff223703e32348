"""The checker: nothing on a sound dataset; a seeded fuzz of 1,000 corruptions, each reported with kind and file."""

import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corruptions import CORRUPTIONS, Tree
from detectron2.data import detection_utils  # noqa: F401  (imported once, before the clock of the fuzz)
from tiny_panoptic import make_tiny

from panoptic_fusion.data.checks import CheckResult, check_dataset, format_result
from panoptic_fusion.data.coco_panoptic import PanopticFiles, load_panoptic
from panoptic_fusion.data.custom_dataset import registration
from panoptic_fusion.data.dataset_errors import KINDS, DatasetError
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("PANOPTIC_FUSION_DATA", REPOSITORY.parent / "shared" / "data"))
NUM_CORRUPTIONS = 1000


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> list[PanopticFiles]:
    root = tmp_path_factory.mktemp("tiny")
    return [make_tiny(root / str(seed), seed, num_images=4) for seed in range(5)]


def broken_copy(files: PanopticFiles, root: Path, seed: int) -> tuple[PanopticFiles, object]:
    """Copies a dataset to `root`, applies the corruption that `seed` picks; returns its files and what is expected."""
    original = Path(files.images).parent
    shutil.copytree(original, root)
    rng = np.random.default_rng(seed)
    panoptic, instances = (json.loads((original / f"{name}.json").read_text()) for name in ("panoptic", "instances"))
    tree = Tree(root, rng, panoptic, instances)
    expected = CORRUPTIONS[seed % len(CORRUPTIONS)](tree)
    data = json.dumps(panoptic).encode() if tree.raw_panoptic is None else tree.raw_panoptic
    (root / "panoptic.json").write_bytes(data)
    if data == b"remove":
        (root / "panoptic.json").unlink()
    (root / "instances.json").write_text(json.dumps(instances))
    paths = (root / "images", root / "png", root / "panoptic.json", root / "instances.json")
    return PanopticFiles(*map(str, paths)), expected


def train_through(files: PanopticFiles) -> None:
    """What training does with a dataset, without the network."""
    label_space, dicts = load_panoptic(files)
    mapper = PanopticDatasetMapper(True, augmentations=[], image_format="RGB", label_space=label_space)
    for record in dicts:
        mapper(record)


def test_sound_data_sets_have_no_fault(originals):
    for files in originals:
        result = check_dataset(files, num_workers=0)
        assert result.faults == [] and result.num_images == 4
        panoptic = json.loads(Path(files.panoptic_json).read_text())
        segments = [s for a in panoptic["annotations"] for s in a["segments_info"]]
        assert result.segments == Counter(s["category_id"] for s in segments)
        assert result.num_crowds == sum(s["iscrowd"] for s in segments)
        assert result.pixels == sum(i["height"] * i["width"] for i in panoptic["images"])
        assert result.void_pixels == result.pixels - sum(s["area"] for s in segments)
        text = format_result("tiny", result)
        assert text.startswith("tiny: no problems in 4 images") and f"thing car: {result.segments[4]}" in text
        train_through(files)


def test_fuzz(originals, tmp_path):
    assert len(CORRUPTIONS) >= 20
    done = Counter()
    for seed in range(NUM_CORRUPTIONS):
        root = tmp_path / str(seed)
        files, expected = broken_copy(originals[seed % 5], root, seed)
        what = (seed, CORRUPTIONS[seed % len(CORRUPTIONS)].__name__, expected)
        result = check_dataset(files, num_workers=0)
        texts = [str(f) for f in result.faults]
        assert any(f.kind == expected.kind and expected.text in str(f) for f in result.faults), (what, texts)
        for fault in result.faults:
            assert fault.kind in {expected.kind} | expected.also, (what, texts)
            assert fault.kind in KINDS and fault.kind != "unexpected error"
            assert str(root) in fault.file and str(fault).startswith(f"{fault.file}: ") and "\n" not in str(fault)
        report = format_result("tiny", result)
        assert all(text in report for text in texts)
        if expected.training:  # the same fault, in the same words, stops training
            with pytest.raises(DatasetError) as error:
                train_through(files)
            assert str(error.value) in texts, (what, str(error.value), texts)
        else:
            try:
                train_through(files)
            except UserError as fault:  # a DatasetError, or too many classes for the ontology
                assert any(str(fault) in text for text in texts), (what, str(fault), texts)
        done[expected.kind] += 1
        shutil.rmtree(root)
    assert set(KINDS) - set(done) == {"unexpected error", "too many pixels"}  # see test_image_header.py
    assert sum(done.values()) == NUM_CORRUPTIONS and min(done.values()) >= 10


def test_two_corruptions_are_both_reported(originals, tmp_path):
    files, _ = broken_copy(originals[0], tmp_path / "x", seed=0)
    (tmp_path / "x" / "png" / "map3.png").write_bytes(b"")
    os.truncate(tmp_path / "x" / "images" / "image2.png", 40)
    kinds = Counter(f.kind for f in check_dataset(files, num_workers=0).faults)
    assert kinds["corrupt PNG"] == 1 and kinds["missing image"] + kinds["corrupt image"] >= 2


def test_processes_give_the_same(originals, tmp_path):
    files, _ = broken_copy(originals[1], tmp_path / "x", seed=3)
    alone, together = check_dataset(files, num_workers=0), check_dataset(files, num_workers=2)
    assert [str(f) for f in alone.faults] == [str(f) for f in together.faults] and alone.faults
    assert [f.kind for f in alone.faults] == [f.kind for f in together.faults]
    assert (alone.segments, alone.void_pixels) == (together.segments, together.void_pixels)


def test_report_groups_by_kind():
    faults = [DatasetError("b", "2.png", "missing PNG"), DatasetError("a", "1.jpg", "missing image")]
    faults.append(DatasetError("c", "3.png", "missing PNG"))
    assert format_result("x", CheckResult(faults=faults)).splitlines() == [
        "x: 3 problems", "missing image: 1", "  1.jpg: a", "missing PNG: 2", "  2.png: b", "  3.png: c",
    ]  # fmt: skip


def test_random_json_values(originals, tmp_path):
    """Any value in any place of the jsons: never more than a report."""
    values = [None, True, -1, 0, 3, 10**30, 10**400, 2.5, float("nan"), "", "x", "\0", "\ud800"]
    values += [[], [1], [[]], {}, {"id": 1}]
    source = Path(originals[0].images).parent
    for seed in range(300):
        rng = random.Random(seed)
        documents = {name: json.loads((source / f"{name}.json").read_text()) for name in ("panoptic", "instances")}
        for _ in range(rng.randint(1, 6)):
            node = rng.choice(list(documents.values()))
            while True:
                key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
                if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.1:
                    node[key] = copy.deepcopy(rng.choice(values))
                    break
                node = node[key]
            if not all(isinstance(d, dict | list) and d for d in documents.values()):
                break
        for name, document in documents.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(document))
        jsons = [str(tmp_path / f"{name}.json") for name in documents]
        result = check_dataset(PanopticFiles(originals[0].images, originals[0].panoptic_root, *jsons), num_workers=0)
        assert all(f.kind in KINDS and f.kind != "unexpected error" for f in result.faults), (seed, result.faults)
        format_result("tiny", result)


def test_command_line(originals, tmp_path, run_script, child_env):
    """One run as a process of its own, the others in this one."""
    sound = originals[0]
    broken, expected = broken_copy(originals[1], tmp_path / "x", seed=4)
    entries = "".join(
        f"    - {{name: {name}, images: {f.images}, panoptic_root: {f.panoptic_root}, "
        f"panoptic_json: {f.panoptic_json}, instances_json: {f.instances_json}}}\n"
        for name, f in (("sound_one", sound), ("broken_one", broken))
    )
    (tmp_path / "config.yaml").write_text(f"DATASETS:\n  REGISTER:\n{entries}")
    paths = ("--images", sound.images, "--panoptic-root", sound.panoptic_root, "--panoptic-json", sound.panoptic_json)
    (tmp_path / "bad.yaml").write_text("DATASETS: [1, {")
    for arguments, code, stdout, stderr in (
        (paths, 0, "no problems in 4 images", ""),
        (("--config-file", str(tmp_path / "config.yaml")), 1, f"{expected.kind}: 1", ""),
        (("--config-file", str(tmp_path / "config.yaml"), "sound_one"), 0, "sound_one: no problems", ""),
        (("nobody_knows_this",), 2, "", "nobody_knows_this"),
        (("--images", "x"), 2, "", "go together"),
        ((), 2, "", "pass a name"),
        (("--config-file", str(tmp_path / "bad.yaml")), 2, "", "bad.yaml"),
    ):
        found, out, err = run_script("check", *arguments)
        assert found == code, out + err
        assert stdout in out and stderr in err
        assert "Traceback" not in out + err
    command = [sys.executable, "-m", "panoptic_fusion", "check", "--config-file", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, env=child_env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{expected.kind}: 1" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


REAL = {
    "camvid val": ("camvid/images/val", "camvid/annotations/panoptic_val", "camvid/annotations/panoptic_val.json"),
    "coco": ("coco_pair/input_images", "coco_pair/panoptic_examples", "coco_pair/panoptic_examples.json"),
    "ade": ("ade_pair/images", "ade_pair/annotations/panoptic", "ade_pair/annotations/panoptic.json"),
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_is_sound(name):
    if not (SHARED / REAL[name][2]).is_file():
        pytest.skip(f"{SHARED / REAL[name][2]} is not there")
    files = PanopticFiles(*(str(SHARED / path) for path in REAL[name]))
    result = check_dataset(files, num_workers=0)
    assert result.faults == [] and result.num_images >= 2
    assert re.match(r".*no problems in \d+ images", format_result(name, result))


def test_warnings_do_not_fail_and_fine_tune_agrees(originals, tmp_path, run_script):
    """The exit code is 0 exactly if fine-tune would accept the dataset, whatever the corruption."""
    from panoptic_fusion.cli.fine_tune import check_splits

    codes = Counter()
    for seed in range(len(CORRUPTIONS)):
        files, expected = broken_copy(originals[seed % 5], tmp_path / str(seed), seed)
        paths = {"--images": files.images, "--panoptic-root": files.panoptic_root}
        paths |= {"--panoptic-json": files.panoptic_json, "--instances-json": files.instances_json}
        code, out, err = run_script("check", *(x for pair in paths.items() for x in pair), "--workers", "0")
        assert code == int(not check_splits({"train": files})["train"].is_trainable()), (seed, out, err)
        assert code == int(not check_dataset(files, 0).is_trainable()) and expected.kind in out
        codes[code] += 1
    assert codes[0] >= 8 and codes[1] >= 30


def test_overview(originals, tmp_path, run_script):
    """--output writes one folder, or one per dataset; it must be writable."""
    files = originals[0]
    paths = ["--images", files.images, "--panoptic-root", files.panoptic_root, "--panoptic-json", files.panoptic_json]
    code, out, err = run_script("check", *paths, "--workers", "0", "--output", tmp_path / "one")
    assert code == 0 and f"overview: {tmp_path}/one/overview.md" in out, err
    assert len(list((tmp_path / "one" / "pictures").iterdir())) == 4
    entries = [registration(f"overview_{i}", originals[i]) for i in (0, 1)]
    (tmp_path / "config.yaml").write_text(json.dumps({"DATASETS": {"REGISTER": entries}}))
    code, out, err = run_script("check", "--config-file", tmp_path / "config.yaml", "--output", tmp_path / "two")
    assert code == 0 and sorted(p.name for p in (tmp_path / "two").iterdir()) == ["overview_0", "overview_1"], err
    (tmp_path / "file").write_text("")
    code, _, err = run_script("check", *paths, "--output", tmp_path / "file")
    assert code == 2 and "--output: cannot write" in err
