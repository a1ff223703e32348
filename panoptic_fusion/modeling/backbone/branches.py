"""Backbones that instances and stuff share fully, in part, or not at all (OANet, section 4.3, table 4).

| MODEL.SHARING | table 4         | ResNet | FPN |
|---------------|-----------------|--------|-----|
| "skip"        | skip-connection | one    | one |
| "backbone"    | res1-res5       | one    | two |
| "none"        | no              | two    | two |

"skip" is the default. In the other two modes the backbone outputs the maps of the stuff branch's FPN
under separate names, "stuff_p2" for "p2", which MODEL.SEM_SEG_HEAD.IN_FEATURES lists. Every stuff head, fusion and
backbone builder can therefore be combined with every mode.
"""

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import FPN, Backbone
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError

SHARING_MODES = ("skip", "backbone", "none")
STUFF_PREFIX = "stuff_"


def stuff_features(names: list[str], sharing: str) -> list[str]:
    """Returns the names that the given feature maps, named for any mode, have for the stuff head in mode `sharing`."""
    prefix = "" if sharing == "skip" else STUFF_PREFIX
    return [prefix + name.removeprefix(STUFF_PREFIX) for name in names]


def add_stuff_branch(backbone: Backbone, cfg: CfgNode) -> Backbone:
    """Returns the backbone of the instances together with a stuff branch as specified by MODEL.SHARING.

    Args:
        backbone: result of `build_backbone(cfg)`; becomes part of the returned backbone.
        cfg: resolved config.

    Raises:
        ConfigError: if the backbone does not have the parts that the mode shares, or if a level would not be used.
    """
    if cfg.MODEL.SHARING == "skip":
        return backbone
    used = [name.removeprefix(STUFF_PREFIX) for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES]
    return BranchedBackbone(
        backbone, build_backbone(cfg), stuff_levels=used, share_bottom_up=cfg.MODEL.SHARING == "backbone"
    )


class BranchedBackbone(Backbone):
    """Two backbones in one. Feature maps of `stuff` have the prefix "stuff_", feature maps of `instances` have none.

    A shared ResNet is `bottom_up` and runs once. `bottom_up`, `instances` and `stuff` have no common parameters, so
    MODEL.FREEZE can name each of the three.
    """

    def __init__(self, instances: Backbone, stuff: Backbone, *, stuff_levels: list[str], share_bottom_up: bool):
        """Combines two backbones.

        Args:
            instances, stuff: two backbones of the same kind; they are modified and become part of this backbone.
            stuff_levels: names of the maps of `stuff` that are used. If they include no extra level of its FPN (P6 and
                above, which serve region proposals), these levels are removed.
            share_bottom_up: whether to use the `bottom_up` of `instances` for both and drop `stuff.bottom_up`.

        Raises:
            ConfigError: if `stuff_levels` differ from the levels that `stuff` outputs (distributed training requires a
                gradient for every parameter), or if `bottom_up` should be shared but the backbone is not an FPN.
        """
        super().__init__()
        if share_bottom_up and not isinstance(instances, FPN):
            raise ConfigError(
                f"MODEL.SHARING is 'backbone', but MODEL.BACKBONE.NAME builds a {type(instances).__name__}, which is "
                "not an FPN: use 'skip' or 'none'"
            )
        if isinstance(stuff, FPN):
            _leave_out_extra_levels(stuff, stuff_levels)
        if set(stuff.output_shape()) != set(stuff_levels):
            raise ConfigError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES has {sorted(stuff_levels)}, but the stuff branch of MODEL.SHARING has "
                f"{sorted(stuff.output_shape())}: name all of these, or set MODEL.SHARING to 'skip'"
            )
        self.bottom_up = nn.Identity()
        if share_bottom_up:
            self.bottom_up, instances.bottom_up, stuff.bottom_up = instances.bottom_up, nn.Identity(), nn.Identity()
        self.instances = instances
        self.stuff = stuff

    @property
    def size_divisibility(self) -> int:
        """Number that must divide the height and width of the input."""
        return self.instances.size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Padding constraints of the input images."""
        return self.instances.padding_constraints

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns the shape of each output feature map."""
        stuff = {STUFF_PREFIX + name: shape for name, shape in self.stuff.output_shape().items()}
        return {**self.instances.output_shape(), **stuff}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the feature maps of both branches for images (N, 3, H, W)."""
        x = self.bottom_up(x)
        stuff = {STUFF_PREFIX + name: feature for name, feature in self.stuff(x).items()}
        return {**self.instances(x), **stuff}


def _leave_out_extra_levels(fpn: FPN, used: list[str]) -> None:
    if fpn.top_block is None:
        return
    names = list(fpn.output_shape())
    extra = set(names[-fpn.top_block.num_levels :])
    if not extra & set(used):
        fpn.top_block = None
        fpn._out_features = [name for name in names if name not in extra]
