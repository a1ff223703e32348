"""Datasets of one class, of stuff or things only, and of one image, through check, training, evaluation and demo."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_training import TINY_NETWORK, as_opts

SKY = {"id": 1, "name": "sky", "isthing": 0}
ROAD = {"id": 2, "name": "road", "isthing": 0}
CAR = {"id": 3, "name": "car", "isthing": 1}
PERSON = {"id": 4, "name": "person", "isthing": 1}
KINDS = {
    "stuff only": [SKY, ROAD],
    "one stuff class": [ROAD],
    "things only": [CAR, PERSON],
    "one thing class": [CAR],
    "one of each": [ROAD, CAR],
}


def make(folder: Path, categories: list[dict], num_images: int) -> None:
    """images, panoptic and panoptic.json: stuff in equal stripes, one box per thing class over it."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    content = {"images": [], "annotations": [], "categories": categories}
    stuff, things = ([c["id"] for c in categories if c["isthing"] == kind] for kind in (0, 1))
    for number in range(num_images):
        ids = np.zeros((64, 96, 3), np.uint8)
        for row, stripe in enumerate(np.array_split(np.arange(64), max(len(stuff), 1))):
            ids[stripe, :, 0] = stuff[row] if stuff else 0
        for column, category_id in enumerate(things):
            ids[10:40, 10 + 40 * column : 40 + 40 * column, 0] = category_id
        Image.fromarray(ids).save(folder / "panoptic" / f"{number}.png")
        photo = np.clip(60 * ids[..., :1] + rng.integers(0, 40, ids.shape), 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"{number}.png")
        content["images"].append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 96})
        segments = [{"id": i, "category_id": i} for i in (*stuff, *things)]
        content["annotations"].append({"image_id": number, "file_name": f"{number}.png", "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps(content))


def run_all(run_script, config: str, root: Path, categories: list[dict]) -> tuple[dict, list[dict]]:
    """Check, two iterations, evaluation, demo; returns results.json and the entries of the demo's panoptic.json."""
    entries = []
    for split in ("train", "val"):
        paths = {"images": "images", "panoptic_root": "panoptic", "panoptic_json": "panoptic.json"}
        files = {key: str(root / split / name) for key, name in paths.items()}
        entries.append({"name": f"{root.name}_{split}", **files})
        arguments = [x for key, path in files.items() for x in (f"--{key.replace('_', '-')}", path)]
        code, out, err = run_script("check", *arguments, "--workers", "1")
        assert code == 0, out + err
        assert ("no thing class" in out) == all(c["isthing"] == 0 for c in categories)
    settings = {
        **TINY_NETWORK,
        "SOLVER.MAX_ITER": 2,
        "MODEL.DEVICE": "cpu",
        "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": 1,
        "DATASETS.REGISTER": str(entries),
        "DATASETS.TRAIN": f"('{entries[0]['name']}',)",
        "DATASETS.TEST": f"('{entries[1]['name']}',)",
        "OUTPUT_DIR": str(root / "out"),
    }
    code, _, err = run_script("train", "--config-file", config, *as_opts(settings))
    assert code == 0, err
    losses = [json.loads(line) for line in (root / "out" / "metrics.json").read_text().splitlines()]
    assert all(math.isfinite(line["total_loss"]) for line in losses if "total_loss" in line)
    results = json.loads((root / "out" / "results.json").read_text())
    images = root / "val" / "images"
    code, _, err = run_script("demo", "--model", root / "out", "--input", images, "--output", root / "demo")
    assert code == 0, err
    return results, json.loads((root / "demo" / "panoptic.json").read_text())["annotations"]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_classes(kind, tmp_path, run_script, toy_config):
    categories, root = KINDS[kind], tmp_path / kind.replace(" ", "_")
    for split in ("train", "val"):
        make(root / split, categories, 2)
    results, shown = run_all(run_script, toy_config, root, categories)
    has_things = any(c["isthing"] for c in categories)
    assert {key for key in results if key in ("bbox", "segm")} == ({"bbox", "segm"} if has_things else set())
    assert results["panoptic_seg"]["images"] == 2 and len(shown) == 2
    quality = {key for key in results["panoptic_seg"] if key.startswith("PQ-")}
    assert quality == {f"PQ-{c['name']}" for c in categories}
    if kind == "one stuff class":  # the only answer there is
        assert results["panoptic_seg"]["PQ"] == 100.0
        assert [[s["category"] for s in entry["segments_info"]] for entry in shown] == [["road"]] * 2


def test_one_image(tmp_path, run_script, toy_config):
    for split in ("train", "val"):
        make(tmp_path / "one" / split, KINDS["one of each"], 1)
    results, shown = run_all(run_script, toy_config, tmp_path / "one", KINDS["one of each"])
    assert results["panoptic_seg"]["images"] == 1 and len(shown) == 1


def test_one_image_cannot_be_split(tmp_path, run_script, toy_config):
    """Without a validation part fine-tune says what to add."""
    make(tmp_path / "mine", KINDS["one of each"], 1)
    words = ["--data", tmp_path / "mine", "--output", tmp_path / "out", "--config-file", toy_config]
    code, _, err = run_script("fine-tune", *words)
    assert code == 2 and "has 1 annotated image, and a split needs at least 2; add images, or a validation" in err


@pytest.mark.parametrize("system", ["tascnet_r18", "upsnet_r18", "oanet_r18", "seamless_r18", "tascnet_r18_stuff"])
def test_stuff_only_resolves_to_a_semantic_network(system, tmp_path, toy_config):
    """Whatever the system, its sharing and its ontology."""
    from detectron2.modeling import build_model

    from panoptic_fusion import get_cfg, resolve_config

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(toy_config).with_name(f"{system}.yaml")))
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = [SKY, ROAD], "cpu"
    cfg.MODEL.WEIGHTS = ""
    resolved = resolve_config(cfg)
    assert resolved.MODEL.META_ARCHITECTURE == "SemanticNetwork" and resolved.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 2
    assert type(build_model(resolved)).__name__ == "SemanticNetwork"
    assert resolve_config(resolved) == resolved


def test_networks_that_need_things_say_so(toy_config):
    from panoptic_fusion import get_cfg, resolve_config
    from panoptic_fusion.errors import UserError

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(toy_config).with_name("seamless_r18_instances.yaml")))
    cfg.MODEL.CATEGORIES = [SKY, ROAD]
    with pytest.raises(UserError, match="InstanceNetwork needs things, but the dataset has no thing class"):
        resolve_config(cfg)
