"""Lists the fusion rules that files of any model can feed, and the options to try for each.

The rules and options are those of `panoptic_fusion.fuse`. A search starts from the defaults of `panoptic-fusion fuse`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion.rules import RULES

from .rules import THRESHOLDS, Threshold, TunableRule
from .search import Setting

OPTIONS = {
    "confidence_thresh": THRESHOLDS["INSTANCES_CONFIDENCE_THRESH"],
    "overlap_thresh": THRESHOLDS["OVERLAP_THRESH"],
    "agreement_thresh": THRESHOLDS["TASC.AGREEMENT_THRESH"],
    "unknown": THRESHOLDS["UPSNET.UNKNOWN"],
    "stuff_channels_only": THRESHOLDS["STUFF_CHANNELS_ONLY"],
    "stuff_area_limit": THRESHOLDS["STUFF_AREA_LIMIT"],
}
"""{option of `panoptic_fusion.fuse` that can be tuned: values to try}."""


@dataclass(frozen=True)
class FileRule(TunableRule):
    """A rule of `panoptic_fusion.fuse` with the options that can be tuned.

    Attributes:
        name: name of the rule in `RULES`.
        has_logits: whether all images have semantic logits, which `stuff_channels_only` needs.
    """

    name: str
    has_logits: bool

    usage = "To fuse the files with it:"
    note = "In Python, pass these values to panoptic_fusion.fuse or panoptic_fusion.fuse_files."

    @property
    def thresholds(self) -> Mapping[str, Threshold]:
        """Options that the rule has and the files can feed."""
        own = RULES[self.name].options
        return {
            option: threshold
            for option, threshold in OPTIONS.items()
            if option in own and (self.has_logits or option != "stuff_channels_only")
        }

    @property
    def start(self) -> Setting:
        """The rule's defaults."""
        return tuple(RULES[self.name].options[option] for option in self.thresholds)

    def full_name(self, key: str) -> str:
        """Returns the option itself."""
        return key

    def options(self, setting: Setting) -> dict[str, Any]:
        """Returns a setting as options of the rule."""
        return dict(zip(self.keys, setting, strict=True))

    def named_values(self, setting: Setting) -> dict[str, Any]:
        """Returns a setting as keyword arguments of `panoptic_fusion.fuse`."""
        return {"rule": self.name, **self.options(setting)}

    def command_words(self, setting: Setting) -> list[str]:
        """Returns a setting as options of `panoptic-fusion fuse`."""
        words = []
        for name, value in self.named_values(setting).items():
            name = name.replace("_", "-")
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                words += [f"--{name}", str(value)]
        return words


def check_file_rules(names: Sequence[str]) -> None:
    """Checks names of rules.

    Raises:
        UserError: a rule does not exist.
    """
    for name in names:
        if name not in RULES:
            raise UserError(f"--rule: {name} is not a rule for files; available: {', '.join(RULES)}")


def rules_of_files(
    unfit: Sequence[Mapping[str, str]], *, has_logits: bool, names: Sequence[str] = ()
) -> tuple[dict[str, FileRule], dict[str, str]]:
    """Returns the rules that all images can feed, and why the others cannot be used.

    Args:
        unfit: {rule that the image cannot feed: reason} of each image.
        has_logits: see `FileRule`.
        names: names of rules to consider; default: all.

    Returns:
        {name: rule}, and {name: reason}.
    """
    reasons: dict[str, str] = {}
    for image in unfit:
        reasons = {**image, **reasons}
    wanted = names or RULES
    rules = {name: FileRule(name, has_logits) for name in wanted if name not in reasons}
    return rules, {name: reasons[name] for name in wanted if name in reasons}
