"""The training loader on datasets with and without an instances json: the filter and the samplers."""

import itertools
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng
from tiny_panoptic import make_tiny

from panoptic_fusion import get_cfg
from panoptic_fusion.data import register_panoptic
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.data.training_data import training_data
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.errors import ConfigError

THING_OF_IMAGE = [(4, 0), (4, 1), (20, 0), None]  # category and iscrowd of all things of an image
TREE = 9


@pytest.fixture(scope="module")
def names(tmp_path_factory) -> dict[str, str]:
    """Four images each, with the things above: one set with an instances json, one with PNGs alone."""
    found = {}
    for kind in ("instances", "png"):
        folder = tmp_path_factory.mktemp(kind)
        files = make_tiny(folder / "data", seed=len(kind), num_images=4, instances=kind == "instances")
        path = Path(files.panoptic_json)
        content = json.loads(path.read_text())
        for annotation, thing in zip(content["annotations"], THING_OF_IMAGE, strict=True):
            for segment in annotation["segments_info"]:
                if segment["category_id"] in (4, 20):
                    segment["category_id"], segment["iscrowd"] = thing or (TREE, 0)
        path.write_text(json.dumps(content))
        if files.instances_json:
            change_instances(Path(files.instances_json), [a["image_id"] for a in content["annotations"]])
        found[kind] = f"{folder.name}_{kind}_of_training_data"
        register_panoptic(found[kind], **asdict(files))
    return found


def change_instances(path: Path, image_ids: list[int]) -> None:
    thing_of = dict(zip(image_ids, THING_OF_IMAGE, strict=True))
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if thing_of[a["image_id"]]]
    for annotation in content["annotations"]:
        annotation["category_id"], annotation["iscrowd"] = thing_of[annotation["image_id"]]
    path.write_text(json.dumps(content))


def config(*train: str, **loader) -> CfgNode:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = train
    cfg.SOLVER.IMS_PER_BATCH, cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.ASPECT_RATIO_GROUPING = 1, 0, False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (16, 24), 64
    cfg.DATALOADER.REPEAT_THRESHOLD, cfg.DATALOADER.REPEAT_SQRT = 1.0, False
    for key, value in loader.items():
        cfg.DATALOADER[key] = value
    return cfg


