"""`panoptic_fusion.fuse`: the networks' results on 200 random scenes, a slow rule, category ids, errors."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_api
from small_networks import example, small_cfg

import panoptic_fusion
from panoptic_fusion import fuse
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion import SemSegLogits
from panoptic_fusion.modeling.fusion.any_arrays import to_tensor
from panoptic_fusion.modeling.fusion.rules import RULES

LIMIT = 30  # pixels of stuff; the scenes are small
STRIDE = 4


def network_fusion(rule, num_stuff, num_things):
    """The fusion that a network has, with its own thresholds."""
    kind = RULES[rule].fusion
    categories = [
        {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, 1, 1]}
        for i in range(num_things + num_stuff)
    ]
    thresholds = kind.all_thresholds()
    greedy = {} if rule == "upsnet" else {"stuff_channels_only": thresholds["STUFF_CHANNELS_ONLY"]}
    return kind(
        label_space=LabelSpace.from_categories(categories),
        ontology="full",
        instances_confidence_thresh=thresholds["INSTANCES_CONFIDENCE_THRESH"],
        overlap_thresh=thresholds["OVERLAP_THRESH"],
        stuff_area_limit=LIMIT,
        **greedy,
    )


def random_scene(seed):
    """Outputs of a network for an image: S, T, semantic logits (C, h, w), Instances with mask logits on boxes."""
    torch.manual_seed(seed)
    num_stuff, num_things, num = (int(torch.randint(*ends, ())) for ends in ((1, 4), (1, 4), (0, 9)))
    height, width = (STRIDE * int(torch.randint(4, 14, ())) for _ in range(2))
    channels = num_stuff + num_things
    coarse = torch.randn(1, channels, 3, 4) * 4
    logits = torch.nn.functional.interpolate(coarse, size=(height // STRIDE, width // STRIDE), mode="bilinear")[0]
    corner = torch.rand(num, 2) * torch.tensor([width, height]) * 0.8 - 2
    boxes = Boxes(torch.cat([corner, corner + 3 + torch.rand(num, 2) * torch.tensor([width, height]) * 0.6], dim=1))
    boxes.clip((height, width))
    instances = Instances(
        (height, width),
        pred_boxes=boxes,
        scores=torch.randint(6, 20, (num,)) / 20,  # ties, and scores at the thresholds
        pred_classes=torch.randint(0, num_things, (num,)),
        pred_mask_logits=torch.randn(num, 28, 28) + 5 * torch.rand(num, 1, 1) * torch.randn(num, 1, 1).sign(),
    )
    return num_stuff, num_things, logits, instances


def same(ours, theirs):
    ours_map, theirs_map = (np.asarray(result[0]) for result in (ours, theirs))
    return (
        ours_map.dtype == theirs_map.dtype == np.int32 and np.array_equal(ours_map, theirs_map) and ours[1] == theirs[1]
    )


@pytest.mark.parametrize("rule", RULES)
def test_equals_the_networks_fusion_on_200_scenes(rule):
    things, dropped = 0, 0
    for seed in range(200):
        num_stuff, num_things, logits, instances = random_scene(seed)
        size, boxes = instances.image_size, instances.pred_boxes.tensor
        fusion = network_fusion(rule, num_stuff, num_things)
        arguments = {"stuff_classes": num_stuff, "thing_classes": num_things, "rule": rule, "stuff_area_limit": LIMIT}
        if rule == "spatial_ranking":
            arguments["ranking"] = fusion.srm
        with torch.no_grad():
            expected = fusion(SemSegLogits(logits, size, size, size), instances)
        about = (instances.scores, instances.pred_classes)
        found = fuse(logits, instances.pred_mask_logits, *about, boxes=boxes, size=size, **arguments)
        assert same(found, expected), seed
        things += sum(s["isthing"] for s in expected[1])
        dropped += len(instances) - sum(s["isthing"] for s in expected[1])

        # the same with full masks: bool arrays of numpy, RLE
        masks = paste_masks_in_image(instances.pred_mask_logits.sigmoid(), instances.pred_boxes, size)
        pasted = Instances(size, **{k: v for k, v in instances.get_fields().items() if k != "pred_mask_logits"})
        pasted.pred_masks = masks
        full = torch.nn.functional.interpolate(logits[None], scale_factor=STRIDE, mode="bilinear")[0]
        with torch.no_grad():
            expected = fusion(SemSegLogits(full, size, size, size), pasted)
        if rule == "upsnet":
            arguments["boxes"] = boxes.numpy()
        if seed % 2:
            masks = [mask_api.encode(np.asfortranarray(mask)) for mask in masks.numpy().astype(np.uint8)]
        else:
            masks = masks.numpy()
        found = fuse(full.numpy(), masks, *(x.numpy() for x in about), **arguments)
        assert isinstance(found[0], np.ndarray) and same(found, expected), seed
    assert things > 100 and dropped > 150, (things, dropped)


@pytest.mark.parametrize("rule", RULES)
def test_equals_what_a_network_returns(rule):
    torch.manual_seed(0)
    cfg = small_cfg(MODEL__PANOPTIC_FUSION__NAME=RULES[rule].fusion.__name__, MODEL__SEM_SEG_HEAD__ONTOLOGY="full")
    network = build_model(panoptic_fusion.resolve_config(cfg)).eval()
    seen = []
    network.fusion.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    with torch.no_grad():
        ((expected, info),) = [x["panoptic_seg"] for x in network([example(3, size=(64, 96))])]
    sem_seg, instances = seen[0][:2]
    assert len(instances) > 3 and sem_seg.padded_size == (64, 96)
    found = fuse(
        sem_seg.logits, instances.pred_mask_logits, instances.scores, instances.pred_classes,
        boxes=instances.pred_boxes.tensor, size=(64, 96), stuff_classes=2, thing_classes=2, rule=rule,
        confidence_thresh=0.0, stuff_area_limit=1, ranking=network.fusion.srm if rule == "spatial_ranking" else None,
    )  # fmt: skip
    assert same(found, (expected, info)) and info


def slow_heuristic(labels, masks, scores, classes, stuff_ids, limit):
    """The heuristic rule of Panoptic FPN pixel by pixel, at 0.5 and 0.5: the map as (category, instance) pairs."""
    height, width = len(labels), len(labels[0])
    owner = {}
    for row in sorted(range(len(masks)), key=lambda i: (-scores[i], i)):
        pixels = [(y, x) for y in range(height) for x in range(width) if masks[row][y][x]]
        taken = sum(pixel in owner for pixel in pixels)
        if scores[row] < 0.5 or not pixels or taken / len(pixels) > 0.5:
            continue
        owner.update({pixel: (classes[row], row) for pixel in pixels if pixel not in owner})
    for stuff in stuff_ids:
        pixels = [(y, x) for y in range(height) for x in range(width) if labels[y][x] == stuff and (y, x) not in owner]
        if len(pixels) >= limit:
            owner.update(dict.fromkeys(pixels, (stuff, None)))
    return owner


def test_heuristic_rule_on_label_maps_with_category_ids_equals_a_slow_one():
    rng = np.random.default_rng(0)
    for _ in range(100):
        size, num = rng.integers(2, 14, 2), rng.integers(0, 6)
        stuff_ids, thing_ids = [7, 2, 90], [11, 200]
        labels = rng.choice([7, 2, 90, 11, 200, 255, 5], size).repeat(2, 0).repeat(2, 1)
        masks = np.zeros((num, *labels.shape), bool)
        for mask in masks:
            y, x = (rng.integers(0, side) for side in labels.shape)
            mask[y : y + rng.integers(1, 12), x : x + rng.integers(1, 12)] = True
            mask &= rng.random(mask.shape) < 0.9
        scores, classes = rng.integers(8, 20, num) / 20, rng.choice(thing_ids, num)
        panoptic, info = fuse(
            labels, masks, scores, classes, stuff_classes=stuff_ids, thing_classes=thing_ids, stuff_area_limit=6
        )
        by_id = {s["id"]: (s["category_id"], s.get("instance_id")) for s in info}
        found = {(y, x): by_id[panoptic[y, x]] for y, x in zip(*np.nonzero(panoptic), strict=True)}
        arrays = (x.tolist() for x in (labels, masks, scores, classes))
        assert found == slow_heuristic(*arrays, stuff_ids, 6)
        assert all(s["area"] == (panoptic == s["id"]).sum() and s["isthing"] == ("score" in s) for s in info)


def test_large_category_ids_take_no_memory():
    """A table with an entry per number up to the largest would need 2^66 bytes."""
    rng = np.random.default_rng(1)
    labels = rng.choice([7, 2, 11, 255, 0], (9, 12))
    masks, scores = rng.random((3, 9, 12)) < 0.5, [0.9, 0.8, 0.7]
    options = {"stuff_area_limit": 2}
    panoptic, info = fuse(labels, masks, scores, [11, 11, 3], stuff_classes=[7, 2], thing_classes=[11, 3], **options)
    large = {7: 2**63 - 1, 2: 2**40, 11: 2**62, 3: 2**31, 255: -1, 0: 2**17}
    again, large_info = fuse(
        np.vectorize(large.get)(labels), masks, scores, [large[11], large[11], large[3]],
        stuff_classes=[large[7], large[2]], thing_classes=[large[11], large[3]], **options,
    )  # fmt: skip
    assert len({s["category_id"] for s in info}) > 2
    assert np.array_equal(panoptic, again)
    assert large_info == [{**s, "category_id": large[s["category_id"]]} for s in info]


def test_by_hand():
    # Sky (0) above road (1). A car of 6 pixels; a second one of 4, of which 3 are covered, is dropped.
    labels = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 2]])
    masks = np.zeros((2, 3, 4), bool)
    masks[0, :2, :3] = masks[1, 0] = True
    panoptic, info = fuse(labels, masks, [0.9, 0.8], [0, 0], stuff_classes=2, thing_classes=1, stuff_area_limit=3)
    # What no instance takes of the sky is 2 pixels, less than 3; the thing label of the last pixel is void.
    assert panoptic.tolist() == [[1, 1, 1, 0], [1, 1, 1, 0], [2, 2, 2, 0]]
    assert info == [
        {"id": 1, "isthing": True, "category_id": 0, "score": 0.9, "instance_id": 0, "area": 6},
        {"id": 2, "isthing": False, "category_id": 1, "area": 3},
    ]
    # 3 of 4 pixels are covered: fine for another threshold. The car in front takes what it wants.
    arguments = {"stuff_classes": 2, "thing_classes": 1, "stuff_area_limit": 3}
    panoptic, _ = fuse(labels, masks, [0.9, 0.8], [0, 0], overlap_thresh=0.75, **arguments)
    assert panoptic.tolist() == [[1, 1, 1, 2], [1, 1, 1, 0], [3, 3, 3, 0]]
    # By ranking the second is in front, and the first has 3 of 6 pixels covered.
    panoptic, _ = fuse(labels, masks, [0.9, 0.8], [0, 0], rule="spatial_ranking", ranking=[0.1, 0.7], **arguments)
    assert panoptic.tolist() == [[1, 1, 1, 1], [2, 2, 2, 0], [3, 3, 3, 0]]
    # The semantic labels call none of the pixels a thing.
    panoptic, info = fuse(labels, masks, [0.9, 0.8], [0, 0], rule="mask_guided", **arguments)
    assert panoptic.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 0]]


@pytest.mark.parametrize("rule", ["heuristic", "seamless", "mask_guided"])
def test_labels_equal_the_logits_that_they_are_the_argmax_of(rule):
    for seed in range(20):
        num_stuff, num_things, logits, instances = random_scene(seed)
        size = instances.image_size
        masks = paste_masks_in_image(instances.pred_mask_logits.sigmoid(), instances.pred_boxes, size)
        arguments = {"stuff_classes": num_stuff, "thing_classes": num_things, "rule": rule, "stuff_area_limit": LIMIT}
        about = (masks, instances.scores, instances.pred_classes)
        full = SemSegLogits(logits, size, size, size)
        assert same(fuse(full.argmax().to(torch.uint8), *about, **arguments), fuse(logits, *about, **arguments))


@pytest.mark.parametrize("rule", RULES)
def test_category_ids_are_channels_in_any_order(rule):
    for seed in range(20):
        num_stuff, num_things, logits, instances = random_scene(seed)
        shuffled = torch.randperm(len(logits)).tolist()  # our channel c is their channel shuffled[c]
        stuff, things = shuffled[:num_stuff], shuffled[num_stuff:]
        theirs = torch.empty_like(logits)
        theirs[shuffled] = logits
        masks = {
            "boxes": instances.pred_boxes.tensor,
            "size": instances.image_size,
            "rule": rule,
            "stuff_area_limit": 9,
        }
        if rule == "spatial_ranking":
            masks["ranking"] = torch.rand(len(instances))
        about = (instances.pred_mask_logits, instances.scores)
        expected, info = fuse(
            logits, *about, instances.pred_classes, stuff_classes=num_stuff, thing_classes=num_things, **masks
        )
        classes = np.array(things)[instances.pred_classes.numpy()]
        found = fuse(theirs, *about, classes, stuff_classes=stuff, thing_classes=things, **masks)
        names = {True: things, False: stuff}
        assert same(found, (expected, [{**s, "category_id": names[s["isthing"]][s["category_id"]]} for s in info]))


def test_channels_of_no_class_win_pixels_and_make_them_void():
    logits = torch.zeros(4, 2, 3)  # background, sky, car, other
    logits[0, 0], logits[1, 1], logits[3, :, 2], logits[2, 1, 0] = 1, 1, 2, 3
    mask = torch.tensor([[[True, False, False], [True, False, False]]])
    arguments = {"stuff_classes": [1], "thing_classes": [2], "stuff_area_limit": 0}
    panoptic, info = fuse(logits, mask, [0.9], [2], **arguments)
    assert panoptic.tolist() == [[1, 0, 0], [1, 2, 0]] and [s["category_id"] for s in info] == [2, 1]
    # The background is not a thing: half of the mask is agreed on, and 0.5 is not above 0.5.
    for thresh, number in ((0.4, 1), (0.5, 0)):
        _, info = fuse(logits, mask, [0.9], [2], rule="mask_guided", agreement_thresh=thresh, **arguments)
        assert sum(s["isthing"] for s in info) == number


def test_without_instances_the_size_is_the_same_as_with_them():
    logits, arguments = torch.zeros(2, 4, 6), {"stuff_classes": 1, "thing_classes": 1, "stuff_area_limit": 0}
    for num in (0, 1):
        about = (torch.ones(num, 13, 19) > 0, torch.ones(num), torch.zeros(num))
        assert fuse(logits, *about, **arguments)[0].shape == (13, 19)
        assert fuse(logits, about[0][:, None].numpy(), *about[1:], **arguments)[0].shape == (13, 19)
    for masks in (None, [], [{"size": [13, 19], "counts": [0, 247]}]):
        about = (masks, np.ones(len(masks or [])), np.zeros(len(masks or [])))
        assert fuse(logits, *about, size=(13, 19), **arguments)[0].shape == (13, 19)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("masks", [None, [], torch.zeros(0, 8, 8) > 0, np.zeros((0, 28, 28), np.float32)], ids=str)
def test_without_instances(rule, masks):
    logits = torch.zeros(3, 8, 8)
    logits[1] = 5
    ranking = {"ranking": []} if rule == "spatial_ranking" else {}
    arguments = {"stuff_classes": 2, "thing_classes": 1, "rule": rule, "stuff_area_limit": 1}
    panoptic, info = fuse(logits, masks, [], [], boxes=torch.zeros(0, 4), **ranking, **arguments)
    assert panoptic.unique().tolist() == [1]
    assert info == [{"id": 1, "isthing": False, "category_id": 1, "area": 64}]


def test_empty_values_keep_their_dtype():
    """Only [], which has none, is float32 as in torch; NumPy makes it float64."""
    assert to_tensor([], "scores").dtype == torch.float32
    assert to_tensor(np.zeros(0, np.int64), "classes").dtype == torch.int64
    assert to_tensor(np.zeros(1), "scores").dtype == torch.float64


def test_arguments_are_not_changed_and_numbers_that_are_not_finite_are_left_out():
    num_stuff, num_things, logits, instances = random_scene(2)
    logits = logits.clone()
    logits[0, 0, 0] = torch.nan
    fields = [logits, instances.pred_mask_logits, instances.scores.clone(), instances.pred_classes]
    fields[2][0] = torch.nan
    before = [x.clone() for x in fields]
    ranking = torch.rand(len(instances))
    panoptic, info = fuse(
        *fields, boxes=instances.pred_boxes.tensor, size=instances.image_size, stuff_classes=num_stuff,
        thing_classes=num_things, rule="spatial_ranking", ranking=ranking, confidence_thresh=0.0, overlap_thresh=1.0,
    )  # fmt: skip
    assert all(torch.equal(x.nan_to_num(9), y.nan_to_num(9)) for x, y in zip(fields, before, strict=True))
    found = [s["instance_id"] for s in info if s["isthing"]]
    assert found and 0 not in found and found == sorted(found, key=lambda row: -float(ranking[row]))


LABELS, MASKS = np.zeros((4, 6), np.int64), np.ones((2, 4, 6), bool)
LOGITS = np.random.default_rng(0).normal(size=(3, 4, 6))
GOOD = {
    "sem_seg": LABELS, "masks": MASKS, "scores": [0.9, 0.8], "classes": [0, 0], "stuff_classes": 2, "thing_classes": 1,
}  # fmt: skip
COUNTS = [3, 5]
ERRORS = [
    ({"rule": "nms"}, "rule is 'nms': available: heuristic, seamless, mask_guided, spatial_ranking, upsnet"),
    ({"rule": "upsnet"}, r"rule 'upsnet' needs semantic logits \(C, H, W\), but sem_seg is a label map"),
    ({"rule": "upsnet", "sem_seg": LOGITS[:2]}, "'upsnet' needs semantic logits of each of the 1 thing classes"),
    ({"rule": "upsnet", "sem_seg": LOGITS, "thing_classes": 4}, "each of the 4 thing classes, but sem_seg has 1"),
    ({"rule": "upsnet", "sem_seg": np.full((3, 4, 6), 1 / 3)}, "semantic logits, but sem_seg has probabilities"),
    ({"rule": "mask_guided", "sem_seg": LOGITS[:2]}, "'mask_guided' needs semantic logits or labels of things"),
    ({"rule": "spatial_ranking"}, "'spatial_ranking' needs ranking: scores"),
    ({"ranking": [1, 2]}, "rule 'heuristic' does not use ranking"),
    ({"rule": "spatial_ranking", "ranking": [1]}, r"ranking has the shape \(1,\), but 2 masks need \(2,\)"),
    ({"rule": "spatial_ranking", "ranking": [1, np.nan]}, "not finite"),
    ({"rule": "seamless", "agreement": "iou"}, "'seamless' has no option 'agreement': available: confidence_thresh"),
    ({"overlap_thresh": 1.5}, r"overlap_thresh is 1.5: pass a number in \[0, 1\]"),
    ({"confidence_thresh": "0.5"}, r"confidence_thresh is '0.5': pass a number"),
    ({"stuff_area_limit": -1}, "stuff_area_limit is -1: pass 0 or more pixels"),
    ({"stuff_channels_only": True}, "stuff_channels_only needs semantic logits"),
    ({"rule": "mask_guided", "agreement": "dice"}, "agreement is 'dice': pass one of coverage, iou"),
    ({"sem_seg": LOGITS, "stuff_classes": 5}, "sem_seg has 3 channels, but 5 stuff and 1 thing classes need 5 or 6"),
    ({"sem_seg": LOGITS[0]}, "sem_seg has the shape .* and dtype torch.float64: pass float logits"),
    ({"sem_seg": LOGITS.astype(int)}, "sem_seg has the shape .* and dtype torch.int64"),
    ({"sem_seg": "labels.png"}, "sem_seg must be a torch tensor or a numpy array, not str"),
    ({"sem_seg": LABELS[:3]}, "sem_seg is a label map of size .3, 6., but the output has .4, 6."),
    ({"size": (8, 12), "sem_seg": LOGITS}, "masks have the size .4, 6., but the output has .8, 12."),
    ({"stuff_classes": [0, 1]}, "pass two counts or two sequences of category ids"),
    ({"stuff_classes": [0, 1], "thing_classes": [1, 2]}, "share a category id or repeat one"),
    ({"stuff_classes": -2}, "stuff_classes is -2: pass a count"),
    ({"stuff_classes": [2**63], "thing_classes": [1]}, r"integers in \[0, 2\^63\)"),
    ({"stuff_classes": [0.5], "thing_classes": [1]}, "stuff_classes is .0.5.: pass a count"),
    ({"stuff_classes": [7], "thing_classes": [1], "sem_seg": LOGITS, "classes": [1, 1]}, "stuff_classes has the id 7"),
    ({"classes": [0, 1]}, "instance 1 has the class 1, which is not a thing class .0 to 0."),
    ({"classes": [0, 0.5]}, "classes must be whole numbers"),
    ({"classes": [0]}, r"classes has the shape \(1,\), but 2 masks need \(2,\)"),
    ({"scores": [0.5]}, r"scores has the shape \(1,\), but 2 masks need \(2,\)"),
    ({"scores": ["a", "b"]}, "scores must be a torch tensor or a numpy array"),
    ({"masks": None}, r"scores has the shape \(2,\), but 0 masks need \(0,\)"),
    ({"masks": MASKS[0]}, r"masks has the shape \(4, 6\)"),
    ({"masks": MASKS.astype(float)}, "pass `masks > 0.5`"),
    ({"masks": MASKS.astype(float), "boxes": np.zeros((2, 4))}, "pass `masks > 0.5`"),
    ({"masks": np.full((2, 8, 8), 0.7), "boxes": np.zeros((2, 4))}, "masks on boxes must be logits"),
    ({"masks": np.full((2, 8, 8), 7.0), "boxes": np.zeros((1, 4))}, r"boxes has the shape \(1, 4\), but 2 masks"),
    ({"masks": [{"size": [4, 6]}] * 2}, "masks: entry 0 is not a COCO RLE"),
    ({"masks": [{"size": [4, 6], "counts": [24]}, {"size": [4, 6], "counts": [23]}]}, "entry 1 is not a COCO RLE"),
    ({"masks": [{"size": [4, 6], "counts": [24]}, {"size": [6, 4], "counts": [24]}]}, "have different sizes"),
    ({"masks": [{"size": [4, 6], "counts": b"~~~"}] * 2}, "masks: entry 0 is not a COCO RLE"),
]  # fmt: skip


@pytest.mark.parametrize("wrong, message", ERRORS, ids=[message[:50] for _, message in ERRORS])
def test_errors_are_one_clear_line(wrong, message):
    assert fuse(**GOOD)[1]
    with pytest.raises(UserError, match=message) as error:
        fuse(**{**GOOD, **wrong})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_a_module_for_other_classes_is_an_error():
    from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import SpatialRankingModule

    with pytest.raises(UserError, match="ranking is a module for 3 thing classes, but thing_classes has 1"):
        fuse(**GOOD, rule="spatial_ranking", ranking=SpatialRankingModule(3))


def test_without_detectron2s_types_and_config():
    # Every argument is an array or a number; the result is, too.
    panoptic, info = fuse(**GOOD)
    assert type(panoptic) is np.ndarray and panoptic.dtype == np.int32
    assert {type(v) for s in info for v in s.values()} <= {int, bool, float}
