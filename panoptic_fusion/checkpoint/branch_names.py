"""Loads the tensors of one backbone into the two branches of a network (MODEL.SHARING, `BranchedBackbone`)."""

import re
from collections.abc import Iterable

from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor


def shared_name(name: str) -> str:
    """Returns the name of a tensor of a branched network in a fully shared network (MODEL.SHARING "skip").

    For example, backbone.stuff.fpn_output2.weight becomes backbone.fpn_output2.weight, and
    sem_seg_head.levels.stuff_p2.0.weight becomes sem_seg_head.levels.p2.0.weight. A name without branches is returned
    unchanged.
    """
    name = re.sub(r"^backbone\.(instances|stuff)\.", "backbone.", name)
    return re.sub(r"^(sem_seg_head\..*\b)stuff_((p|res)\d+\.)", r"\1\2", name)


def is_branched(names: Iterable[str]) -> bool:
    """Returns whether these are the tensor names of a network with branches."""
    return any(name.startswith(("backbone.instances.", "backbone.stuff.")) for name in names)


def find_unmergeable_tensors(tensors: Iterable[str], model: Iterable[str]) -> dict[str, str]:
    """Finds tensors that the model shares but the checkpoint stores only per branch.

    The model could not load them, so they would be initialized randomly.

    Args:
        tensors: names of the tensors in the checkpoint.
        model: names of the tensors in the network.

    Returns:
        {name in the network: name in the checkpoint, in one of the two branches}.
    """
    tensors = set(tensors)
    of_branches = {shared_name(name): name for name in sorted(tensors) if shared_name(name) != name}
    return {name: of_branches[name] for name in model if name not in tensors and name in of_branches}


def copy_to_branches(
    tensors: dict[str, Tensor], model: dict[str, Tensor], *, match_suffixes: bool = False, caffe2: bool = False
) -> dict[str, Tensor]:
    """Copies the weights of shared modules to every branch that the checkpoint lacks.

    ImageNet weights therefore reach both ResNets, and a trained network with MODEL.SHARING "skip" or "backbone" can
    initialize a network that shares less.

    Args:
        tensors: tensors of the checkpoint, with the names of a network with or without branches.
        model: state dict of the network with branches.
        match_suffixes, caffe2: whether to match the names by detectron2's heuristics, which reject a tensor that fits
            two names; `caffe2` converts the names from Caffe2 first. `tensors` must then hold torch tensors.

    Returns:
        The tensors of the checkpoint under the names of the model. Tensors that fit no name keep their own.
    """
    plain = {name: shared_name(name) for name in model}
    if match_suffixes:
        by_plain_name = {plain[name]: value for name, value in model.items()}
        tensors = align_and_update_state_dicts(by_plain_name, tensors, c2_conversion=caffe2)
    spread = {name: tensors[source] for name, source in plain.items() if name not in tensors and source in tensors}
    copied = {plain[name] for name in spread}
    return {**{name: value for name, value in tensors.items() if name not in copied}, **spread}
