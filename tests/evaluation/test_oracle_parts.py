"""The replacements of the oracle study one by one, and a scene whose panoptic quality is known by hand for each row."""

import copy
import uuid

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from panoptic_cases import Pair, write_data_set
from PIL import Image
from torch.nn import functional as F

from panoptic_fusion.data import register_panoptic
from panoptic_fusion.data.coco_panoptic import get_label_space
from panoptic_fusion.data.label_space import ONTOLOGIES
from panoptic_fusion.data.mapper import PanopticDatasetMapper, build_augmentations
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.evaluation import PanopticQualityEvaluator, restrict_outputs
from panoptic_fusion.evaluation.oracle import (
    ROWS,
    ground_truth_logits,
    keep_instance_classes,
    oracle_outputs,
    override_forward,
    predict_on_gt_boxes,
    replace_with_gt_classes,
)
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.networks import IndependentPanoptic

SOME = [[2.0, 3.0, 30.0, 41.0], [10.0, 20.0, 60.0, 44.0], [50.0, 1.0, 90.0, 60.0], [4.0, 4.0, 9.0, 20.0]]


@pytest.fixture(scope="module")
def network(tiny_cfg, one_thread):
    """An untrained network of the tiny config, with weights large enough that its classes differ."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    model.roi_heads.box_predictor.cls_score.bias.data[-1] = 5.0
    return model


@pytest.fixture(scope="module")
def features(network):
    torch.manual_seed(1)
    with torch.no_grad():
        return network.backbone(torch.randn(2, 3, 64, 96))


def target(boxes, classes, size=(64, 96)):
    return Instances(
        size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)), gt_classes=torch.tensor(classes, dtype=torch.int64)
    )


# -- the semantic segmentation -------------------------------------------------------------------------------------


def test_logits_of_the_ground_truth():
    logits = torch.tensor([[[[1.0, 1.0]], [[3.0, 5.0]], [[0.0, 0.0]]]])  # (1, 3, 1, 2), at stride 2
    labels = torch.tensor([[[0, 255, 2, 2], [255, 1, 0, 255]]])
    found = ground_truth_logits(logits, labels)
    # where there is none: 1, 3 + what lies between the centres (3 and 5 at 0.5 and 2.5 in pixels), 0
    nothing = {(0, 1): (1, 3.5, 0), (1, 0): (1, 3, 0), (1, 3): (1, 5, 0)}
    for y in range(2):
        for x in range(4):
            expected = nothing.get((y, x)) or [100.0 * (c == labels[0, y, x]) for c in range(3)]
            torch.testing.assert_close(found[0, :, y, x], torch.tensor(expected, dtype=torch.float32))


def test_logits_of_random_ground_truth():
    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        stride, h, w, c = (int(torch.randint(1, 5, (1,), generator=rng)) for _ in range(4))
        logits = torch.randn(2, c, h, w, generator=rng, dtype=torch.float16)
        labels = torch.randint(0, c + 1, (2, h * stride, w * stride), generator=rng)
        labels[labels == c] = 255
        found = ground_truth_logits(logits, labels)
        own = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear")
        for i, y, x in ((labels == 255).nonzero()).tolist():
            assert torch.equal(found[i, :, y, x], own[i, :, y, x])
        known = labels != 255
        assert torch.equal(found.argmax(1)[known], labels[known])
        assert (found.amax(1)[known] == 100).all() and (found.sum(1)[known] == 100).all()


# -- the boxes -------------------------------------------------------------------------------------------------------


def test_each_box_is_classified_alone(network, features):
    """Against the heads run on one box at a time; the second image has no box."""
    heads = network.roi_heads
    targets = [target(SOME, [0, 1, 2, 1]), target([], [])]
    with torch.no_grad():
        predicted, empty = predict_on_gt_boxes(heads, features, targets, known_classes=False)
        known, no_known = predict_on_gt_boxes(heads, features, targets, known_classes=True)
        probabilities, masks = [], []
        first = {name: x[:1] for name, x in features.items()}
        for box in SOME:
            pooled = heads.box_pooler([first[f] for f in heads.box_in_features], [Boxes(torch.tensor([box]))])
            probabilities.append(heads.box_predictor(heads.box_head(pooled))[0].softmax(1)[0])
            masks.append(heads.mask_logits(first, [Boxes(torch.tensor([box]))])[0])
    background = probabilities[0].numel() - 1
    best = [max(range(background), key=lambda c: p[c]) for p in probabilities]
    wins = [bool(p[-1] > p[c]) for p, c in zip(probabilities, best, strict=True)]
    assert len(set(best)) > 1 and len(set(wins)) == 2  # else this would prove little
    for found, classes, scores in (
        (predicted, best, [float(p[c]) for p, c in zip(probabilities, best, strict=True)]),
        (known, [0, 1, 2, 1], [1.0] * 4),
    ):
        order = sorted(range(4), key=lambda i: -probabilities[i][classes[i]])
        assert found.image_size == (64, 96)
        assert found.pred_boxes.tensor.tolist() == [SOME[i] for i in order]
        assert found.pred_classes.tolist() == [classes[i] for i in order]
        torch.testing.assert_close(found.scores, torch.tensor([scores[i] for i in order]))
        torch.testing.assert_close(found.pred_mask_logits, torch.stack([masks[i][classes[i]] for i in order]))
    for nothing in (empty, no_known):
        assert len(nothing) == 0 and nothing.pred_mask_logits.shape == (0, 28, 28) and nothing.image_size == (64, 96)


def test_boxes_are_those_of_the_resized_image(tiny_cfg, network):
    """96 x 128 images at half size: the boxes are those of the json, halved, up to the pixel of the resampling."""
    mapper = mapper_of(tiny_cfg, "tiny_val", 48)
    for record in DatasetCatalog.get("tiny_val"):
        x = mapper(record)
        assert x["image"].shape == (3, 48, 64) and x["instances"].image_size == x["sem_seg"].shape == (48, 64)
        things = [a["bbox"] for a in record["annotations"] if not a["iscrowd"]]
        expected = [[x0 / 2, y0 / 2, (x0 + w) / 2, (y0 + h) / 2] for x0, y0, w, h in things]
        boxes = x["instances"].gt_boxes.tensor
        assert len(boxes) == len(expected) > 0
        assert (boxes - torch.tensor(expected)).abs().max() <= 1


# -- the classes -----------------------------------------------------------------------------------------------------


def test_matched_classes(network, features):
    heads = network.roi_heads
    found = Instances((64, 96))
    # all of SOME[0]; IoU 0.5 with SOME[1]; less than that; two that overlap nothing
    boxes = [SOME[0], [10.0, 20.0, 60.0, 32.0], [50.0, 1.0, 69.0, 60.0], [70.0, 61.0, 80.0, 63.0]]
    found.pred_boxes, found.scores = Boxes(torch.tensor(boxes)), torch.tensor([0.9, 0.8, 0.7, 0.6])
    found.pred_classes = torch.tensor([2, 0, 1, 2])
    found.pred_mask_logits = torch.zeros(4, 28, 28)
    nobody = found[:0]
    with torch.no_grad():
        logits = heads.mask_logits({k: v[:1] for k, v in features.items()}, [found.pred_boxes])
        changed, still_nobody = replace_with_gt_classes(
            heads, features, [found, nobody], [target(SOME, [0, 1, 2, 1]), target(SOME, [0, 1, 2, 1])]
        )
        unchanged, _ = replace_with_gt_classes(heads, features, [found, nobody], [target([], []), target([], [])])
    assert changed.pred_classes.tolist() == [0, 1, 1, 2]
    assert unchanged.pred_classes.tolist() == found.pred_classes.tolist() == [2, 0, 1, 2]
    torch.testing.assert_close(changed.pred_mask_logits, logits[torch.arange(4), torch.tensor([0, 1, 1, 2])])
    assert torch.equal(changed.scores, found.scores) and changed.pred_boxes.tensor.tolist() == boxes
    assert not found.pred_mask_logits.any() and len(still_nobody) == 0


# -- whole rows ------------------------------------------------------------------------------------------------------


def mapper_of(cfg, dataset, short_side):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = short_side, 10 * short_side
    return PanopticDatasetMapper(
        True,
        augmentations=build_augmentations(cfg, False),
        image_format="BGR",
        label_space=get_label_space(dataset),
        ontology=cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY,
    )


def test_returning_puts_modules_back():
    module = torch.nn.ReLU()
    with pytest.raises(ZeroDivisionError), override_forward({module: 7}):
        assert module(torch.ones(1), key=3) == 7
        raise ZeroDivisionError
    assert module(torch.tensor(-1.0)) == 0 and "forward" not in vars(module)
    module.forward = stub = lambda x: 5
    with override_forward({module: 7}):
        assert module(1) == 7
    assert module.forward is stub


def test_the_first_row_is_the_model_and_the_network_runs_once(tiny_cfg, network):
    mapper = mapper_of(tiny_cfg, "tiny_val", 64)
    inputs = [mapper(record) for record in DatasetCatalog.get("tiny_val")[:2]]
    runs = []
    handle = network.backbone.bottom_up.register_forward_hook(lambda *_: runs.append(1))
    network.fusion.instances_confidence_thresh = 0.0
    with torch.no_grad():
        outputs = oracle_outputs(network, inputs)
        assert len(runs) == 1
        expected = network(inputs)
        assert len(runs) == 2
    handle.remove()
    assert tuple(outputs) == ROWS
    for found, own in zip(outputs[()], expected, strict=True):
        assert torch.equal(found["panoptic_seg"][0], own["panoptic_seg"][0])
        assert found["panoptic_seg"][1] == own["panoptic_seg"][1]
        assert torch.equal(found["sem_seg"], own["sem_seg"])
    for found, x in zip(outputs["box", "class"], inputs, strict=True):
        assert sorted(found["instances"].pred_classes.tolist()) == sorted(x["instances"].gt_classes.tolist())
        assert (found["instances"].scores == 1).all()
    for row in ROWS:
        for found, x in zip(outputs[row], inputs, strict=True):
            if "seg" in row:  # 64 rows of the network's input against 96 of the output
                labels = F.interpolate(x["sem_seg"][None, None].float(), size=(96, 128), mode="nearest")[0, 0]
                known = labels != 255
                assert (found["sem_seg"].argmax(0)[known] == labels[known]).float().mean() > 0.95


A, B, P = (4, 8, 20, 24), (40, 20, 56, 36), (44, 20, 60, 36)  # two things and a box at IoU 0.6 with B
THINGS = {"thing 0": A, "thing 1": B}


def hand_made(tiny_cfg, tmp_path, scale, fusion="HeuristicFusion", ontology="full", at_input=False):
    """A scene of 48 x 64 and a network that is wrong in all but its masks, which fill their boxes.

    Stuff 0 is the left half and stuff 1 the right half. The network says stuff 0 everywhere, sees one box, P, and
    calls every box thing 0 with a probability of 0.9. Its input is `scale` times as large as the image.
    """
    gt = np.full((48, 64), 3)
    gt[:, 32:] = 4
    for i, (x0, y0, x1, y1) in enumerate(THINGS.values(), start=1):
        gt[y0:y1, x0:x1] = i
    segments = [(1, 0, False), (2, 1, False), (3, 2, False), (4, 3, False)]
    files = write_data_set(tmp_path / "set", [Pair(gt, [], gt, segments)], num_things=2, num_stuff=2)
    Image.new("RGB", (64, 48)).save(tmp_path / "set" / "images" / "scene_0.jpg")
    name = f"oracle_{uuid.uuid4().hex}"
    register_panoptic(name, **files)

    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.MODEL.CATEGORIES = get_label_space(name).to_categories()
    cfg.MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT = 0
    cfg.MODEL.PANOPTIC_FUSION.NAME, cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY = fusion, ontology
    cfg.MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION = at_input
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (), ()
    model = build_model(cfg).eval()
    num_channels = get_label_space(name).num_channels(ontology)

    def sem_seg_head(features):
        logits = torch.zeros(1, num_channels, *features["p2"].shape[-2:])
        logits[:, 0] = 1
        return logits

    def box_predictor(x):
        return torch.log(torch.tensor([[0.9, 0.02, 0.08]])).expand(len(x), 3), torch.zeros(len(x), 8)

    def proposal_generator(images, features, targets):
        boxes = Boxes(scale * torch.tensor([P]).float())
        return [Instances(images.image_sizes[0], proposal_boxes=boxes, objectness_logits=torch.ones(1))], {}

    model.sem_seg_head.forward = sem_seg_head
    model.roi_heads.box_predictor.forward = box_predictor
    model.proposal_generator.forward = proposal_generator
    model.roi_heads.mask_logits = lambda features, boxes: torch.full((sum(map(len, boxes)), 2, 28, 28), 10.0)
    return name, model, mapper_of(cfg, name, round(48 * scale))


@pytest.mark.parametrize("scale", [1, 2])
def test_quality_of_each_row_by_hand(tiny_cfg, tmp_path, scale):
    name, model, mapper = hand_made(tiny_cfg, tmp_path, scale)
    results = {}
    inputs = [mapper(record) for record in DatasetCatalog.get(name)]
    with torch.no_grad(), restrict_outputs(model, ["panoptic"]):
        outputs = oracle_outputs(model, inputs)
    for row, predictions in outputs.items():
        evaluator = PanopticQualityEvaluator(name, distributed=False)
        evaluator.process(inputs, predictions)
        results[row] = evaluator.evaluate()["panoptic_seg"]
    expected = {  # PQ of thing 0, thing 1, stuff 2, stuff 3
        # P is a thing 0 that meets no thing 0; stuff 0 has an IoU of 1280 / 2816
        (): (0, 0, 0, 0),
        # A is right; B is a false positive of its class; stuff 0 has an IoU of 1280 / 2560, not above 0.5
        ("box",): (100 / 1.5, 0, 0, 0),
        ("box", "class"): (100, 100, 0, 0),
        # P lies with 4 x 16 pixels on the right half, whose 1280 pixels are else right
        ("seg",): (0, 0, 100, 100 * 1216 / 1280),
        # P is B now, with an IoU of 192 / 320
        ("class",): (0, 60, 0, 0),
        ("box", "class", "seg"): (100, 100, 100, 100),
    }
    assert results.keys() == expected.keys()
    for row, values in expected.items():
        found = results[row]
        for label, value in zip(("thing 0", "thing 1", "stuff 2", "stuff 3"), values, strict=True):
            assert found[f"PQ-{label}"] == pytest.approx(value, abs=1e-6), (row, label)
        assert found["PQ"] == pytest.approx(sum(values) / 4)


@pytest.mark.parametrize("ontology", ONTOLOGIES)
@pytest.mark.parametrize("fusion", sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
@pytest.mark.parametrize("at_input", [False, True])
def test_every_fusion_is_right_when_all_parts_are(tiny_cfg, tmp_path, fusion, ontology, at_input):
    try:
        name, model, mapper = hand_made(tiny_cfg, tmp_path, 2, fusion, ontology, at_input)
    except ConfigError as error:
        assert ontology != "full" and "ONTOLOGY" in str(error)
        pytest.skip(f"{fusion} does not go with {ontology}")
    inputs = [mapper(record) for record in DatasetCatalog.get(name)]
    with torch.no_grad():
        outputs = oracle_outputs(model, inputs)
    evaluator = PanopticQualityEvaluator(name, distributed=False)
    evaluator.process(inputs, outputs["box", "class", "seg"])
    assert evaluator.evaluate()["panoptic_seg"]["PQ"] == pytest.approx(100)


def test_all_parts_lose_only_what_resizing_costs(tiny_cfg, tmp_path):
    name, model, mapper = hand_made(tiny_cfg, tmp_path, 1.3)
    inputs = [mapper(record) for record in DatasetCatalog.get(name)]
    assert inputs[0]["image"].shape == (3, 62, 83)
    with torch.no_grad():
        outputs = oracle_outputs(model, inputs)["box", "class", "seg"]
    evaluator = PanopticQualityEvaluator(name, distributed=False)
    evaluator.process(inputs, outputs)
    results = evaluator.evaluate()["panoptic_seg"]
    # Half a pixel on the sides of 16 x 16 things and of the halves at most.
    assert 95 < results["PQ_st"] <= 100 and 100 * 15**2 / 17**2 < results["PQ_th"] <= 100


def test_a_doubted_box_is_lost_unless_its_class_is_given(tiny_cfg, tmp_path):
    name, model, mapper = hand_made(tiny_cfg, tmp_path, 1)
    model.fusion.instances_confidence_thresh = 0.95
    with torch.no_grad():
        outputs = oracle_outputs(model, [mapper(record) for record in DatasetCatalog.get(name)])
    count = {row: sum(s["isthing"] for s in x[0]["panoptic_seg"][1]) for row, x in outputs.items()}
    assert count == {(): 0, ("box",): 0, ("class",): 0, ("seg",): 0, ("box", "class"): 2, ("box", "class", "seg"): 2}


def test_a_true_class_is_not_made_stuff(tiny_cfg, tmp_path):
    """The network says stuff everywhere. UPSNet's class assignment then makes every instance stuff, unless its class is
    the true one."""
    name, model, mapper = hand_made(tiny_cfg, tmp_path, 1, "UPSNetFusion")
    with torch.no_grad():
        outputs = oracle_outputs(model, [mapper(record) for record in DatasetCatalog.get(name)])
    things = {
        row: sorted(s["category_id"] for s in x[0]["panoptic_seg"][1] if s["isthing"]) for row, x in outputs.items()
    }
    # "class": P is a thing 1, by its overlap with B. "seg": P is a thing 0 and loses all pixels, those on B to unknown
    # (100 - 0 against 0 + 10), the others to stuff 1.
    both = [0, 1]
    assert things == {
        (): [], ("box",): [], ("box", "class"): both, ("seg",): [], ("class",): [1], ("box", "class", "seg"): both,
    }  # fmt: skip
    assert model.fusion.keep_instance_classes is False
    with pytest.raises(ZeroDivisionError), keep_instance_classes(model.fusion, True):
        assert model.fusion.keep_instance_classes
        raise ZeroDivisionError
    assert model.fusion.keep_instance_classes is False


def test_two_networks(tiny_cfg, tmp_path):
    """Instances and their masks come from one network, semantic logits from the other, in every row."""
    name, model, mapper = hand_made(tiny_cfg, tmp_path, 1)
    inputs = [mapper(record) for record in DatasetCatalog.get(name)]
    semantic = copy.deepcopy(model)
    pair = IndependentPanoptic(instance_network=model, semantic_network=semantic, fusion=model.fusion).eval()
    with torch.no_grad():
        expected = oracle_outputs(model, inputs)
        model.sem_seg_head = semantic.proposal_generator = semantic.roi_heads = None
        found = oracle_outputs(pair, inputs)
    assert tuple(found) == ROWS
    for row in ROWS:
        (ours,), (theirs,) = found[row], expected[row]
        assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
        assert ours["panoptic_seg"][1] == theirs["panoptic_seg"][1]
