"""PanopticRCNN: the contract of its inputs and outputs, on a small network with random weights."""

import copy

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.visualizer import Visualizer
from small_networks import example, small_cfg

from panoptic_fusion import get_cfg, resolve_config
from panoptic_fusion.errors import UserError
from panoptic_fusion.networks.inference import rescale_instances


def test_head_sizes_follow_from_the_categories():
    sizes = {}
    for ontology in ("full", "collapsed", "stuff"):
        model = build_model(small_cfg(MODEL__SEM_SEG_HEAD__ONTOLOGY=ontology))
        sizes[ontology] = model.sem_seg_head.predictor.out_channels
        assert model.roi_heads.box_predictor.cls_score.out_features == 2 + 1
        assert model.roi_heads.mask_head.predictor.out_channels == 2
    assert sizes == {"full": 2 + 2, "collapsed": 2 + 1, "stuff": 2}


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_outputs_keep_the_contract(ontology):
    torch.manual_seed(0)
    model = build_model(small_cfg(MODEL__SEM_SEG_HEAD__ONTOLOGY=ontology)).eval()
    inputs = [example(1), {**example(2, (48, 80)), "height": 101, "width": 130}]
    with torch.no_grad():
        outputs = model([{k: x[k] for k in ("image", "height", "width")} for x in inputs])
    channels = {"full": 4, "collapsed": 3, "stuff": 2}[ontology]
    for x, output in zip(inputs, outputs, strict=True):
        size = (x["height"], x["width"])
        assert output["sem_seg"].shape == (channels, *size)
        instances = output["instances"]
        assert instances.image_size == size
        assert instances.pred_masks.shape == (len(instances), *size) and instances.pred_masks.dtype == torch.bool
        panoptic_seg, segments_info = output["panoptic_seg"]
        assert panoptic_seg.shape == size and panoptic_seg.dtype == torch.int32
        ids, areas = np.unique(panoptic_seg.numpy(), return_counts=True)
        found = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        found.pop(0, None)
        assert found == {s["id"]: s["area"] for s in segments_info}
        assert sorted(found) == list(range(1, len(found) + 1))
        for s in segments_info:
            assert type(s["isthing"]) is bool and type(s["category_id"]) is int and 0 <= s["category_id"] < 2
            if s["isthing"]:
                row = instances[s["instance_id"]]
                assert row.pred_classes.item() == s["category_id"]
                assert row.scores.item() == pytest.approx(s["score"])
                painted = panoptic_seg == s["id"]
                assert (row.pred_masks[0] & painted).sum() == painted.sum()  # a segment lies in its instance's mask


def test_batch_equals_single_images():
    """Images of one size: nothing of one image reaches another."""
    torch.manual_seed(0)
    model = build_model(small_cfg()).eval()
    inputs = [{"image": example(i)["image"]} for i in range(3)]
    with torch.no_grad():
        together = model(copy.deepcopy(inputs))
        alone = [model([x])[0] for x in inputs]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a["sem_seg"], b["sem_seg"], rtol=1e-4, atol=1e-4)
        assert (a["panoptic_seg"][0] == b["panoptic_seg"][0]).float().mean() > 0.99


