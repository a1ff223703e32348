"""Maps each loss to the parts of the network that it trains, as declared by the class attribute `trains` of the parts.

A part is a child of the network: "proposal_generator", "roi_heads", "sem_seg_head" or "fusion". Its class maps each
loss that it returns to the parts that the loss trains. Declarations of base classes are inherited:

    class EdgeHead(StuffHead):
        trains = {"loss_edges": ("sem_seg_head",)}

MODEL.FREEZE leaves out the losses of frozen parts. SOLVER.GRADIENT_BALANCE_PERIOD compares the losses of the two
branches. For the stuff head it uses the losses in the class attribute `weighted_losses`, which are scaled by
MODEL.SEM_SEG_HEAD.LOSS_WEIGHT.
"""

from collections.abc import Mapping

from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError

PARTS = ("proposal_generator", "roi_heads", "sem_seg_head", "fusion")

# Declarations for detectron2's own parts.
DETECTRON2_PARTS: dict[type, dict[str, tuple[str, ...]]] = {
    RPN: {"loss_rpn_cls": ("proposal_generator",), "loss_rpn_loc": ("proposal_generator",)},
    StandardROIHeads: {name: ("roi_heads",) for name in ("loss_cls", "loss_box_reg", "loss_mask")},
}


def declared_losses(part: nn.Module) -> dict[str, frozenset[str]]:
    """Returns {loss: parts that it trains} of one part, including the declarations of its base classes.

    Raises:
        ConfigError: if a declaration names something that is not a part.
    """
    declared = {}
    for cls in reversed(type(part).__mro__):
        for name, trained in {**DETECTRON2_PARTS.get(cls, {}), **vars(cls).get("trains", {})}.items():
            if isinstance(trained, str) or not trained or not set(trained) <= set(PARTS):
                raise ConfigError(
                    f"{cls.__name__}.trains[{name!r}] is {trained!r}: use a tuple of some of {', '.join(PARTS)}"
                )
            declared[name] = frozenset(trained)
    return declared


def merge_losses(network: nn.Module, losses: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns the losses of all parts in one dict.

    Args:
        network: network that contains the parts.
        losses: {part: {loss: scalar}}.

    Raises:
        ConfigError: if a part returns a loss that its class does not declare, or that another part also returns.
    """
    merged = {}
    for part, own in losses.items():
        name_of_class = type(getattr(network, part)).__name__
        declared = declared_losses(getattr(network, part))
        for name, loss in own.items():
            if name not in declared:
                raise ConfigError(
                    f"{name_of_class} returns the loss {name!r} without declaring what it trains: give the class an "
                    f"attribute trains = {{{name!r}: ({part!r},)}}, a tuple of some of {', '.join(PARTS)}"
                )
            if name in merged:
                raise ConfigError(f"{name_of_class} returns the loss {name!r}, which another part also returns")
            merged[name] = loss
    return merged


def trained_parts(network: nn.Module) -> dict[str, frozenset[str]]:
    """Returns {loss: parts that it trains} for all parts of a network."""
    return {
        name: trained
        for part in PARTS
        if isinstance(getattr(network, part, None), nn.Module)
        for name, trained in declared_losses(getattr(network, part)).items()
    }


def branch_losses(network: nn.Module) -> dict[str, frozenset[str]]:
    """Returns the names of the losses that train only one branch, at the weights that OANet compares.

    Returns:
        {"instance": losses of the proposal generator or the RoI heads, "stuff": losses of the stuff head that are
        scaled by MODEL.SEM_SEG_HEAD.LOSS_WEIGHT}. Losses that train two parts, such as a fusion's, are in neither.
    """
    trained = trained_parts(network)
    weighted = getattr(getattr(network, "sem_seg_head", None), "weighted_losses", ())
    instance = ({"proposal_generator"}, {"roi_heads"})
    return {
        "instance": frozenset(name for name, parts in trained.items() if parts in instance),
        "stuff": frozenset(name for name in weighted if trained.get(name) == {"sem_seg_head"}),
    }
