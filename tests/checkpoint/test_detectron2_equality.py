"""detectron2's Panoptic FPN and Mask R-CNN, loaded into this project's networks, give what detectron2 gives."""

import logging

import pytest
import torch
from detectron2.modeling import build_model
from detectron2_zoo import SMALL, THIN, random_images, random_network, write_zoo_pkl

from panoptic_fusion import config_file, resolve_config
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.config import read_config
from panoptic_fusion.errors import UserError

PANOPTIC, INSTANCES = "COCO-PanopticSegmentation/panoptic_fpn_R_{}_3x.yaml", "COCO-InstanceSegmentation/{}.yaml"
S = 53  # stuff classes of COCO


@pytest.fixture(scope="module", autouse=True)
def in_one_thread(one_thread):
    pass


@pytest.fixture(scope="module")
def theirs():
    """detectron2's Panoptic FPN R50, thin."""
    return random_network(PANOPTIC.format(50), 0, THIN)


@pytest.fixture(scope="module")
def pkl(theirs, tmp_path_factory):
    """Its file of the model zoo."""
    return write_zoo_pkl(tmp_path_factory.mktemp("zoo") / "model_final.pkl", theirs)


def resolved(config: str, *opts):
    return resolve_config(read_config(config_file(config), [*SMALL, "MODEL.DEVICE", "cpu", *map(str, opts)]))


def load(config: str, file, *opts, require_complete: bool = True):
    """This project's network with the weights of a file."""
    cfg = resolved(config, *opts)
    model = build_model(cfg).eval()
    AtomicCheckpointer.from_config(cfg, model, require_complete=require_complete).load(str(file))
    return model


def assert_equal_instances(ours, theirs) -> None:
    assert len(ours) == len(theirs)
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    assert torch.allclose(ours.scores, theirs.scores, atol=1e-6)
    assert torch.allclose(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3)
    assert torch.equal(ours.pred_masks, theirs.pred_masks)


@torch.no_grad()
def compare_panoptic(ours, theirs, seed: int) -> None:
    """On 20 images; also checks that they are no trivial ones."""
    classes = {"things": set(), "stuff": set()}
    for x in random_images(20, seed):
        ours_x, theirs_x = ours([dict(x)])[0], theirs([dict(x)])[0]
        channels = [*range(1, S + 1), 0]  # of detectron2, in our order
        assert torch.allclose(ours_x["sem_seg"], theirs_x["sem_seg"][channels], atol=1e-5, rtol=1e-5)
        assert_equal_instances(ours_x["instances"], theirs_x["instances"])
        (ids, segments), (their_ids, their_segments) = ours_x["panoptic_seg"], theirs_x["panoptic_seg"]
        assert torch.equal(ids, their_ids)
        assert len(segments) == len(their_segments)
        for ours_s, theirs_s in zip(segments, their_segments, strict=True):
            expected = {"area": int((ids == ours_s["id"]).sum()), **theirs_s}  # things have no area there
            if expected["isthing"]:
                expected["score"] = pytest.approx(expected["score"], abs=1e-6)
            else:
                expected["category_id"] -= 1  # 0 is "things" there
            assert ours_s == expected
            classes["things" if ours_s["isthing"] else "stuff"].add(ours_s["category_id"])
    assert len(classes["things"]) >= 5 and len(classes["stuff"]) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_panoptic_fpn(depth, tmp_path):
    theirs = random_network(PANOPTIC.format(depth), seed=depth)
    file = write_zoo_pkl(tmp_path / "model_final.pkl", theirs)
    # Images of seed 1 give ResNet-101 a pixel whose two highest logits are the same float32 in detectron2's order of
    # computation, and one unit apart in ours, so that it goes to the other class.
    compare_panoptic(load(f"zoo/panoptic_fpn_r{depth}_coco.yaml", file), theirs, seed={50: 1, 101: 2}[depth])


