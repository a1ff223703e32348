"""The mapper: against loops over single masks, edge cases, and faults that reach the trainer as one line."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.structures import BitMasks
from PIL import Image
from tiny_panoptic import make_tiny, save_id_map

from panoptic_fusion.data.coco_panoptic import load_panoptic, register_panoptic
from panoptic_fusion.data.dataset_errors import DatasetError
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.mapper import PanopticDatasetMapper, build_augmentations, common_label_space
from panoptic_fusion.errors import ConfigError


def mapper_of(space: LabelSpace, *augmentations, ontology: str = "full", train: bool = True) -> PanopticDatasetMapper:
    return PanopticDatasetMapper(
        train, augmentations=augmentations, image_format="RGB", label_space=space, ontology=ontology
    )


def id_map_of(record: dict) -> np.ndarray:
    return np.array(Image.open(record["pan_seg_file_name"])).astype(int) @ [1, 256, 65536]


def expected_masks(record: dict, transform: T.Transform) -> list[tuple[dict, np.ndarray]]:
    """(segment, mask after `transform`) of every segment, each mask transformed by itself."""
    ids = id_map_of(record)
    masks = [(s, transform.apply_segmentation((ids == s["id"]).astype(np.uint8)) > 0) for s in record["segments_info"]]
    return masks


def box_of(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def check_types(out: dict, record: dict) -> None:
    image, sem_seg, instances = out["image"], out["sem_seg"], out["instances"]
    assert image.dtype == torch.uint8 and image.shape[0] == 3 and image.is_contiguous()
    assert sem_seg.dtype == torch.int64 and sem_seg.shape == image.shape[1:] == instances.image_size
    assert instances.gt_boxes.tensor.dtype == torch.float32 and instances.gt_classes.dtype == torch.int64
    assert isinstance(instances.gt_masks, BitMasks) and instances.gt_masks.tensor.dtype == torch.bool
    assert instances.gt_masks.tensor.shape == (len(instances), *instances.image_size)
    for key in ("height", "width", "image_id", "file_name"):
        assert out[key] == record[key]


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_against_single_masks(tmp_path, seed, ontology):
    rng = np.random.default_rng(seed)
    space, dicts = load_panoptic(make_tiny(tmp_path, seed, num_images=2, instances=False))
    for record in dicts:
        height, width = record["height"], record["width"]
        new_size = int(rng.integers(8, 60)), int(rng.integers(8, 60))
        parts = [T.ResizeTransform(height, width, *new_size), T.CropTransform(2, 1, new_size[1] - 3, new_size[0] - 2)]
        parts.append(T.HFlipTransform(new_size[1] - 3))
        transform = T.TransformList(parts[: int(rng.integers(0, 4))])
        out = mapper_of(space, *transform.transforms, ontology=ontology)(record)
        check_types(out, record)
        image = transform.apply_image(np.array(Image.open(record["file_name"])))
        assert np.array_equal(out["image"].numpy(), image.transpose(2, 0, 1))
        sem_seg, things = np.full(image.shape[:2], 255), []
        for segment, mask in expected_masks(record, transform):
            thing_channel = {"full": 3 + segment["category_id"], "collapsed": 3, "stuff": 255}[ontology]
            sem_seg[mask] = thing_channel if segment["isthing"] else segment["category_id"]
            if segment["isthing"] and not segment["iscrowd"] and mask.any():
                things.append((segment["category_id"], mask))
        assert np.array_equal(out["sem_seg"].numpy(), sem_seg)
        assert out["instances"].gt_classes.tolist() == [c for c, _ in things]
        for index, (_, mask) in enumerate(things):
            assert np.array_equal(out["instances"].gt_masks.tensor[index].numpy(), mask)
            assert out["instances"].gt_boxes.tensor[index].tolist() == box_of(mask)


@pytest.mark.parametrize("seed", range(10))
def test_overlapping_instances(tmp_path, seed):
    """With an instances json its masks are used, whole, not those of the PNG; the semantic map is still the PNG's."""
    files = make_tiny(tmp_path, seed, num_images=2)
    space, dicts = load_panoptic(files)
    raw = json.loads(Path(files.instances_json).read_text())["annotations"]
    for record in dicts:
        transform = T.ResizeTransform(record["height"], record["width"], 33, 21)
        out = mapper_of(space, transform)(record)
        check_types(out, record)
        mine, count = [a for a in raw if a["image_id"] == record["image_id"]], 0
        for annotation in mine:
            x, y, w, h = annotation["bbox"]
            mask = np.zeros((record["height"], record["width"]), dtype=np.uint8)
            mask[y : y + h, x : x + w] = 1
            mask = transform.apply_segmentation(mask) > 0
            if mask.any():
                assert np.array_equal(out["instances"].gt_masks.tensor[count].numpy(), mask)
                assert out["instances"].gt_boxes.tensor[count].tolist() == box_of(mask)
                assert out["instances"].gt_classes[count] == {4: 0, 20: 1}[annotation["category_id"]]
                count += 1
        assert len(out["instances"]) == count
        without = mapper_of(space, transform)({k: v for k, v in record.items() if k != "annotations"})
        assert torch.equal(out["sem_seg"], without["sem_seg"])


