"""200 seeded damages of written formats: each is reported with its file and what to do, and the rest is imported."""

import json
import re
import shutil

import numpy as np
import pytest
from annotation_corruptions import NotApplicable, all_corruptions, nodes
from annotation_writers import WRITERS, labels_of, things_of
from fuzz_length import fuzz_length
from polygon_scenes import make_scene

from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.custom_dataset import find_dataset
from panoptic_fusion.data.importers import import_annotations
from panoptic_fusion.errors import UserError

NUM_CORRUPTIONS = fuzz_length(200)
REMEDY = re.compile(
    r"\b(fix|remove|correct|export|put|use|add|replace|move|merge|download|renumber|save|pass|choose|leave)\b", re.I
)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed) for seed in range(2)]


@pytest.fixture(scope="module")
def written(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for name, writer in WRITERS.items():
        (folder / name).mkdir()
        writer.write(folder / name, [*scenes, scenes[0]] if name == "roboflow" else scenes)
    return folder


def run(name, source, output, scenes):
    writer = WRITERS[name]
    things = None if writer.says_things or writer.semantic or not writer.classes else things_of(scenes)
    options = {"format": writer.format, "things": things, "workers": 1}
    return import_annotations(source, output, **options)


def test_each_damage_is_reported(written, scenes, tmp_path):
    corruptions = all_corruptions(labels_of(scenes))
    done, seed, seen, failed = 0, 0, {}, []
    while done < NUM_CORRUPTIONS:
        rng = np.random.default_rng(seed)
        seed += 1
        kind = list(corruptions)[done % len(corruptions)]
        name = list(WRITERS)[int(rng.integers(len(WRITERS)))]
        source, output = tmp_path / f"{seed}", tmp_path / f"{seed}_output"
        shutil.copytree(written / name, source)
        try:
            damaged = corruptions[kind](rng, source)
        except NotApplicable:
            shutil.rmtree(source)
            continue
        done += 1
        seen.setdefault(kind, set()).add(name)
        where = f"seed {seed - 1}: {kind} of {name}, {damaged.name}"
        try:
            result = run(name, source, output, scenes)
            texts = [str(fault) for fault in result.faults]
            if any(
                "corrected" in note for note in result.notes
            ):  # repaired: the only case is a size in a panoptic json
                assert (name, kind) == ("coco panoptic", "bad_size"), where
                texts.append(f"{damaged.name}: repaired; correct it")
        except UserError as error:
            texts = [str(error)]
        else:
            for files in find_dataset(output).values():
                grave = {f.kind for f in check_dataset(files, 0).faults} - {"no thing class"}
                if grave - {"missing file"}:
                    failed.append((where, grave))
        about = [text for text in texts if damaged.name in text or damaged.stem in text]
        if not about or not all(map(REMEDY.search, about)):
            failed.append((where, about or texts))
        shutil.rmtree(source)
        shutil.rmtree(output, ignore_errors=True)
    assert not failed, "\n".join(map(str, failed))
    assert len(seen) == len(corruptions)  # every kind was used


def test_any_value_anywhere_ends_without_a_traceback(written, scenes, tmp_path):
    """Random values in random places of the jsons: a report or a result, and nothing else."""
    values = [None, True, -1, 10**12, 0.5, "", "x", [], [[]], {}, {"a": 1}, float("nan"), [1, "2"]]
    names = [name for name in WRITERS if list((written / name).rglob("*.json"))]
    for seed in range(fuzz_length(60)):
        rng = np.random.default_rng([1, seed])
        name = names[int(rng.integers(len(names)))]
        source, output = tmp_path / f"{seed}", tmp_path / f"{seed}_output"
        shutil.copytree(written / name, source)
        files = sorted(source.rglob("*.json"))
        path = files[int(rng.integers(len(files)))]
        content = json.loads(path.read_text(encoding="utf-8"))
        for _ in range(3):
            found = list(nodes({"top": content}))
            container, key, _, _ = found[int(rng.integers(1, len(found)))] if len(found) > 1 else found[0]
            if rng.random() < 0.3 and isinstance(container, dict):
                del container[key]
            else:
                container[key] = values[int(rng.integers(len(values)))]
        path.write_text(json.dumps(content), encoding="utf-8")
        try:
            run(name, source, output, scenes)
        except UserError as error:
            assert REMEDY.search(str(error)) or "no image of" in str(error), (seed, name, str(error))
        shutil.rmtree(source)
        shutil.rmtree(output, ignore_errors=True)
