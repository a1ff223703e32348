"""Any stuff head goes with any fusion, and with the instances of any system: a training step and an inference."""

import itertools

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model, build_sem_seg_head
from detectron2.utils.events import EventStorage
from small_networks import CATEGORIES, example, small_cfg

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY

HEADS = sorted(name for name, head in SEM_SEG_HEADS_REGISTRY if head.__module__.startswith("panoptic_fusion"))
FUSIONS = sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY)
LOSSES = {"MaskGuidedFusion": "loss_tasc", "SpatialRankingFusion": "loss_srm", "UPSNetFusion": "loss_panoptic"}


def train_and_infer(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with EventStorage(0):
        losses = model([example(1), example(2, num_things=0)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert any(p.grad.any() for p in model.sem_seg_head.parameters())
    model.eval()
    with torch.no_grad():
        panoptic_seg, segments_info = model([{"image": example(3)["image"]}])[0]["panoptic_seg"]
    assert set(panoptic_seg.unique().tolist()) - {0} == {s["id"] for s in segments_info}
    return losses


@pytest.mark.parametrize(("head", "fusion"), list(itertools.product(HEADS, FUSIONS)))
def test_head_with_fusion(head, fusion):
    losses = train_and_infer(
        small_cfg(MODEL__SEM_SEG_HEAD__NAME=head, MODEL__PANOPTIC_FUSION__NAME=fusion, MODEL__SEM_SEG_HEAD__NORM="GN")
    )
    assert {name for name in losses if name in LOSSES.values()} == {LOSSES.get(fusion)} - {None}


def seamless_cfg(*opts):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/seamless_r18.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["meta_arch_test"]
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = CATEGORIES, "cpu"
    cfg.merge_from_list(opts)
    return cfg


@pytest.mark.parametrize("fusion", FUSIONS)
def test_instances_of_seamless_with_fusion(fusion):
    losses = train_and_infer(seamless_cfg("MODEL.PANOPTIC_FUSION.NAME", fusion))
    assert {name for name in losses if name in LOSSES.values()} == {LOSSES.get(fusion)} - {None}


@pytest.mark.parametrize("head", HEADS)
def test_head_in_seamless(head):
    """With the norm of its config, InPlaceABN."""
    cfg = seamless_cfg("MODEL.SEM_SEG_HEAD.NAME", head)
    assert cfg.MODEL.SEM_SEG_HEAD.NORM == "InPlaceABN"
    train_and_infer(cfg)


@pytest.mark.parametrize(
    "norm", ["", "BN", "SyncBN", "FrozenBN", "GN", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "InPlaceABN"]
)
@pytest.mark.parametrize("head", sorted(set(HEADS) - {"MiniDLSemSegHead"}))
def test_norms_of_the_heads(head, norm):
    shapes = {f"p{i}": ShapeSpec(channels=32, stride=2**i) for i in (2, 3, 4, 5)}
    built = build_sem_seg_head(small_cfg(MODEL__SEM_SEG_HEAD__NAME=head, MODEL__SEM_SEG_HEAD__NORM=norm), shapes)
    logits = built({name: torch.randn(2, 32, 128 // s.stride, 64 // s.stride) for name, s in shapes.items()})
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("MODEL.SEM_SEG_HEAD.NORM", "XX", "'FrozenBN', 'GN'"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p9"], "p2, p3, p4, p5, p6"),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", [], "a list of one or more names"),
    ],
)
def test_what_a_head_cannot_have(head, key, value, known):
    with pytest.raises(ConfigError, match=known) as error:
        build_model(seamless_cfg("MODEL.SEM_SEG_HEAD.NAME", head, key, value))
    assert str(error.value).startswith(f"{key} is {value!r}: ")


@pytest.mark.parametrize("key", ["RESNETS", "FPN", "RPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD"])
def test_unknown_norms_of_seamless(key):
    with pytest.raises(ConfigError, match=rf"^MODEL.{key}.NORM is 'XX': use one of .*'InPlaceABN', .*'GN'"):
        build_model(seamless_cfg(f"MODEL.{key}.NORM", "XX"))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_two_backbones_with_fusion(fusion):
    name = {"MODEL__SEM_SEG_HEAD__NAME": "OANetSemSegHead", "MODEL__PANOPTIC_FUSION__NAME": fusion}
    train_and_infer(small_cfg(MODEL__SHARING="none", MODEL__SEM_SEG_HEAD__NORM="GN", **name))


def test_what_is_registered():
    """So that the tests above do not run on nothing."""
    assert {
        "DeformableSemSegHead",
        "MiniDLSemSegHead",
        "OANetSemSegHead",
        "PanopticFPNHead",
        "TASCSemSegHead",
    } <= set(HEADS)
    assert {
        "HeuristicFusion",
        "MaskGuidedFusion",
        "SeamlessFusion",
        "SpatialRankingFusion",
        "UPSNetFusion",
    } <= set(FUSIONS)