@pytest.mark.parametrize(
    "inputs",
    [
        [example(1), example(2, (48, 112))],
        [example(1, num_things=0)],
        [example(1), example(2, num_things=0)],
        [example(1, ignore_all=True)],
        [example(1, num_things=0, ignore_all=True)],
        [example(1, num_things=40)],
    ],
    ids=["two sizes", "no thing", "one without things", "no semantic label", "nothing at all", "40 things"],
)
def test_trains_on(inputs):
    torch.manual_seed(0)
    model = build_model(small_cfg()).train()
    with EventStorage(0):
        losses = model(inputs)
    assert set(losses) == {"loss_sem_seg", "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    # every parameter is in the graph, as DistributedDataParallel needs it
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast(dtype):
    torch.manual_seed(0)
    model = build_model(small_cfg()).train()
    with EventStorage(0), torch.autocast("cpu", dtype):
        losses = model([example(1), example(2)])
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        panoptic_seg, _ = model([{"image": example(1)["image"]}])[0]["panoptic_seg"]
    assert panoptic_seg.shape == (64, 96)


def test_only_what_is_asked_for():
    torch.manual_seed(0)
    model = build_model(small_cfg()).eval()
    x = {"image": example(1)["image"]}
    with torch.no_grad():
        whole = model([x])[0]
        for wanted in (["panoptic_seg"], ["sem_seg"], ["instances"], ["sem_seg", "panoptic_seg"]):
            model.outputs = frozenset(wanted)
            some = model([x])[0]
            assert set(some) == set(wanted)
            if "panoptic_seg" in wanted:
                assert torch.equal(some["panoptic_seg"][0], whole["panoptic_seg"][0])
                assert some["panoptic_seg"][1] == whole["panoptic_seg"][1]
            if "sem_seg" in wanted:
                assert torch.equal(some["sem_seg"], whole["sem_seg"])


def test_panoptic_only_never_pastes_a_mask(monkeypatch):
    model = build_model(small_cfg(MODEL__PANOPTIC_FUSION__OUTPUTS=["panoptic_seg"])).eval()
    monkeypatch.setattr("panoptic_fusion.networks.inference.with_pasted_masks", None)
    with torch.no_grad():
        assert set(model([{"image": example(1)["image"]}])[0]) == {"panoptic_seg"}


def test_fusing_at_input_resolution_resizes_the_map():
    torch.manual_seed(0)
    model = build_model(small_cfg(MODEL__PANOPTIC_FUSION__AT_INPUT_RESOLUTION=True)).eval()
    x = {"image": example(1)["image"], "height": 128, "width": 192}
    with torch.no_grad():
        large, large_info = model([x])[0]["panoptic_seg"]
        small, small_info = model([{"image": x["image"]}])[0]["panoptic_seg"]
    assert torch.equal(large, small.repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert [s["area"] for s in large_info] == [4 * s["area"] for s in small_info]


def test_rescale_leaves_its_argument_alone():
    instances = Instances((10, 20))
    instances.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 25.0, 4.0]]))
    scaled = rescale_instances(instances, (20, 60))
    assert scaled.pred_boxes.tensor.tolist() == [[3.0, 4.0, 60.0, 8.0]] and scaled.image_size == (20, 60)
    assert instances.pred_boxes.tensor.tolist() == [[1.0, 2.0, 25.0, 4.0]]


def test_works_in_predictor_and_visualizer():
    torch.manual_seed(0)
    cfg = resolve_config(small_cfg(INPUT__MIN_SIZE_TEST=64, INPUT__MAX_SIZE_TEST=128))
    predictor = DefaultPredictor(cfg)
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    output = predictor(image)
    before = copy.deepcopy(output["panoptic_seg"])
    metadata = MetadataCatalog.get("meta_arch_test")
    assert (metadata.thing_classes, metadata.stuff_classes) == (["person", "car"], ["sky", "road"])  # by id
    drawn = Visualizer(image, metadata).draw_panoptic_seg(*output["panoptic_seg"]).get_image()
    assert drawn.shape[2] == 3 and drawn.std() > 0
    Visualizer(image, metadata).draw_sem_seg(output["sem_seg"].argmax(0))
    Visualizer(image, metadata).draw_instance_predictions(output["instances"])
    assert torch.equal(before[0], output["panoptic_seg"][0]) and before[1] == output["panoptic_seg"][1]


def test_nan_in_the_image_is_no_crash():
    model = build_model(small_cfg()).eval()
    image = example(1)["image"].float()
    image[:, 3, 4] = float("nan")
    with torch.no_grad():
        assert model([{"image": image}])[0]["panoptic_seg"][0].shape == (64, 96)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.PANOPTIC_FUSION.NAME", "NoSuchFusion", "HeuristicFusion"),
        ("MODEL.SEM_SEG_HEAD.NAME", "NoSuchHead", "PanopticFPNHead"),
        ("MODEL.SEM_SEG_HEAD.ONTOLOGY", "half", "collapsed"),
        ("MODEL.PANOPTIC_FUSION.OUTPUTS", ["masks"], "panoptic_seg"),
        ("MODEL.KEYPOINT_ON", True, "False"),
        ("TEST.AUG.MIN_SIZES", (), "one or more sizes"),
    ],
)
def test_config_errors_name_the_key_and_the_choices(key, value, words):
    cfg = small_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=words) as error:
        resolve_config(cfg)
    assert key in str(error.value) or key == "MODEL.CATEGORIES"


def test_resolving_twice_changes_nothing():
    cfg = resolve_config(small_cfg())
    again = get_cfg()
    again.merge_from_other_cfg(type(cfg).load_cfg(cfg.dump()))
    assert yaml.safe_load(resolve_config(again).dump()) == yaml.safe_load(cfg.dump())
