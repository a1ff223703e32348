"""Networks of timm of five families under each of the systems: two training steps and an inference, random weights."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from small_networks import CATEGORIES, example

from panoptic_fusion.config.defaults import CONFIG_ROOTS
from panoptic_fusion.config.read import read_config

timm = pytest.importorskip("timm", reason="timm is an extra")

default_cfgs = timm.models.generate_default_cfgs({"tiny_swin": {"input_size": (3, 64, 64), "fixed_input_size": True}})


@timm.models.register_model
def tiny_swin(pretrained=False, **kwargs):
    """Swin of one block a stage: timm has none as small as its own test models of the other families."""
    size = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
    return timm.create_model("swin_tiny_patch4_window7_224", pretrained=pretrained, **size, **kwargs)


CONFIGS = next(root for root in CONFIG_ROOTS if root.is_dir()) / "toy"
SYSTEMS = sorted(path.name.removesuffix("_r18.yaml") for path in CONFIGS.glob("*_r18.yaml"))
FAMILIES = {
    "ConvNeXt": "test_convnext",
    "Swin": "tiny_swin",
    "EfficientNet": "test_efficientnet",
    "ResNet": "test_resnet",
    "MobileNet": "mobilenetv3_small_050",
}
SMALL = [
    "MODEL.BACKBONE.BOTTOM_UP", "build_timm_backbone",
    "MODEL.FPN.OUT_CHANNELS", 32,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM", 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 32,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0,
    "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", 0.0,
    "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT", 1,
    "MODEL.DEVICE", "cpu",
]  # fmt: skip


def build(system: str, model: str, *opts):
    cfg = read_config(CONFIGS / f"{system}_r18.yaml", [*SMALL, "MODEL.TIMM.NAME", model, *opts])
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["meta_arch_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_steps_and_an_inference(system, family, one_thread):
    model = build(system, FAMILIES[family]).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for step in range(2):
        with EventStorage(step):
            losses = model([example(2 * step), example(2 * step + 1, num_things=0)])
        assert all(torch.isfinite(loss) for loss in losses.values()), losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        optimizer.step()
    first = next(model.backbone.bottom_up.parameters())  # of the stem: the gradient has passed the whole network
    assert torch.isfinite(first.grad).all() and first.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        panoptic_seg, segments_info = model([{"image": example(3)["image"]}])[0]["panoptic_seg"]
    assert panoptic_seg.shape == (64, 96)
    assert set(panoptic_seg.unique().tolist()) - {0} == {s["id"] for s in segments_info}


def test_the_systems():
    """So that the test above does not run on nothing."""
    assert SYSTEMS == ["oanet", "panoptic_fpn", "seamless", "tascnet", "upsnet"]
