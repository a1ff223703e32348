"""Staged training: parts of a network that stay as they are, for any system (TASCNet, section 4.3 and table 3)."""

from collections.abc import Iterable

from torch import nn

from panoptic_fusion.errors import ConfigError

from .losses import trained_parts

HEADS = ("proposal_generator", "roi_heads", "sem_seg_head")


def freeze_parts(model: nn.Module, parts: Iterable[str]) -> None:
    """Excludes parts of a PanopticRCNN from training, in place.

    Their parameters get no gradient and their norm layers keep their statistics. The losses of a head that is frozen
    as a whole ("proposal_generator", "sem_seg_head", "roi_heads", "fusion") are left out of what the model returns in
    training, so that an untrained head does not disturb the backbone. A loss that trains several parts is left out when
    one of them is frozen as a whole; what a loss trains is declared by the part that returns it (`losses.py`).
    The frozen head's forward still runs, its backward does not; where only a fusion is left that learns from the ground
    truth alone, the network does not run at all. Weights trained in one stage are the MODEL.WEIGHTS of the next.

    With several processes every parameter that is left must get a gradient. Levels of the pyramid that only a frozen
    head reads are therefore to be listed, too: "backbone.top_block" with "proposal_generator".

    Args:
        model: not yet wrapped for several processes.
        parts: names of modules or beginnings of them at a dot, such as "backbone.bottom_up" (MODEL.FREEZE).

    Raises:
        ConfigError: a part names no parameter, or nothing is left to train.
    """
    parts = tuple(parts)
    if not parts:
        return
    for part in parts:
        parameters = [p for name, p in model.named_parameters() if _is_in(name, part)]
        if not parameters:
            known = ", ".join(name for name, child in model.named_children() if any(True for _ in child.parameters()))
            raise ConfigError(f"MODEL.FREEZE: no parameter belongs to {part!r}; there are {known} and what is in them")
        for parameter in parameters:
            parameter.requires_grad_(False)
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    heads_left = {*HEADS, *({"fusion"} & learning)} - set(parts)
    if not heads_left or not learning:
        raise ConfigError(f"MODEL.FREEZE is {list(parts)}: no head, or no parameter at all, is left to train")

    frozen = [module for name, module in model.named_modules() if any(_is_in(name, part) for part in parts)]
    norms = [module for module in frozen if hasattr(module, "running_mean")]
    left_out = {name for name, trained in trained_parts(model).items() if trained & set(parts)}

    def keep_statistics(module: nn.Module, args) -> None:
        for norm in norms:
            norm.eval()

    def drop_losses(module: nn.Module, args, result):
        if not module.training or not isinstance(result, dict):
            return result
        return {name: loss for name, loss in result.items() if name not in left_out}

    model.register_forward_pre_hook(keep_statistics)
    model.register_forward_hook(drop_losses)


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")