@pytest.mark.parametrize("train", [True, False])
def test_an_unknown_ontology_is_rejected_at_once(train):
    space = LabelSpace.from_categories([{"id": 1, "name": "a", "isthing": 1, "color": [1, 2, 3]}])
    for label_space in (space,) if train else (space, None):
        with pytest.raises(ConfigError, match="unknown ontology 'everything'"):
            PanopticDatasetMapper(
                train, augmentations=[], image_format="RGB", label_space=label_space, ontology="everything"
            )


def one_image(tmp_path: Path, id_map: np.ndarray, segments: list[dict]) -> dict:
    save_id_map(id_map, tmp_path / "map.png")
    height, width = id_map.shape
    Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "pan_seg_file_name": str(tmp_path / "map.png"),
        "image_id": 1,
        "height": height,
        "width": width,
        "segments_info": segments,
    }


SPACE = LabelSpace.from_categories(
    [{"id": i, "name": name, "isthing": thing} for i, name, thing in ((1, "sky", 0), (2, "dog", 1), (3, "cat", 1))]
)


def thing(segment_id: int, category_id: int = 0, iscrowd: int = 0) -> dict:
    return {"id": segment_id, "category_id": category_id, "isthing": True, "iscrowd": iscrowd}


@pytest.mark.parametrize("num", [254, 255, 256, 300, 700])
def test_hundreds_of_instances(tmp_path, num):
    """More than 255 labels do not fit into the byte in which detectron2 resizes maps."""
    id_map = (1000 + np.arange(30 * 30) % num).reshape(30, 30)
    record = one_image(tmp_path, id_map, [thing(1000 + k, k % 2) for k in range(num)])
    for size in ((30, 30), (60, 45), (17, 13)):
        transform = T.ResizeTransform(30, 30, *size)
        instances = mapper_of(SPACE, transform)(record)["instances"]
        expected = [(s["category_id"], m) for s, m in expected_masks(record, transform) if m.any()]
        assert instances.gt_classes.tolist() == [c for c, _ in expected]
        assert np.array_equal(instances.gt_masks.tensor.numpy(), np.stack([m for _, m in expected]))


def test_all_void_only_crowd_and_vanishing(tmp_path):
    void = one_image(tmp_path, np.zeros((12, 10), dtype=int), [])
    out = mapper_of(SPACE, T.ResizeTransform(12, 10, 20, 30))(void)
    check_types(out, void)
    assert len(out["instances"]) == 0 and (out["sem_seg"] == 255).all()
    assert out["instances"].gt_masks.tensor.shape == (0, 20, 30) and out["instances"].gt_boxes.tensor.shape == (0, 4)
    empty = mapper_of(SPACE)({**void, "annotations": []})
    check_types(empty, void)

    id_map = np.zeros((12, 10), dtype=int)
    id_map[:4], id_map[11, 9] = 7, 8
    record = one_image(tmp_path, id_map, [thing(7, 1, iscrowd=1), thing(8)])
    out = mapper_of(SPACE)(record)
    assert (out["sem_seg"][:4] == 2).all() and (out["sem_seg"][4:11] == 255).all()
    assert out["instances"].gt_boxes.tensor.tolist() == [[9, 11, 10, 12]]
    out = mapper_of(SPACE, T.CropTransform(0, 0, 10, 11))(record)
    check_types(out, record)
    assert len(out["instances"]) == 0


