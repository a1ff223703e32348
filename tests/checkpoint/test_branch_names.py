"""Weights of one backbone reach both branches: ImageNet files of all formats, the model zoo's, and our own."""

import pickle

import pytest
import torch
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY, build_model

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.branch_names import copy_to_branches, is_branched, shared_name
from panoptic_fusion.errors import UserError

CATEGORIES = [{"id": i + 1, "name": f"c{i}", "isthing": int(i < 2), "color": [i, i, i]} for i in range(5)]
MODES = ("skip", "backbone", "none")


def build(sharing, config="coco/panoptic_fpn_r50.yaml", head="OANetSemSegHead"):
    """A thin ResNet-50 under FPN with detectron2's names."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file(config))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], []
    cfg.MODEL.CATEGORIES, cfg.MODEL.DEVICE, cfg.MODEL.SHARING = CATEGORIES, "cpu", sharing
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.FPN.OUT_CHANNELS = 16, 8
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.SEM_SEG_HEAD.NAME, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = head, 32
    return build_model(cfg)


def random_state(model) -> dict[str, torch.Tensor]:
    """Other values for all its floating-point tensors."""
    generator = torch.Generator().manual_seed(4)
    return {k: torch.rand(v.shape, generator=generator) for k, v in model.state_dict().items() if v.is_floating_point()}


def caffe2_name(name: str) -> str:
    """Such as res2_0_branch2a_bn_s for res2.0.conv1.norm.weight: the names of the ImageNet files of 2016."""
    parts = name.split(".")
    leaf = {"weight": "s", "bias": "b"}[parts[-1]] if parts[-2] == "norm" else {"weight": "w"}[parts[-1]]
    norm = parts[-2] == "norm"
    if parts[0] == "stem":
        return f"res_conv1_bn_{leaf}" if norm else f"conv1_{leaf}"
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}[parts[2]]
    return f"{parts[0]}_{parts[1]}_{branch}_{'bn_' if norm else ''}{leaf}"


def caffe2(state):
    """The blobs of the ResNet; norms as scale and bias, as in MSRA's file."""
    resnet = {k.split("bottom_up.")[1]: v for k, v in state.items() if "bottom_up." in k and "running" not in k}
    return {caffe2_name(k): v.numpy() for k, v in resnet.items()}


def torchvision(state):
    resnet = {k.split("bottom_up.")[1]: v.numpy() for k, v in state.items() if "bottom_up." in k}
    return {"model": resnet, "__author__": "torchvision", "matching_heuristics": True}


def model_zoo(state):
    return {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo"}


@pytest.mark.parametrize("sharing", MODES)
@pytest.mark.parametrize("convert", [caffe2, torchvision, model_zoo])
def test_pretrained_files_reach_every_branch(convert, sharing, tmp_path):
    torch.manual_seed(0)
    state = random_state(build("skip"))
    with open(tmp_path / "weights.pkl", "wb") as file:
        pickle.dump(convert(state), file)
    model = build(sharing)
    AtomicCheckpointer(model).load(str(tmp_path / "weights.pkl"))
    found = model.state_dict()
    resnets = ["backbone.instances", "backbone.stuff"] if sharing == "none" else ["backbone"]
    for resnet in resnets:
        tensors = [k for k in found if k.startswith(f"{resnet}.bottom_up.")]
        assert len(tensors) == 265  # 53 convolutions, each with a norm of four tensors
        for key in tensors:
            if convert is caffe2 and "running" in key:
                continue  # that file folds the statistics into scale and bias
            assert torch.equal(found[key], state[key.replace(resnet, "backbone", 1)]), key
    if convert is model_zoo:
        for branch in ("instances.", "stuff.") if sharing != "skip" else ("",):
            key = "fpn_output3.weight"
            assert torch.equal(found[f"backbone.{branch}{key}"], state[f"backbone.{key}"])
        assert torch.equal(found["roi_heads.box_head.fc1.weight"], state["roi_heads.box_head.fc1.weight"])


@pytest.mark.parametrize("head", sorted(n for n, h in SEM_SEG_HEADS_REGISTRY if h.__module__.startswith("panoptic")))
@pytest.mark.parametrize(("source", "target"), [("skip", "backbone"), ("skip", "none"), ("backbone", "none")])
def test_a_trained_network_starts_one_that_shares_less(source, target, head, tmp_path):
    torch.manual_seed(0)
    first, second = build(source, head=head), build(target, head=head)
    first.load_state_dict(random_state(first), strict=False)
    AtomicCheckpointer(first, str(tmp_path)).save("model")
    AtomicCheckpointer(second, require_complete=True).load(str(tmp_path / "model.pth"))
    state = first.state_dict()
    assert set(copy_to_branches(state, second.state_dict())) == set(second.state_dict())  # nothing is left over
    for key, value in second.state_dict().items():
        # Where the source has the tensor under this name, that one; else that of the network that shares more.
        names = [key, key.replace("instances.bottom_up", "bottom_up").replace("stuff.bottom_up", "bottom_up")]
        names.append(key.replace("backbone.instances.", "backbone.").replace("backbone.stuff.", "backbone."))
        names.append(key.replace("stuff_p", "p"))
        name = next(n for n in names if n in state)
        assert torch.equal(value, state[name]), key
    # Its own checkpoint comes back as it is, branches apart.
    second.load_state_dict(random_state(second), strict=False)
    AtomicCheckpointer(second, str(tmp_path)).save("own")
    third = build(target, head=head)
    AtomicCheckpointer(third, require_complete=True).load(str(tmp_path / "own.pth"))
    assert all(torch.equal(v, third.state_dict()[k]) for k, v in second.state_dict().items())
    a, b = (second.state_dict()[f"backbone.{branch}.fpn_output2.weight"] for branch in ("instances", "stuff"))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("source", "target"), [("none", "skip"), ("backbone", "skip"), ("none", "backbone")])
