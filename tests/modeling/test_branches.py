"""MODEL.SHARING: the modes are one function at equal weights, gradients stay in their branch, parameter counts."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import Backbone
from detectron2.utils.events import EventStorage
from small_networks import CATEGORIES, example, small_cfg

import panoptic_fusion.data.datasets  # noqa: F401  (registers COCO)
from panoptic_fusion import config_file, get_cfg, resolve_config
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.modeling.backbone.branches import BranchedBackbone
from panoptic_fusion.networks.freeze import freeze_parts

STUFF = {f"stuff_p{i}": 2**i for i in (2, 3, 4, 5)}


def cfg_of(name: str, sharing: str):
    """A toy config, made small, with the classes of `small_cfg`."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file(name))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["meta_arch_test"]
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE = CATEGORIES, "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 16, 32
    cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
    cfg.MODEL.SHARING = sharing
    return cfg


def shared_names(name: str) -> str:
    """The tensor of the network of mode "skip" that a tensor of another mode corresponds to."""
    for branch in ("backbone.instances.", "backbone.stuff."):
        name = name.replace(branch, "backbone.")
    return name.replace(".stuff_p", ".p")


def count(module):
    return sum(p.numel() for p in module.parameters())


def parts_with_gradients(model, losses) -> set[str]:
    model.zero_grad()
    sum(losses).backward(retain_graph=True)
    found = set()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            parts = name.split(".")
            if parts[0] != "backbone":
                found.add(parts[0])
            elif "bottom_up" in parts:
                found.add(".".join(parts[: parts.index("bottom_up") + 1]))
            else:
                found.add(".".join(parts[:2]) + ".fpn")
    return found


@pytest.mark.parametrize("sharing", ["backbone", "none"])
@pytest.mark.parametrize("name", ["panoptic_fpn", "tascnet", "seamless", "upsnet", "oanet"])
def test_equal_weights_give_equal_outputs(name, sharing):
    torch.manual_seed(0)
    shared = build_model(cfg_of(f"toy/{name}_r18.yaml", "skip")).eval()
    model = build_model(cfg_of(f"toy/{name}_r18.yaml", sharing)).eval()
    state = shared.state_dict()
    model.load_state_dict({key: state[shared_names(key)] for key in model.state_dict()})
    inputs = [{"image": example(1)["image"]}, {"image": example(2, (50, 70))["image"]}]
    with torch.no_grad():
        for expected, found in zip(shared(inputs), model(inputs), strict=True):
            torch.testing.assert_close(found["sem_seg"], expected["sem_seg"], rtol=0, atol=0)
            torch.testing.assert_close(found["instances"].scores, expected["instances"].scores, rtol=0, atol=0)
            assert torch.equal(found["panoptic_seg"][0], expected["panoptic_seg"][0])
            assert found["panoptic_seg"][1] == expected["panoptic_seg"][1]


GRADIENTS = {
    "backbone": (
        {"backbone.bottom_up", "backbone.stuff.fpn", "sem_seg_head"},
        {"backbone.bottom_up", "backbone.instances.fpn", "proposal_generator", "roi_heads"},
    ),
    "none": (
        {"backbone.stuff.bottom_up", "backbone.stuff.fpn", "sem_seg_head"},
        {"backbone.instances.bottom_up", "backbone.instances.fpn", "proposal_generator", "roi_heads"},
    ),
}


@pytest.mark.parametrize("sharing", GRADIENTS)
@pytest.mark.parametrize("name", ["panoptic_fpn", "tascnet", "seamless", "upsnet", "oanet"])
def test_gradients_stay_in_their_branch(name, sharing):
    torch.manual_seed(0)
    model = build_model(cfg_of(f"toy/{name}_r18.yaml", sharing)).train()
    with EventStorage(0):
        losses = model([example(1), example(2)])
    instance = [v for k, v in losses.items() if k.startswith(("loss_rpn", "loss_cls", "loss_box", "loss_mask"))]
    stuff, things = GRADIENTS[sharing]
    assert parts_with_gradients(model, [losses["loss_sem_seg"]]) == stuff
    assert parts_with_gradients(model, instance) == things
    # Several processes need a gradient for every parameter: no level of the second FPN is left over.
    model.zero_grad()
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_parameters_of_resnet50():
    stages = {"stem": 64 * 3 * 49}
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)], 2):
        out = 4 * width
        first = channels * width + 9 * width**2 + width * out + channels * out  # with the projection of the shortcut
        stages[f"res{stage}"] = first + (blocks - 1) * (out * width + 9 * width**2 + width * out)
        channels = out
    resnet = sum(stages.values())  # the frozen BN has buffers only
    fpn = sum(256 * 2**i * 256 + 256 for i in range(4)) + 4 * (256 * 256 * 9 + 256)
    assert (resnet, fpn) == (23_454_912, 3_344_384)
    counts = {}
    for sharing in ("skip", "backbone", "none"):
        cfg = get_cfg()
        cfg.merge_from_file(config_file("coco/panoptic_fpn_r50.yaml"))
        cfg.MODEL.DEVICE, cfg.MODEL.SHARING = "meta", sharing
        with torch.device("meta"):
            model = build_model(cfg)
        counts[sharing] = count(model.backbone)
        heads = count(model) - count(model.backbone)
    assert counts == {"skip": resnet + fpn, "backbone": resnet + 2 * fpn, "none": 2 * (resnet + fpn)}
    assert counts == {"skip": 26_799_296, "backbone": 30_143_680, "none": 53_598_592}  # the table in docs/oanet.md
    assert heads == count(model.proposal_generator) + count(model.roi_heads) + count(model.sem_seg_head)


