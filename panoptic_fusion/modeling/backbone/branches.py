"""How much of the backbone instances and stuff share (OANet, section 4.3 and table 4): MODEL.SHARING.

| MODEL.SHARING | table 4         | ResNet | FPN |
|---------------|-----------------|--------|-----|
| "skip"        | skip-connection | one    | one |
| "backbone"    | res1-res5       | one    | two |
| "none"        | no              | two    | two |

"skip" is the network of every other config. In the other two modes the backbone puts out the maps of the stuff
branch's FPN under names of their own, "stuff_p2" for "p2", and MODEL.SEM_SEG_HEAD.IN_FEATURES names those; so every
stuff head, every fusion and every backbone builder goes with every mode.
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
    """The names under which the stuff head finds the given feature maps, whatever the mode in which they were named."""
    prefix = "" if sharing == "skip" else STUFF_PREFIX
    return [prefix + name.removeprefix(STUFF_PREFIX) for name in names]


def add_stuff_branch(backbone: Backbone, cfg: CfgNode) -> Backbone:
    """The backbone of the instances, and with it that of the stuff head as MODEL.SHARING says.

    Args:
        backbone: what `build_backbone(cfg)` returns; it becomes part of the result.
        cfg: a resolved config.

    Raises:
        ConfigError: the backbone does not have the parts that the mode is about, or a level would not be used.
    """
    if cfg.MODEL.SHARING == "skip":
        return backbone
    used = [name.removeprefix(STUFF_PREFIX) for name in cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES]
    return BranchedBackbone(
        backbone, build_backbone(cfg), stuff_levels=used, share_bottom_up=cfg.MODEL.SHARING == "backbone"
    )


class BranchedBackbone(Backbone):
    """Two backbones in one: the maps of `instances` under their names, those of `stuff` with "stuff_" before them.

    A shared ResNet is `bottom_up` and runs once. Its parameters and those of the branches `instances` and `stuff` are
    disjoint, so MODEL.FREEZE can name each of the three.
    """

    def __init__(self, instances: Backbone, stuff: Backbone, *, stuff_levels: list[str], share_bottom_up: bool):
        """
        Args:
            instances, stuff: two backbones of one kind; they are changed and become part of this one.
            stuff_levels: the maps of `stuff` that are used. Extra levels of its FPN (P6 and above), which serve region
                proposals, are left out if none of them is.
            share_bottom_up: use the `bottom_up` of `instances` for both; that of `stuff` is dropped.

        Raises:
            ConfigError: `stuff_levels` are not the levels that `stuff` puts out (several processes need a gradient for
                every parameter), or a backbone whose `bottom_up` is to be shared is not an FPN.
        """
        super().__init__()
        if share_bottom_up and not isinstance(instances, FPN):
            raise ConfigError(
                f"MODEL.SHARING is 'backbone', but MODEL.BACKBONE.NAME builds a {type(instances).__name__}, which is "
                "no FPN: use 'skip' or 'none'"
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
        """Number that the sides of the input must be multiples of."""
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
