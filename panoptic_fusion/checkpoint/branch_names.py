"""Loading the tensors of one backbone into the two branches of a network (MODEL.SHARING, `BranchedBackbone`)."""

import re
from collections.abc import Iterable

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor


def plain_name(name: str) -> str:
    """The name that a tensor of a network with branches has where everything is shared (MODEL.SHARING "skip").

    Such as backbone.fpn_output2.weight for backbone.stuff.fpn_output2.weight, and sem_seg_head.levels.p2.0.weight for
    sem_seg_head.levels.stuff_p2.0.weight; a name without branches stays.
    """
    name = re.sub(r"^backbone\.(instances|stuff)\.", "backbone.", name)
    return re.sub(r"^(sem_seg_head\..*\b)stuff_((p|res)\d+\.)", r"\1\2", name)


def has_branches(names: Iterable[str]) -> bool:
    """Whether these are the tensors of a network with branches."""
    return any(name.startswith(("backbone.instances.", "backbone.stuff.")) for name in names)


def lost_branches(tensors: Iterable[str], model: Iterable[str]) -> dict[str, str]:
    """What a network would have to start at random although a checkpoint has it, in two branches.

    Args:
        tensors: names in the checkpoint.
        model: names in the network.

    Returns:
        {name in the network: a name in the checkpoint, of one of the two branches}.
    """
    tensors = set(tensors)
    of_branches = {plain_name(name): name for name in sorted(tensors) if plain_name(name) != name}
    return {name: of_branches[name] for name in model if name not in tensors and name in of_branches}


def spread_over_branches(
    tensors: dict[str, Tensor], model: dict[str, Tensor], *, match_suffixes: bool = False, caffe2: bool = False
) -> dict[str, Tensor]:
    """Gives each branch that a checkpoint does not have a copy of what the checkpoint has for the shared network.

    So ImageNet weights reach both ResNets, and a trained network of MODEL.SHARING "skip" or "backbone" can be the start
    of one that shares less.

    Args:
        tensors: of the checkpoint; names of a network with or without branches.
        model: state dict of the network with branches.
        match_suffixes, caffe2: match the names by detectron2's heuristics, which refuse a tensor that fits two names;
            `caffe2`: convert them from Caffe2 first. Then `tensors` must hold torch tensors.

    Returns:
        The checkpoint's tensors under the model's names. What fits nothing stays as it is.
    """
    plain = {name: plain_name(name) for name in model}
    if match_suffixes:
        by_plain_name = {plain[name]: value for name, value in model.items()}
        tensors = align_and_update_state_dicts(by_plain_name, tensors, c2_conversion=caffe2)
    spread = {name: tensors[source] for name, source in plain.items() if name not in tensors and source in tensors}
    copied = {plain[name] for name in spread}
    return {**{name: value for name, value in tensors.items() if name not in copied}, **spread}