def draw(loader, count: int) -> list[tuple]:
    """Number of the image (0..3), file and pixels of the next `count`."""
    batches = itertools.islice(loader, count)
    return [((x["image_id"] - 5) // 10, x["file_name"], x["image"].sum().item()) for batch in batches for x in batch]


def drawn_images(cfg: CfgNode, count: int) -> Counter:
    seed_all_rng(1)
    return Counter(index for index, _, _ in draw(PanopticTrainer.build_train_loader(cfg), count))


@pytest.mark.parametrize("order", [("instances", "png"), ("png", "instances")])
def test_data_sets_with_and_without_an_instances_json(names, order):
    loader = PanopticTrainer.build_train_loader(config(*(names[kind] for kind in order)))
    files = {file for _, file, _ in draw(loader, 8)}
    assert len(files) == 8


@pytest.mark.parametrize("kind", ["instances", "png"])
def test_images_without_a_thing_are_left_out(names, kind):
    assert drawn_images(config(names[kind]), 8) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert drawn_images(config(names[kind], FILTER_EMPTY_ANNOTATIONS=True), 8) == {0: 4, 2: 4}


@pytest.mark.parametrize("kind", ["instances", "png"])
@pytest.mark.parametrize("filtered", [False, True])
def test_images_without_annotation_as_negatives(tmp_path, kind, filtered):
    """Left out by default; with "negatives" they are images without things, whose pixels the semantic loss ignores."""
    files = make_tiny(tmp_path / "data", seed=6, num_images=4, instances=kind == "instances")
    content = json.loads(Path(files.panoptic_json).read_text())
    content["annotations"] = content["annotations"][:2]
    Path(files.panoptic_json).write_text(json.dumps(content))
    name = f"negatives_{kind}_{filtered}"
    register_panoptic(name, **asdict(files))
    cfg = config(name, FILTER_EMPTY_ANNOTATIONS=filtered)
    assert drawn_images(cfg, 8) == {0: 4, 1: 4}
    cfg.DATASETS.UNANNOTATED = "negatives"
    assert drawn_images(cfg, 8) == {0: 2, 1: 2, 2: 2, 3: 2}
    for batch in itertools.islice(PanopticTrainer.build_train_loader(cfg), 8):
        image = batch[0]
        negative = image["image_id"] > 15
        assert (len(image["instances"]) == 0) == negative and bool((image["sem_seg"] == 255).all()) == negative
        assert image["sem_seg"].shape == image["image"].shape[1:]


def test_only_void_is_refused(tmp_path):
    files = make_tiny(tmp_path / "data", seed=1, instances=False)
    content = json.loads(Path(files.panoptic_json).read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"] = []
    Path(files.panoptic_json).write_text(json.dumps(content))
    register_panoptic("only_void_to_train", **asdict(files))
    with pytest.raises(ConfigError, match="no image has a segment"):
        PanopticTrainer.build_train_loader(config("only_void_to_train"))


def test_other_colors_are_no_other_classes(tmp_path):
    """Two datasets whose jsons differ in colors alone are trained together; another name is another class."""
    found = []
    for index, change in enumerate(({}, {"color": [9, 9, 9]}, {"name": "bicycle"})):
        files = make_tiny(tmp_path / str(index), seed=index, instances=False)
        content = json.loads(Path(files.panoptic_json).read_text())
        content["categories"][-1].update(change)
        Path(files.panoptic_json).write_text(json.dumps(content))
        found.append(f"colors_{index}")
        register_panoptic(found[-1], **asdict(files))
    assert len({file for _, file, _ in draw(PanopticTrainer.build_train_loader(config(*found[:2])), 6)}) == 6
    with pytest.raises(ConfigError, match="different categories"):
        PanopticTrainer.build_train_loader(config(found[0], found[2]))


def test_no_image_is_left(tmp_path):
    files = make_tiny(tmp_path / "data", seed=1, instances=False)
    content = json.loads(Path(files.panoptic_json).read_text())
    for annotation in content["annotations"]:
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["category_id"] not in (4, 20)]
    Path(files.panoptic_json).write_text(json.dumps(content))
    register_panoptic("no_thing_to_train", **asdict(files))
    with pytest.raises(ConfigError, match="FILTER_EMPTY_ANNOTATIONS True leaves no image"):
        PanopticTrainer.build_train_loader(config("no_thing_to_train", FILTER_EMPTY_ANNOTATIONS=True))


@pytest.mark.parametrize("kind", ["instances", "png"])
def test_images_of_rare_things_are_repeated(names, kind):
    """With this threshold as often as 1 / the share of images with the class: cars are in 2 of 4, people in 1."""
    sampler = {"SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}
    assert drawn_images(config(names[kind], **sampler), 9 * 2) == {0: 2 * 2, 1: 2 * 2, 2: 4 * 2, 3: 1 * 2}
    assert drawn_images(config(names[kind], **sampler, FILTER_EMPTY_ANNOTATIONS=True), 4) == {0: 2, 2: 2}
    both = config(names["instances"], names["png"], **sampler)
    assert drawn_images(both, 18) == {0: 2 * 2, 1: 2 * 2, 2: 2 * 4, 3: 2 * 1}


def test_repeated_images_come_in_an_order_of_the_seed(names):
    def order(seed: int) -> list[int]:
        seed_all_rng(seed)
        _, sampler = training_data(config(names["png"], SAMPLER_TRAIN="RepeatFactorTrainingSampler"))
        return list(itertools.islice(sampler, 90))

    assert order(1) == order(1) != order(2)


def test_draws_are_those_of_detectron2(names):
    """Where it can read the dataset; the same images, augmented in the same way."""
    for cfg in (
        config(names["instances"]),
        config(names["instances"], FILTER_EMPTY_ANNOTATIONS=True),
        config(names["png"]),
        config(names["instances"], SAMPLER_TRAIN="RandomSubsetTrainingSampler", RANDOM_SUBSET_RATIO=0.5),
    ):
        seed_all_rng(4)
        expected = draw(build_detection_train_loader(cfg, mapper=PanopticDatasetMapper(cfg, is_train=True)), 12)
        after = torch.rand(1)
        seed_all_rng(4)
        assert draw(PanopticTrainer.build_train_loader(cfg), 12) == expected and torch.rand(1) == after