@pytest.mark.parametrize("sharing", ["backbone", "none"])
def test_feature_maps(sharing):
    model = build_model(cfg_of("toy/tascnet_r18.yaml", sharing))
    shapes = model.backbone.output_shape()
    assert {k: s.stride for k, s in shapes.items()} == {**{f"p{i}": 2**i for i in range(2, 8)}, **STUFF}
    assert all(s.channels == 16 for s in shapes.values())
    assert model.backbone.size_divisibility == 32
    # detectron2's mask for square inputs, of FPN
    assert model.backbone.padding_constraints == model.backbone.instances.padding_constraints
    features = model.backbone(torch.randn(1, 3, 64, 96))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        k: (1, 16, -(-64 // s.stride), -(-96 // s.stride)) for k, s in shapes.items()
    }


@pytest.mark.parametrize(("sharing", "runs"), [("skip", 1), ("backbone", 1), ("none", 2)])
def test_a_shared_resnet_runs_once(sharing, runs):
    model = build_model(cfg_of("toy/panoptic_fpn_r18.yaml", sharing))
    calls = []
    for name, module in model.named_modules():
        if name.endswith("bottom_up.stem"):
            module.register_forward_hook(lambda *args: calls.append(1))
    model.backbone(torch.randn(1, 3, 64, 64))
    assert len(calls) == runs


def test_frozen_stages_and_parts():
    cfg = cfg_of("toy/panoptic_fpn_r18.yaml", "none")
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    model = build_model(cfg)
    for branch in (model.backbone.instances, model.backbone.stuff):
        assert not any(p.requires_grad for m in (branch.bottom_up.stem, branch.bottom_up.res2) for p in m.parameters())
        assert all(p.requires_grad for p in branch.bottom_up.res3.parameters())
    with pytest.raises(ConfigError, match="no parameter belongs to 'backbone.bottom_up'"):
        freeze_parts(model, ["backbone.bottom_up"])
    freeze_parts(model, ["backbone.stuff.bottom_up"])
    assert not any(p.requires_grad for p in model.backbone.stuff.bottom_up.parameters())
    assert all(p.requires_grad for p in model.backbone.instances.bottom_up.res3.parameters())

    model = build_model(cfg_of("toy/panoptic_fpn_r18.yaml", "backbone"))
    freeze_parts(model, ["backbone.bottom_up"])
    frozen = {name.split(".")[1] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"bottom_up"}


def test_names_of_the_feature_maps_follow_the_mode():
    cfg = small_cfg(MODEL__SHARING="none")
    resolved = resolve_config(cfg)
    assert list(resolved.MODEL.SEM_SEG_HEAD.IN_FEATURES) == list(STUFF)
    assert resolve_config(resolved) == resolved
    assert list(resolved.MODEL.RPN.IN_FEATURES) == list(cfg.MODEL.RPN.IN_FEATURES)
    back = resolved.clone()
    back.defrost()
    back.MODEL.SHARING = "skip"
    assert list(resolve_config(back).MODEL.SEM_SEG_HEAD.IN_FEATURES) == ["p2", "p3", "p4", "p5"]


def test_bad_settings_are_named():
    with pytest.raises(ConfigError, match="MODEL.SHARING is 'all': use one of 'skip', 'backbone', 'none'"):
        resolve_config(small_cfg(MODEL__SHARING="all"))
    for kind in ("InstanceNetwork", "SemanticNetwork", "IndependentPanoptic"):
        with pytest.raises(ConfigError, match=f"MODEL.SHARING is 'none'.*{kind}"):
            resolve_config(small_cfg(MODEL__SHARING="none", MODEL__META_ARCHITECTURE=kind))
    with pytest.raises(ConfigError, match=r"IN_FEATURES has \['p2', 'p3'\]"):
        build_model(small_cfg(MODEL__SHARING="none", MODEL__SEM_SEG_HEAD__IN_FEATURES=["p2", "p3"]))


class OneMap(Backbone):
    """A backbone without FPN."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, x):
        return {"p2": self.conv(x)}

    def output_shape(self):
        return {"p2": ShapeSpec(channels=4, stride=4)}


def test_any_backbone_without_sharing():
    backbone = BranchedBackbone(OneMap(), OneMap(), stuff_levels=["p2"], share_bottom_up=False)
    x = torch.randn(1, 3, 8, 8)
    found = backbone(x)
    torch.testing.assert_close(found["p2"], backbone.instances.conv(x))
    torch.testing.assert_close(found["stuff_p2"], backbone.stuff.conv(x))
    with pytest.raises(ConfigError, match="builds a OneMap, which is not an FPN"):
        BranchedBackbone(OneMap(), OneMap(), stuff_levels=["p2"], share_bottom_up=True)