def test_at_test_time(tmp_path):
    space, dicts = load_panoptic(make_tiny(tmp_path, seed=0))
    mapper = mapper_of(None, T.ResizeShortestEdge(50, 200), train=False)
    Path(dicts[0]["pan_seg_file_name"]).unlink()
    out = mapper(dicts[0])
    assert min(out["image"].shape[1:]) == 50 and "instances" not in out and "sem_seg" not in out
    assert (out["height"], out["width"]) == (dicts[0]["height"], dicts[0]["width"])
    with pytest.raises(ConfigError, match="label space"):
        mapper_of(None)


def test_input_is_not_changed(tmp_path):
    space, dicts = load_panoptic(make_tiny(tmp_path, seed=0))
    before = json.dumps(dicts, default=lambda v: v.decode() if isinstance(v, bytes) else str(v))
    for record in dicts:
        mapper_of(space, T.RandomFlip())(record)
    assert json.dumps(dicts, default=lambda v: v.decode() if isinstance(v, bytes) else str(v)) == before


def test_faults_name_the_file(tmp_path):
    space, dicts = load_panoptic(make_tiny(tmp_path, seed=0))
    mapper, record = mapper_of(space), dicts[0]
    name = Path(record["file_name"]).name
    with pytest.raises(DatasetError, match=f"{name}: the image is .* according to the JSON, 7x"):
        mapper({**record, "width": 7})
    with pytest.raises(DatasetError, match="map0.png: id .* not in segments_info"):
        mapper({**record, "segments_info": record["segments_info"][1:]})
    with pytest.raises(DatasetError, match="map0.png: segment id 77 .* no pixel"):
        mapper({**record, "segments_info": [*record["segments_info"], thing(77)]})
    with pytest.raises(DatasetError, match="nowhere.jpg: the image is missing"):
        mapper({**record, "file_name": str(tmp_path / "nowhere.jpg")})
    with pytest.raises(DatasetError, match="nowhere.png: the PNG is missing"):
        mapper({**record, "pan_seg_file_name": str(tmp_path / "nowhere.png")})
    Path(record["file_name"]).write_bytes(b"no image")
    with pytest.raises(DatasetError, match=f"{name}: the image cannot be read"):
        mapper(record)


def test_a_worker_s_fault_is_one_line(tmp_path):
    space, dicts = load_panoptic(make_tiny(tmp_path, seed=0))
    Path(dicts[1]["pan_seg_file_name"]).write_bytes(b"")
    dataset = MapDataset(DatasetFromList(dicts), mapper_of(space))
    loader = torch.utils.data.DataLoader(dataset, num_workers=1, batch_size=None, collate_fn=lambda item: item)
    with pytest.raises(DatasetError) as error:
        list(loader)
    assert str(error.value) == f"{dicts[1]['pan_seg_file_name']}: the PNG is corrupt: it is empty"


def config(**inputs) -> CfgNode:
    cfg = get_cfg()
    cfg.INPUT.SCALE_JITTER, cfg.INPUT.MAX_PIXELS = [], 2**28
    for key, value in inputs.items():
        cfg.INPUT[key] = value
    return cfg


def sizes_after(augmentations: list, height: int, width: int, times: int = 60) -> set[tuple[int, int]]:
    sizes = set()
    for _ in range(times):
        aug_input = T.AugInput(np.zeros((height, width, 3), dtype=np.uint8))
        T.AugmentationList(augmentations)(aug_input)
        sizes.add(aug_input.image.shape[:2])
    return sizes


