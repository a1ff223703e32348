"""What each loss trains: the declarations of this project's parts, and errors for parts that do not declare theirs."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from small_networks import example, small_cfg
from torch import nn

from panoptic_fusion import resolve_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.losses import branch_losses, declared_losses, merge_losses, trained_parts

BOTH, DETECTOR = {"sem_seg_head", "roi_heads"}, {"loss_cls", "loss_box_reg", "loss_mask"}
STUFF_HEADS = ("PanopticFPNHead", "TASCSemSegHead", "MiniDLSemSegHead", "DeformableSemSegHead", "OANetSemSegHead")


def build(**keys):
    return build_model(resolve_config(small_cfg(**keys))).train()


@pytest.mark.parametrize(
    ("fusion", "added"),
    [
        ("HeuristicFusion", {}),
        ("SeamlessFusion", {}),
        ("MaskGuidedFusion", {"loss_tasc": BOTH}),
        ("UPSNetFusion", {"loss_panoptic": BOTH}),
        ("SpatialRankingFusion", {"loss_srm": {"fusion"}}),
    ],
)
def test_of_every_fusion(fusion, added):
    """The declared losses are those that a step returns, and each has the parts of 1dabfec's table."""
    network = build(MODEL__PANOPTIC_FUSION__NAME=fusion)
    with EventStorage():
        returned = network([example(0), example(1)])
    expected = {
        "loss_rpn_cls": {"proposal_generator"},
        "loss_rpn_loc": {"proposal_generator"},
        **{name: {"roi_heads"} for name in DETECTOR},
        "loss_sem_seg": {"sem_seg_head"},
        **added,
    }
    assert trained_parts(network) == expected and set(returned) == set(expected)


@pytest.mark.parametrize("head", STUFF_HEADS)
def test_of_every_stuff_head(head):
    network = build(MODEL__SEM_SEG_HEAD__NAME=head, MODEL__SEM_SEG_HEAD__ROI_LOSS_WEIGHT=0.2)
    with EventStorage():
        returned = {name for name in network([example(0)]) if "sem_seg" in name}
    assert returned == set(declared_losses(network.sem_seg_head))
    assert all(parts == {"sem_seg_head"} for parts in declared_losses(network.sem_seg_head).values())
    branches = branch_losses(network)
    assert branches == {"instance": {"loss_rpn_cls", "loss_rpn_loc", *DETECTOR}, "stuff": {"loss_sem_seg"}}


@pytest.mark.parametrize("architecture", ["InstanceNetwork", "SemanticNetwork"])
def test_networks_for_one_task(architecture):
    network = build(MODEL__META_ARCHITECTURE=architecture)
    with EventStorage():
        assert set(network([example(0)])) == set(trained_parts(network))


class Part(nn.Module):
    trains = {"loss_a": ("fusion",)}


class Child(Part):
    trains = {"loss_b": ("sem_seg_head", "fusion")}


def network_of(**parts):
    network = nn.Module()
    for name, part in parts.items():
        setattr(network, name, part)
    return network


def test_declarations_of_base_classes_hold():
    assert declared_losses(Child()) == {"loss_a": {"fusion"}, "loss_b": {"sem_seg_head", "fusion"}}
    network = network_of(fusion=Child(), sem_seg_head=nn.Module())
    assert trained_parts(network) == declared_losses(network.fusion)
    assert branch_losses(network) == {"instance": frozenset(), "stuff": frozenset()}


def test_a_loss_that_is_not_declared():
    network = network_of(sem_seg_head=Part())
    loss = torch.zeros(())
    assert merge_losses(network, {"sem_seg_head": {"loss_a": loss}}) == {"loss_a": loss}
    with pytest.raises(ConfigError, match=r"Part returns the loss 'loss_b' .*trains = {'loss_b': \('sem_seg_head',\)}"):
        merge_losses(network, {"sem_seg_head": {"loss_b": loss}})


def test_two_parts_with_one_name():
    """One of them would replace the other without a word."""
    network = network_of(sem_seg_head=Part(), fusion=Child())
    with pytest.raises(ConfigError, match="Child returns the loss 'loss_a', which another part"):
        merge_losses(network, {"sem_seg_head": {"loss_a": torch.zeros(())}, "fusion": {"loss_a": torch.ones(())}})


@pytest.mark.parametrize("trained", ["fusion", (), ("backbone",), ("fusion", "mask")])
def test_a_wrong_declaration(trained):
    class Own(nn.Module):
        trains = {"loss_x": trained}

    with pytest.raises(ConfigError, match=r"Own.trains\['loss_x'\].*sem_seg_head"):
        declared_losses(Own())
