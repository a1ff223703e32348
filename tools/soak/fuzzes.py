"""Damages the files that commands read; each ends with a result or with one line that names what is wrong."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from annotation_corruptions import nodes
from annotation_writers import WRITERS, things_of
from onnx import helper
from polygon_scenes import make_scene
from tiny_training import ROOT

from .attempts import Attempt, Place
from .forks import call
from .processes import AttackFailed, environment

SUITE = "The seeded fuzzes of the test suite at 10 times their length"
READERS = "A damaged file: bytes cut off, changed or repeated; JSON values changed or removed"
FACTOR = 10
BATCH = 10
VALUES = [
    None, True, -1, 0, 10**12, 10**30, 0.5, 1e300, float("nan"), float("inf"), "", "x", "7", "x" * 5000, "\ud800",
    "../../x", "/dev/zero", [], [[]], {}, {"a": 1}, [1, "2"], [-1, 2.5],
]  # fmt: skip
# Tests whose length FUZZ_FACTOR multiplies.
TESTS = (
    "tests/config/test_config_mutations.py::test_mutations",
    "tests/data/importers/test_corruptions.py::test_each_damage_is_reported",
    "tests/data/importers/test_corruptions.py::test_any_value_anywhere_ends_without_a_traceback",
)
# Command, and the file of the material or the folder of files that is damaged.
DAMAGED = {
    "fuse": ("outputs/instances.json", "outputs/images.json", "outputs/labels"),
    "evaluate files": ("evaluated/inference/soak_val/panoptic_predictions.json", "scenes/val/panoptic.json",
                       "evaluated/inference/soak_val/panoptic_predictions", "scenes/val/panoptic"),
    "report": ("evaluated/inference/soak_val/panoptic_predictions.json", "scenes/val/images",
               "evaluated/inference/soak_val/panoptic_predictions"),
    "check": ("scenes/val/panoptic.json", "scenes/val/panoptic"),
    "demo onnx": ("model.onnx", "photos"),
    "tune files": ("outputs/instances.json", "outputs/gt.json", "outputs/gt"),
}  # fmt: skip


def attempts(quick: bool) -> list[Attempt]:
    """Returns batches of damages."""
    damaged = [(name, file) for name, files in DAMAGED.items() for file in files]
    if quick:
        return [Attempt(READERS, "fuse", partial(_damage, name="fuse", file="outputs/images.json", count=3))]
    found = [Attempt(READERS, "demo onnx: metadata", _damage_metadata)]
    found += [Attempt(READERS, f"import: {name}", partial(_damage_annotations, name=name)) for name in WRITERS]
    found += [
        Attempt(READERS, f"{name}: {file}", partial(_damage, name=name, file=file, count=BATCH))
        for name, file in damaged
    ]
    return [*found, *(Attempt(SUITE, test.rpartition(":")[2], partial(_suite, test=test)) for test in TESTS)]


def _damage(place: Place, name: str, file: str, count: int) -> tuple[int, str]:
    rng = random.Random(f"{place.seed} {name} {file}")
    copy = type(place.material)(place.folder / "material")
    for number in range(count):
        shutil.rmtree(copy.root, ignore_errors=True)
        shutil.rmtree(place.folder / "out", ignore_errors=True)
        copy.root.mkdir()
        for part in ("outputs", "evaluated", "scenes", "photos", "model.onnx"):
            source = place.material.root / part
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy.root / part)
        what = damage(copy.root / file, rng)
        words = copy.commands(place.folder / "out", workers=1)[name]
        _check([*words, "--num-images", 4] if words[0] == "tune" else words, place, f"{number}: {what}")
    return count, ""


def _damage_metadata(place: Place) -> tuple[int, str]:
    rng = random.Random(f"{place.seed} metadata")
    for number in range(5 * BATCH):
        model = onnx.load(str(place.material.root / "model.onnx"))
        properties = {entry.key: entry.value for entry in model.metadata_props}
        content = json.loads(properties["panoptic_fusion"])
        what = change_value(content, rng)
        properties["panoptic_fusion"] = json.dumps(content)
        del model.metadata_props[:]
        helper.set_model_props(model, properties)
        path = place.folder / "model.onnx"
        path.write_bytes(model.SerializeToString())
        shutil.rmtree(place.folder / "out", ignore_errors=True)
        photo = min((place.material.root / "photos").glob("*.jpg"))
        words = ["demo", "--onnx", path, "--input", photo, "--output", place.folder / "out"]
        _check(words, place, f"{number}: {what}")
    return 5 * BATCH, ""


def _damage_annotations(place: Place, name: str) -> tuple[int, str]:
    rng, scenes = random.Random(f"{place.seed} {name}"), [make_scene(seed) for seed in range(2)]
    writer, whole = WRITERS[name], place.folder / "whole"
    whole.mkdir()
    writer.write(whole, scenes)
    says = writer.says_things or writer.semantic or not writer.classes
    things = [] if says else ["--things", *things_of(scenes)]
    for number in range(BATCH // 3):
        source, out = place.folder / "source", place.folder / "out"
        for folder in (source, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, source)
        what = damage(source, rng)
        _check(["import", source, "--format", writer.format, *things, "--output", out, "--workers", 1], place,
               f"{number}: {what}")  # fmt: skip
    return BATCH // 3, ""


def _check(words: list, place: Place, what: str) -> None:
    """Runs a command: a result, possibly without the damaged image, or one line."""
    outcome = call(words, place.folder)
    try:
        if outcome.code == 2:
            outcome.one_line()
        elif outcome.code not in (0, 1) or "Traceback" in outcome.err:
            raise AttackFailed(f"exit code {outcome.code}: {outcome.end()}")
    except AttackFailed as error:
        raise AttackFailed(f"{what}: {error}") from None


def damage(path: Path, rng: random.Random) -> str:
    """Damages a file, or a random file of a folder; returns what was done."""
    if path.is_dir():
        path = rng.choice(sorted(file for file in path.rglob("*") if file.is_file()))
    if path.suffix == ".json" and rng.random() < 0.7:
        content = json.loads(path.read_text(encoding="utf-8"))
        what = change_value(content, rng)
        path.write_text(json.dumps(content), encoding="utf-8")
        return f"{path.name}, {what}"
    data = bytearray(path.read_bytes())
    kind = rng.choice(("cut off", "changed", "repeated"))
    at = rng.randrange(len(data))
    if kind == "cut off":
        del data[at:]
    elif kind == "changed":
        for _ in range(rng.choice((1, 10, 100))):
            data[rng.randrange(len(data))] = rng.randrange(256)
    else:
        data[at:at] = data[at : at + 1000]
    path.write_bytes(data)
    return f"{path.name}, bytes {kind} at {at}"


def change_value(content: Any, rng: random.Random) -> str:
    """Changes or removes a random value in nested lists and mappings; returns what was done."""
    container, key, value, _ = rng.choice(list(nodes({"": content}))[1:])
    if isinstance(container, dict) and rng.random() < 0.2:
        del container[key]
        return f"no {key}"
    container[key] = rng.choice(VALUES)
    return f"{key}: {str(value)[:40]!r} is {str(container[key])[:40]!r}"


def _suite(place: Place, test: str) -> tuple[int, str]:
    env = {**environment(place.folder), "FUZZ_FACTOR": str(FACTOR)}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise AttackFailed(done.stdout[-900:])
    return 1, ""
