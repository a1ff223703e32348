"""Lists the fusion rules that a model can feed, and the keys and values to try for each.

A rule is built like `build_panoptic_fusion` does, from the model's config with a different MODEL.PANOPTIC_FUSION.NAME.
A search therefore starts from the settings of `panoptic-fusion evaluate --model OUT MODEL.PANOPTIC_FUSION.NAME RULE`:
the keys that the config sets, and the rule's own values for all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detectron2.config import CfgNode
from torch import Tensor

from panoptic_fusion.config import with_values
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, PanopticFusion, fill_in_thresholds

from .search import Setting

PREFIX = "MODEL.PANOPTIC_FUSION"


@dataclass(frozen=True)
class Threshold:
    """A key below MODEL.PANOPTIC_FUSION that can be tuned.

    Attributes:
        argument: name of the constructor argument with its value. Rules without this argument do not have the key.
        values: values to try, in addition to the start value.
    """

    argument: str
    values: tuple[Any, ...]


# In the order in which a search goes through them.
THRESHOLDS = {
    "INSTANCES_CONFIDENCE_THRESH": Threshold(
        "instances_confidence_thresh", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    ),
    "OVERLAP_THRESH": Threshold("overlap_thresh", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "TASC.AGREEMENT_THRESH": Threshold("agreement_thresh", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)),
    "UPSNET.UNKNOWN": Threshold("unknown", (False, True)),
    "SRM.ORDER": Threshold("order_by", ("ranking", "product")),
    "STUFF_CHANNELS_ONLY": Threshold("stuff_channels_only", (False, True)),
    "STUFF_AREA_LIMIT": Threshold("stuff_area_limit", (0, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)),
}


class TunableRule:
    """Base class of the fusion rules whose settings are searched; they can be pickled.

    Attributes:
        name: name of the rule.
        usage: comment before the command that uses a setting.
        note: comment after it.
    """

    name: str
    usage: str
    note: str

    @property
    def thresholds(self) -> Mapping[str, Threshold]:
        """Thresholds by key, the axes of a setting in the order in which a search goes through them."""
        raise NotImplementedError

    @property
    def start(self) -> Setting:
        """Setting before tuning."""
        raise NotImplementedError

    @property
    def keys(self) -> list[str]:
        """Keys that can be tuned, the axes of `grid`."""
        return list(self.thresholds)

    @property
    def grid(self) -> list[tuple[Any, ...]]:
        """Values to try for each key, ascending, including the value of `start`."""
        pairs = zip(self.start, (threshold.values for threshold in self.thresholds.values()), strict=True)
        return [tuple(sorted(values if value in values else (*values, value))) for value, values in pairs]

    def full_name(self, key: str) -> str:
        """Returns the name of a key in `named_values`."""
        raise NotImplementedError

    def named_values(self, setting: Setting) -> dict[str, Any]:
        """Returns the rule's name and a setting as {full name: value}, the content of best.yaml."""
        raise NotImplementedError

    def command_words(self, setting: Setting) -> list[str]:
        """Returns the words of a command line that choose the rule and a setting."""
        raise NotImplementedError


@dataclass(frozen=True)
class Rule(TunableRule):
    """A fusion rule of a network with the keys that can be tuned.

    Attributes:
        name: name of the rule in PANOPTIC_FUSION_REGISTRY.
        arguments: arguments of the constructor.
        state: weights, on the CPU; empty for most rules.
        at_input_resolution: whether it fuses at input resolution, see MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION.
    """

    name: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    at_input_resolution: bool

    usage = "To evaluate a trained model with it:"
    note = "To use it in a config, list this file after the other bases in _BASE_."

    @property
    def thresholds(self) -> Mapping[str, Threshold]:
        """Keys below MODEL.PANOPTIC_FUSION that the rule has."""
        return {key: threshold for key, threshold in THRESHOLDS.items() if threshold.argument in self.arguments}

    @property
    def start(self) -> Setting:
        """Setting in the model's config."""
        return tuple(self.arguments[threshold.argument] for threshold in self.thresholds.values())

    def build(self, setting: Setting) -> PanopticFusion:
        """Builds the fusion with a setting, in eval mode, on the CPU.

        Raises:
            ConfigError: the rule does not accept a value, or does not suit the model.
        """
        arguments = (threshold.argument for threshold in self.thresholds.values())
        changed = dict(zip(arguments, setting, strict=True))
        fusion = PANOPTIC_FUSION_REGISTRY.get(self.name)(**{**self.arguments, **changed})
        fusion.load_state_dict(self.state)
        return fusion.eval()

    def full_name(self, key: str) -> str:
        """Returns the config key."""
        return f"{PREFIX}.{key}"

    def named_values(self, setting: Setting) -> dict[str, Any]:
        """Returns a setting as config keys: {KEY: value}, with the rule's name."""
        named = {self.full_name(key): value for key, value in zip(self.keys, setting, strict=True)}
        return {f"{PREFIX}.NAME": self.name, **named}

    def command_words(self, setting: Setting) -> list[str]:
        """Returns a setting as KEY VALUE pairs."""
        return [str(word) for pair in self.named_values(setting).items() for word in pair]


def rules_of_model(
    cfg: CfgNode, fusion: PanopticFusion, names: Sequence[str] = ()
) -> tuple[dict[str, Rule], dict[str, str]]:
    """Returns the registered rules that a model can feed, and why the others cannot be used.

    Args:
        cfg: resolved config of the model.
        fusion: fusion of the model. Rules with weights can only be tuned if the model was trained with them.
        names: rules to consider; default: all.

    Returns:
        {name: rule}, and {name: reason}.

    Raises:
        UserError: a name is not registered, or no rule remains.
    """
    check_names(names)
    rules, reasons = {}, {}
    for name in names or [name for name, _ in PANOPTIC_FUSION_REGISTRY]:
        try:
            rules[name] = _rule_of(cfg, fusion, name)
        except ConfigError as error:
            reasons[name] = str(error)
    if not rules:
        raise UserError(f"no rule can be tuned: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}")
    return rules, reasons


def check_names(names: Sequence[str]) -> None:
    """Checks names of fusion rules.

    Raises:
        UserError: a name is not registered.
    """
    registered = sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY)
    for name in names:
        if name not in registered:
            raise UserError(f"--rule: {name} is not a fusion rule; available: {', '.join(registered)}")


def _rule_of(cfg: CfgNode, fusion: PanopticFusion, name: str) -> Rule:
    cls = PANOPTIC_FUSION_REGISTRY.get(name)
    cfg = with_values(cfg, {f"{PREFIX}.NAME": name, "MODEL.SEM_SEG_HEAD.ONTOLOGY": fusion.ontology})
    cfg = fill_in_thresholds(cfg)
    rule = Rule(name, cls.from_config(cfg), {}, bool(cfg.MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION))
    built = cls(**rule.arguments)
    if not built.state_dict():
        return rule
    if type(fusion) is not cls:
        raise ConfigError("it has weights, and the model was not trained with it")
    return replace(rule, state={key: value.cpu() for key, value in fusion.state_dict().items()})
