"""Fills in the values of a config that follow from the data: the classes, and with them the sizes of all heads.

The numbers of thing classes `T` and stuff classes `S` and the ontology determine every NUM_CLASSES. The classes come
from `MODEL.CATEGORIES` if the config of a trained model contains them, otherwise from the first training dataset. They
are never typed into a config.
"""

import hashlib
import logging
import os
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from panoptic_fusion.data.coco_panoptic import get_label_space, register_from_config
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.model_datasets import register_for_model
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.branches import stuff_features
from panoptic_fusion.modeling.backbone.timm_config import resolve_timm

from .check import check_parts, check_values, possible_outputs
from .plugins import load_plugins
from .registration import register_parts

logger = logging.getLogger(__name__)

_MARK = "_panoptic_fusion_resolved"


def resolve_config(cfg: CfgNode) -> CfgNode:
    """Registers the datasets of a config, fills in the classes and checks the names of the parts.

    Args:
        cfg: config with the project's keys, frozen or not. It is not changed.

    Returns:
        A frozen copy with MODEL.CATEGORIES and all NUM_CLASSES set, MODEL.SEM_SEG_HEAD.IN_FEATURES named according to
        MODEL.SHARING, a network without instances if the dataset has no things, the input normalization of a timm
        network, only those MODEL.PANOPTIC_FUSION.OUTPUTS that the meta-architecture supports, the names of the loaded
        PLUGINS, and MODEL.DEVICE "cpu" if the machine has no GPU. A config that this process has already resolved is
        returned unchanged.

    Raises:
        ConfigError: if a key has an invalid value. The message names the key.
        FileNotFoundError: if the files of the training dataset are missing.
    """
    if vars(cfg).get(_MARK) == _mark(cfg):
        return cfg
    register_parts()
    plugins = load_plugins()
    cfg = cfg.clone()
    cfg.defrost()
    check_values(cfg)
    if cfg.MODEL.CATEGORIES:
        _register_for_model(cfg)
    else:
        register_from_config(cfg.DATASETS.REGISTER)
    check_parts(cfg)
    resolve_timm(cfg)
    cfg.PLUGINS = plugins
    cfg.OUTPUT_DIR = cfg.OUTPUT_DIR or "./output"
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    if not cfg.MODEL.CATEGORIES:
        if not cfg.DATASETS.TRAIN:
            raise ConfigError("MODEL.CATEGORIES and DATASETS.TRAIN are both empty: name a training dataset")
        cfg.MODEL.CATEGORIES = get_label_space(cfg.DATASETS.TRAIN[0]).to_categories()
    label_space = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    if not label_space.thing_classes:
        _without_things(cfg, label_space)
    possible = possible_outputs(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
    cfg.MODEL.PANOPTIC_FUSION.OUTPUTS = [name for name in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS if name in possible]
    if cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY == "stuff":
        label_space.require_stuff()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = label_space.num_things
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = label_space.num_channels(cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = stuff_features(cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES, cfg.MODEL.SHARING)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        if not hasattr(metadata, "thing_classes"):
            label_space.apply_to_metadata(metadata)
    cfg.freeze()
    vars(cfg)[_MARK] = _mark(cfg)
    return cfg


def with_values(cfg: CfgNode, values: dict[str, Any]) -> CfgNode:
    """Returns a frozen copy of a config with new values of keys that `resolve_config` does not use.

    The copy of a config that this process has resolved counts as resolved.

    Args:
        cfg: config, frozen or not. It is not changed.
        values: {KEY: value of the key's type}, such as {"VIS_PERIOD": 0}.
    """
    resolved = vars(cfg).get(_MARK) == _mark(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([word for pair in values.items() for word in pair])
    cfg.freeze()
    if resolved:
        vars(cfg)[_MARK] = _mark(cfg)
    return cfg


def available_device(device: str) -> str:
    """Returns `device`, or "cpu" instead of a GPU that the machine lacks (the default of configs is "cuda")."""
    return "cpu" if device.startswith("cuda") and not torch.cuda.is_available() else device


def _without_things(cfg: CfgNode, label_space: LabelSpace) -> None:
    """Replaces the network, in place, by its class's network for datasets without thing classes.

    Raises:
        UserError: if the class specifies no such network, because it requires things.
    """
    network = getattr(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), "without_things", None)
    if network is None:
        architecture = cfg.MODEL.META_ARCHITECTURE
        label_space.require_things(f"MODEL.META_ARCHITECTURE {architecture} needs things, but the dataset")
    if network != cfg.MODEL.META_ARCHITECTURE:
        text = "the dataset has no thing class: MODEL.META_ARCHITECTURE is %s instead of %s, without instances"
        logger.warning(text, network, cfg.MODEL.META_ARCHITECTURE)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SHARING, cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY = network, "skip", "full"


def _mark(cfg: CfgNode) -> tuple[int, str]:
    """Identifies the content of a config in this process, because other processes have other datasets registered."""
    return os.getpid(), hashlib.sha1(repr(cfg).encode()).hexdigest()


def _register_for_model(cfg: CfgNode) -> None:
    """Registers the datasets of a trained model's config; in the config, names that are taken are replaced."""
    data = cfg.DATASETS
    label_space = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    renamed = register_for_model(data.REGISTER, (*data.TRAIN, *data.TEST), label_space)
    if renamed:
        data.REGISTER = [{**entry, "name": renamed.get(entry["name"], entry["name"])} for entry in data.REGISTER]
        data.TRAIN, data.TEST = (tuple(renamed.get(name, name) for name in names) for names in (data.TRAIN, data.TEST))
