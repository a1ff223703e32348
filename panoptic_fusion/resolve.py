"""What a config leaves to the data: the classes, and with them the sizes of all heads.

`T` things, `S` stuff and the ontology decide every NUM_CLASSES. They come from `MODEL.CATEGORIES` if a trained
model's config carries them, else from the first training data set, and are never typed into a config.
"""

import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .check_config import OUTPUTS, check_parts, check_values
from .checkpoint import named_checkpoint
from .data.coco_panoptic import label_space_of, register_from_config
from .data.label_space import LabelSpace
from .errors import ConfigError
from .modeling.backbone.branches import stuff_features
from .modeling.backbone.timm_config import forget_pretraining, resolve_timm
from .read_config import merge_opts, read_config

# What the networks of one task can return; all others return everything that MODEL.PANOPTIC_FUSION.OUTPUTS may list.
RETURNED_OUTPUTS = {"InstanceNetwork": {"instances"}, "SemanticNetwork": {"sem_seg", "panoptic_seg"}}


def resolve_config(cfg: CfgNode) -> CfgNode:
    """Registers the config's data sets, fills in the classes and checks the names of the parts.

    Args:
        cfg: a config with the project's keys, frozen or not. It is not changed.

    Returns:
        A frozen copy with MODEL.CATEGORIES and all NUM_CLASSES set, MODEL.SEM_SEG_HEAD.IN_FEATURES named after
        MODEL.SHARING, the input normalisation of a timm network, of MODEL.PANOPTIC_FUSION.OUTPUTS only what the
        meta-architecture can return, and MODEL.DEVICE "cpu" where there is no GPU. Resolving it again changes nothing.

    Raises:
        ConfigError: a key has a value that cannot work; the message names the key.
        FileNotFoundError: the training data set's files are missing.
    """
    cfg = cfg.clone()
    cfg.defrost()
    register_from_config(cfg.DATASETS.REGISTER if not cfg.MODEL.CATEGORIES else _present(cfg.DATASETS.REGISTER))
    check_parts(cfg)
    resolve_timm(cfg)
    check_values(cfg)
    possible = RETURNED_OUTPUTS.get(cfg.MODEL.META_ARCHITECTURE, OUTPUTS)
    cfg.MODEL.PANOPTIC_FUSION.OUTPUTS = [name for name in cfg.MODEL.PANOPTIC_FUSION.OUTPUTS if name in possible]
    cfg.MODEL.DEVICE = available_device(cfg.MODEL.DEVICE)
    if not cfg.MODEL.CATEGORIES:
        if not cfg.DATASETS.TRAIN:
            raise ConfigError("MODEL.CATEGORIES and DATASETS.TRAIN are both empty: name a training data set")
        cfg.MODEL.CATEGORIES = label_space_of(cfg.DATASETS.TRAIN[0]).to_categories()
    label_space = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    label_space.require_things()
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
    return cfg


def load_trained(model_dir: str | os.PathLike, opts: list[str] = ()) -> CfgNode:
    """The config of a trained model from its OUTPUT_DIR alone; no data set needs to be there.

    Args:
        model_dir: an OUTPUT_DIR with `config.yaml` and a checkpoint.
        opts: further "KEY VALUE" pairs.

    Returns:
        A resolved config whose MODEL.WEIGHTS is the last checkpoint of `model_dir`: ready for `DefaultPredictor`. Of an
        evaluated `IndependentPanoptic`, which loads the checkpoints of its two networks, MODEL.WEIGHTS stays what it
        was: that of its fusion, or empty.
        MODEL.DEVICE is that of the training; "cpu" where there is no GPU.

    Raises:
        FileNotFoundError: the folder has no config.yaml or no checkpoint.
    """
    model_dir = Path(model_dir)
    if not (model_dir / "config.yaml").is_file():
        raise FileNotFoundError(f"{model_dir} has no config.yaml: give the OUTPUT_DIR of a training")
    weights = named_checkpoint(model_dir) or model_dir / "model_final.pth"
    cfg = read_config(model_dir / "config.yaml")
    forget_pretraining(cfg)
    if not loads_its_own_weights(cfg):
        cfg.MODEL.WEIGHTS = str(weights)
    cfg.OUTPUT_DIR = str(model_dir)
    merge_opts(cfg, opts)
    if not loads_its_own_weights(cfg) and not os.path.isfile(cfg.MODEL.WEIGHTS):
        raise FileNotFoundError(f"{cfg.MODEL.WEIGHTS} does not exist: {model_dir} holds no finished checkpoint")
    return resolve_config(cfg)


def loads_its_own_weights(cfg: CfgNode) -> bool:
    """Whether the network takes its weights from MODEL.INDEPENDENT.*; then MODEL.WEIGHTS may be empty."""
    return cfg.MODEL.META_ARCHITECTURE == "IndependentPanoptic"


def available_device(device: str) -> str:
    """A device of a config (the default is "cuda"); "cpu" in place of a GPU where there is none."""
    return "cpu" if device.startswith("cuda") and not torch.cuda.is_available() else device


def _present(entries: list[dict]) -> list[dict]:
    """The data sets of a trained model's config that this machine has (it may have none)."""
    return [e for e in entries if os.path.exists(os.path.expanduser(os.path.expandvars(str(e.get("panoptic_json")))))]