def test_two_branches_cannot_become_one(source, target, tmp_path):
    """Else the shared part would start at random, with no more than a warning."""
    torch.manual_seed(0)
    AtomicCheckpointer(build(source), str(tmp_path)).save("model")
    model = build(target)
    with pytest.raises(UserError, match=r"two branches cannot become one\. Set MODEL.SHARING"):
        AtomicCheckpointer(model, allow_shape_mismatch=True).load(str(tmp_path / "model.pth"))


def test_what_does_not_fit_is_still_an_error(tmp_path):
    torch.manual_seed(0)
    AtomicCheckpointer(build("none"), str(tmp_path)).save("none")
    with pytest.raises(UserError, match="two branches cannot become one"):
        AtomicCheckpointer(build("skip"), require_complete=True).load(str(tmp_path / "none.pth"))
    state = {"backbone.fpn_output2.weight": torch.zeros(3, 3)}
    torch.save({"model": state}, tmp_path / "shape.pth")
    with pytest.raises(UserError, match="backbone.(instances|stuff).fpn_output2.weight"):
        AtomicCheckpointer(build("none")).load(str(tmp_path / "shape.pth"))
    torch.save({"model": {"something.else": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="holds no tensor of the model"):
        AtomicCheckpointer(build("none")).load(str(tmp_path / "other.pth"))
    with open(tmp_path / "odd.pkl", "wb") as file:
        pickle.dump({"model": {"res2.0.conv1.weight": "text"}, "__author__": "x", "matching_heuristics": True}, file)
    with pytest.raises(UserError, match="does not hold the tensors"):
        AtomicCheckpointer(build("none")).load(str(tmp_path / "odd.pkl"))


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("backbone.stuff.fpn_output2.weight", "backbone.fpn_output2.weight"),
        ("backbone.instances.bottom_up.res2.0.conv1.norm.bias", "backbone.bottom_up.res2.0.conv1.norm.bias"),
        ("sem_seg_head.stuff_p2.0.weight", "sem_seg_head.p2.0.weight"),
        ("sem_seg_head.levels.stuff_p5.1.norm.weight", "sem_seg_head.levels.p5.1.norm.weight"),
        ("sem_seg_head.stuff_conv.weight", "sem_seg_head.stuff_conv.weight"),
        ("backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ("roi_heads.instances.weight", "roi_heads.instances.weight"),
        ("fusion.backbone.stuff.weight", "fusion.backbone.stuff.weight"),
    ],
)
def test_plain_names(name, plain):
    assert shared_name(name) == plain


def test_which_networks_have_branches():
    assert not is_branched(build("skip").state_dict())
    assert all(is_branched(build(mode).state_dict()) for mode in ("backbone", "none"))
