"""Staged training: freezes parts of any network (TASCNet, section 4.4 and table 3)."""

from collections.abc import Iterable

from torch import nn

from panoptic_fusion.errors import ConfigError

from .losses import trained_parts

HEADS = ("proposal_generator", "roi_heads", "sem_seg_head")


def freeze_parts(model: nn.Module, parts: Iterable[str]) -> None:
    """Excludes parts of a PanopticRCNN from training, in place.

    Frozen parameters get no gradient, and frozen norm layers keep their statistics. If a head is frozen as a whole
    ("proposal_generator", "sem_seg_head", "roi_heads", "fusion"), the model does not return its losses in training, so
    that an untrained head does not disturb the backbone. A loss that trains several parts is left out if one of them is
    frozen as a whole. Each part declares what its losses train (`losses.py`).

    The forward pass of a frozen head still runs, its backward pass does not. If the only part left to train is a fusion
    that learns from the ground truth alone, the network does not run at all. Weights trained in one stage are the
    MODEL.WEIGHTS of the next.

    In distributed training, every remaining parameter must get a gradient. Therefore also list pyramid levels that only
    a frozen head reads: "backbone.top_block" with "proposal_generator".

    Args:
        model: model that is not yet wrapped for distributed training.
        parts: module names or prefixes of them that end at a dot, such as "backbone.bottom_up" (MODEL.FREEZE).

    Raises:
        ConfigError: if a part matches no parameter, or nothing is left to train.
    """
    parts = tuple(parts)
    if not parts:
        return
    for part in parts:
        parameters = [p for name, p in model.named_parameters() if _is_in(name, part)]
        if not parameters:
            known = ", ".join(name for name, child in model.named_children() if any(True for _ in child.parameters()))
            raise ConfigError(
                f"MODEL.FREEZE: no parameter belongs to {part!r}; available: {known} and their submodules"
            )
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