def test_augmentations_follow_the_config():
    cfg = config(MIN_SIZE_TRAIN=(40,), MAX_SIZE_TRAIN=1000, MIN_SIZE_TEST=30, MAX_SIZE_TEST=1000)
    assert sizes_after(build_augmentations(cfg, True), 20, 30) == {(40, 60)}
    assert sizes_after(build_augmentations(cfg, False), 20, 30) == {(30, 45)}
    cfg.INPUT.SCALE_JITTER = [0.5, 2.0]
    sizes = sizes_after(build_augmentations(cfg, True), 20, 30, times=400)
    short = {h for h, _ in sizes}
    assert min(short) in range(20, 24) and max(short) in range(77, 81)
    assert all(abs(w - 1.5 * h) <= 1 for h, w in sizes)
    cfg.INPUT.MAX_SIZE_TRAIN = 75
    assert max(w for _, w in sizes_after(build_augmentations(cfg, True), 20, 30)) == 75
    cfg.INPUT.CROP = CfgNode({"ENABLED": True, "TYPE": "absolute", "SIZE": [16, 18]})
    assert sizes_after(build_augmentations(cfg, True), 20, 30) == {(16, 18)}
    kinds = [type(a).__name__ for a in build_augmentations(cfg, True)]
    assert kinds == ["ResizeShortestEdge", "RandomCrop", "RandomFlip"]
    cfg.INPUT.RANDOM_FLIP = "none"
    assert len(build_augmentations(cfg, True)) == 2


@pytest.mark.parametrize("jitter", [[1.0], [2.0, 1.0], [0.0, 1.0], [1.0, 2.0, 3.0]])
def test_bad_jitter(jitter):
    with pytest.raises(ConfigError, match="INPUT.SCALE_JITTER"):
        build_augmentations(config(SCALE_JITTER=jitter), True)


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0), ("none", None)])
def test_flip_mirrors_the_named_axis(flip, axis):
    """Half of the images are mirrored: left to right where the flip is horizontal, top to bottom where vertical."""
    image = np.random.default_rng(0).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    cfg = config(MIN_SIZE_TRAIN=(8,), MAX_SIZE_TRAIN=100, RANDOM_FLIP=flip)
    expected = {image.tobytes()} | ({np.flip(image, axis).tobytes()} if axis is not None else set())
    found = set()
    for _ in range(40):
        aug_input = T.AugInput(image.copy())
        T.AugmentationList(build_augmentations(cfg, True))(aug_input)
        assert aug_input.image.shape == image.shape
        found.add(np.ascontiguousarray(aug_input.image).tobytes())
    assert found == expected


def test_bad_flip():
    with pytest.raises(ConfigError, match="INPUT.RANDOM_FLIP"):
        build_augmentations(config(RANDOM_FLIP="diagonal"), True)


@pytest.fixture
def registered(tmp_path):
    names = ["test_mapper_a", "test_mapper_b", "test_mapper_other"]
    for index, name in enumerate(names):
        files = make_tiny(tmp_path / name, seed=index, instances=False)
        if index == 2:
            data = json.loads(Path(files.panoptic_json).read_text())
            data["categories"][0]["name"] = "ceiling"
            Path(files.panoptic_json).write_text(json.dumps(data))
        register_panoptic(name, files.images, files.panoptic_root, files.panoptic_json)
    return SimpleNamespace(a=names[0], b=names[1], other=names[2])


def test_from_config(registered):
    cfg = config(MIN_SIZE_TRAIN=(40,), FORMAT="BGR")
    cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY = "collapsed"
    cfg.DATASETS.TRAIN = (registered.a, registered.b)
    record = DatasetCatalog.get(registered.a)[0]
    out = PanopticDatasetMapper(cfg, is_train=True)(record)
    assert min(out["image"].shape[1:]) == 40 and set(out["sem_seg"].unique().tolist()) <= {0, 1, 2, 3, 255}
    cfg.DATASETS.TRAIN = ()
    assert "instances" not in PanopticDatasetMapper(cfg, is_train=False)(record)
    for train, message in (((), "is empty"), ((registered.a, registered.other), "different categories")):
        with pytest.raises(ConfigError, match=message):
            common_label_space(train)
