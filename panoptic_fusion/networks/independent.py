"""Fusion of two separately trained networks, one for instances and one for semantic segmentation.

The papers use this baseline for comparison with their single network ("Ours Independent" in Seamless, section 5).
"""

import os

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.config import read_config, resolve_config
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import build_panoptic_fusion, fill_in_thresholds

from .test_time_augmentation import TestTimeAugmentation, fused_outputs
from .trained import load_trained

PARTS = {"INSTANCES": "instance_network", "SEMANTIC": "semantic_network"}  # keys under MODEL.INDEPENDENT


@META_ARCH_REGISTRY.register()
class IndependentPanoptic(nn.Module):
    """Fusion of one network's instances with another network's semantic segmentation, for inference only.

    Any registered fusion can be used. The outputs are the same as for `PanopticRCNN`. Each network normalizes the image
    with its own PIXEL_MEAN and PIXEL_STD. If it is built from the folders of two training runs, it has their weights.
    The weights of a fusion with parameters, such as SpatialRankingFusion, come from MODEL.WEIGHTS: the checkpoint of
    any network trained with that fusion.
    """

    loads_submodel_weights = True  # from MODEL.INDEPENDENT; MODEL.WEIGHTS may be empty

    @configurable
    def __init__(
        self,
        *,
        instance_network: nn.Module,
        semantic_network: nn.Module,
        fusion: nn.Module,
        outputs: tuple[str, ...] = ("sem_seg", "instances", "panoptic_seg"),
        fuse_at_input_resolution: bool = False,
        augmentation: TestTimeAugmentation | None = None,
        preloaded_modules: tuple[str, ...] = (),
    ):
        """Initializes the network.

        Args:
            instance_network: `InstanceNetwork`, or a `PanopticRCNN` whose semantic segmentation is ignored.
            semantic_network: `SemanticNetwork`, or a `PanopticRCNN` whose instances are ignored.
            fusion, outputs, fuse_at_input_resolution, augmentation: see `PanopticRCNN`.
            preloaded_modules: see `AtomicCheckpointer`.
        """
        super().__init__()
        self.instance_network = instance_network
        self.semantic_network = semantic_network
        self.fusion = fusion
        self.outputs = frozenset(outputs)
        self.paste_masks = True  # as in PanopticRCNN
        self.fuse_at_input_resolution = fuse_at_input_resolution
        self.augmentation = augmentation
        self.preloaded_modules = preloaded_modules

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        """Returns the arguments of `__init__` for a config; loads both networks."""
        cfg = resolve_config(cfg).clone()
        instance_network, _ = _load_network(cfg, "INSTANCES", "roi_heads")
        semantic_network, semantic_cfg = _load_network(cfg, "SEMANTIC", "sem_seg_head")
        cfg.defrost()
        cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY = semantic_cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY
        return {
            "instance_network": instance_network,
            "semantic_network": semantic_network,
            "fusion": build_panoptic_fusion(cfg),
            "outputs": tuple(cfg.MODEL.PANOPTIC_FUSION.OUTPUTS),
            "fuse_at_input_resolution": fill_in_thresholds(cfg).MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION,
            "augmentation": TestTimeAugmentation.from_config(cfg),
            "preloaded_modules": tuple(
                part for key, part in PARTS.items() if os.path.isdir(cfg.MODEL.INDEPENDENT[key])
            ),
        }

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Returns the outputs of each image; see `PanopticRCNN.forward`.

        Raises:
            ConfigError: in training mode.
        """
        if self.training:
            raise ConfigError(
                "MODEL.META_ARCHITECTURE IndependentPanoptic is not trained itself: train an InstanceNetwork and a "
                "SemanticNetwork, then use it with --eval-only"
            )
        return fused_outputs(self, batched_inputs, self.instance_network, self.semantic_network)


def _load_network(cfg: CfgNode, key: str, part: str) -> tuple[nn.Module, CfgNode]:
    """Returns the network that MODEL.INDEPENDENT.<key> names, with its weights if that is a folder, and its config.

    Raises:
        FileNotFoundError: if the folder or file does not exist.
        ConfigError: if the network is not suitable. The message names the key.
    """
    path, device = cfg.MODEL.INDEPENDENT[key], ["MODEL.DEVICE", cfg.MODEL.DEVICE]
    if not path:
        raise ConfigError(f"MODEL.INDEPENDENT.{key} is empty: name the OUTPUT_DIR of a training run, or a config file")
    if os.path.isdir(path):
        own = load_trained(path, device)
    elif os.path.isfile(path):
        own = read_config(path, device)
        own.MODEL.CATEGORIES = own.MODEL.CATEGORIES or cfg.MODEL.CATEGORIES
        own = resolve_config(own)
    else:
        raise FileNotFoundError(f"MODEL.INDEPENDENT.{key}: {path} does not exist")
    for what, theirs, ours in (
        ("classes", LabelSpace.from_categories(own.MODEL.CATEGORIES), LabelSpace.from_categories(cfg.MODEL.CATEGORIES)),
        ("INPUT.FORMAT", own.INPUT.FORMAT, cfg.INPUT.FORMAT),
    ):
        if theirs != ours:
            raise ConfigError(f"MODEL.INDEPENDENT.{key}: the {what} of {path} differ from this config's")
    network = build_model(own)
    if getattr(network, part, None) is None:
        raise ConfigError(f"MODEL.INDEPENDENT.{key}: {path} is a {own.MODEL.META_ARCHITECTURE}, which has no {part}")
    if os.path.isdir(path):
        AtomicCheckpointer.from_config(own, network, require_complete=True).load(own.MODEL.WEIGHTS)
    return network, own