def test_pth_of_detectron2_is_the_same(theirs, pkl, tmp_path):
    """Its own trainings write .pth files, which do not say what they are."""
    torch.save({"model": theirs.state_dict()}, tmp_path / "model_final.pth")
    first = load("zoo/panoptic_fpn_r50_coco.yaml", pkl, *THIN).state_dict()
    layout = ("MODEL.WEIGHTS_LAYOUT", "detectron2")
    second = load("zoo/panoptic_fpn_r50_coco.yaml", tmp_path / "model_final.pth", *THIN, *layout).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # In this project's layout the first channel would be "banner", which is not what it learned.
    layout = ("MODEL.WEIGHTS_LAYOUT", "panoptic_fusion")
    third = load("zoo/panoptic_fpn_r50_coco.yaml", tmp_path / "model_final.pth", *THIN, *layout).state_dict()
    name = "sem_seg_head.predictor.weight"
    assert torch.equal(third[name], theirs.state_dict()[name]) and not torch.equal(third[name], first[name])


@pytest.mark.parametrize(
    ("zoo", "config", "opts"),
    [
        (INSTANCES.format("mask_rcnn_R_50_FPN_3x"), "zoo/mask_rcnn_r50_coco.yaml", ()),
        ("Cityscapes/mask_rcnn_R_50_FPN.yaml", "zoo/mask_rcnn_r50_cityscapes.yaml", THIN),
        pytest.param(
            INSTANCES.format("mask_rcnn_R_101_FPN_3x"), "zoo/mask_rcnn_r101_coco.yaml", (), marks=pytest.mark.slow
        ),
    ],
)
@torch.no_grad()
def test_instances_of_mask_rcnn(zoo, config, opts, tmp_path):
    theirs = random_network(zoo, 4, opts)
    ours = load(config, write_zoo_pkl(tmp_path / "model_final.pkl", theirs), *opts)
    found = 0
    for x in random_images(4, seed=5):
        ours_x, theirs_x = ours([dict(x)])[0]["instances"], theirs([dict(x)])[0]["instances"]
        assert_equal_instances(ours_x, theirs_x)
        found += len(ours_x)
    assert found > 20


def test_ontology_stuff_is_exact(theirs, pkl):
    ours = load("zoo/panoptic_fpn_r50_coco.yaml", pkl, *THIN, "MODEL.SEM_SEG_HEAD.ONTOLOGY", "stuff").state_dict()
    for leaf in ("weight", "bias"):
        name = f"sem_seg_head.predictor.{leaf}"
        assert torch.equal(ours[name], theirs.state_dict()[name][1:])


def test_ontology_full_starts_the_things_new(theirs, pkl, caplog):
    """And says which; so it can be trained, not used as it is."""
    full = ("MODEL.SEM_SEG_HEAD.ONTOLOGY", "full")
    cfg = resolved("zoo/panoptic_fpn_r50_coco.yaml", *THIN, *full)
    model = build_model(cfg)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.WARNING, "fvcore.common.checkpoint"):
        AtomicCheckpointer.from_config(cfg, model).load(str(pkl))
    for leaf in ("weight", "bias"):
        name = f"sem_seg_head.predictor.{leaf}"
        rows = model.state_dict()[name]
        assert len(rows) == 133
        assert torch.equal(rows[:S], theirs.state_dict()[name][1:])
        assert torch.equal(rows[S:], before[name][S:])
    message = next(r.getMessage() for r in caplog.records if "start new" in r.getMessage())
    assert "sem_seg_head.predictor" in message and "person" in message and "toothbrush" in message
    assert "banner" not in message
    with pytest.raises(UserError, match=r"no rows of sem_seg_head.predictor for person, bicycle, car and 77 more"):
        load("zoo/panoptic_fpn_r50_coco.yaml", pkl, *THIN, *full)


@pytest.mark.parametrize("fusion", ["MaskGuidedFusion", "SeamlessFusion"])
@torch.no_grad()
def test_other_fusions_go_on_top(fusion, pkl):
    on_top = ("MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT", 0)
    ours = load("zoo/panoptic_fpn_r50_coco.yaml", pkl, *THIN, *on_top, "MODEL.PANOPTIC_FUSION.NAME", fusion)
    ids, segments = ours(random_images(1, seed=6))[0]["panoptic_seg"]
    assert type(ours.fusion).__name__ == fusion
    assert segments and sorted(s["id"] for s in segments) == [i for i in ids.unique().tolist() if i]
