"""TEST.AUG: one view is no augmentation, several are merged as a plain implementation merges them."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from small_networks import small_cfg
from torch.nn import functional as F
from torchvision.ops import box_iou

from panoptic_fusion import resolve_config
from panoptic_fusion.data.mapper import build_augmentations
from panoptic_fusion.networks.inference import run_heads
from panoptic_fusion.networks.test_time_augmentation import TestTimeAugmentation, View, merge_detections

SYSTEMS = {
    "baseline": {},
    "tascnet": {"MODEL__PANOPTIC_FUSION__NAME": "MaskGuidedFusion"},
    "collapsed": {"MODEL__SEM_SEG_HEAD__ONTOLOGY": "collapsed"},
    "oanet": {"MODEL__PANOPTIC_FUSION__NAME": "SpatialRankingFusion"},
    "upsnet": {"MODEL__PANOPTIC_FUSION__NAME": "UPSNetFusion"},
    "seamless": {"MODEL__PANOPTIC_FUSION__NAME": "SeamlessFusion"},
    "instances": {"MODEL__META_ARCHITECTURE": "InstanceNetwork"},
    "semantic": {"MODEL__META_ARCHITECTURE": "SemanticNetwork"},
}


def network(sizes=(64,), flip=False, enabled=True, **keys):
    cfg = small_cfg(TEST__AUG__ENABLED=enabled, TEST__AUG__MIN_SIZES=sizes, TEST__AUG__FLIP=flip, **keys)
    torch.manual_seed(3)
    model = build_model(resolve_config(cfg)).eval()
    for name, value in model.named_parameters():  # so that several classes win, and no two scores are equal
        if "predictor" in name and name.endswith("weight"):
            torch.nn.init.normal_(value, std=0.02 if "cls_score" in name else 0.3)
    return model


def photo(seed=0, size=(64, 96)) -> torch.Tensor:
    noise = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(seed)) * 255
    return F.interpolate(noise, size=size, mode="bilinear")[0].round().to(torch.uint8)


def run(model, image, **size):
    with torch.no_grad():
        return model([{"image": image, **size}])[0]


def assert_equal(a, b):
    assert a.keys() == b.keys()
    if "sem_seg" in a:
        assert torch.equal(a["sem_seg"], b["sem_seg"])
    if "panoptic_seg" in a:
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0]) and a["panoptic_seg"][1] == b["panoptic_seg"][1]
    if "instances" in a:
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_view_is_no_augmentation(system):
    """Bit for bit, at the size of the image and at another output size; 0 is the image's own size."""
    plain = network(enabled=False, **SYSTEMS[system])
    for sizes in ((64,), (0,)):
        augmented = network(sizes, **SYSTEMS[system])
        for output in ({}, {"height": 50, "width": 70}):
            assert_equal(run(plain, photo(), **output), run(augmented, photo(), **output))
    assert_equal(run(plain, photo()), run(augmented, photo().float()))  # detectron2's DefaultPredictor gives floats


@pytest.mark.parametrize("system", SYSTEMS)
def test_several_views(system):
    """The result of a mirrored image is the mirrored result; more views than one change it."""
    model = network((48, 64, 96), flip=True, **SYSTEMS[system])
    output, mirrored = run(model, photo()), run(model, photo().flip(-1))
    assert output.keys() == run(network(enabled=False, **SYSTEMS[system]), photo()).keys()
    if "sem_seg" in output:
        assert torch.allclose(output["sem_seg"], mirrored["sem_seg"].flip(-1), atol=1e-4)
        single = run(network((48,), **SYSTEMS[system]), photo())["sem_seg"]
        assert not torch.allclose(output["sem_seg"], single, atol=1e-2)
    if "panoptic_seg" in output:
        (labels, segments), (other, other_segments) = output["panoptic_seg"], mirrored["panoptic_seg"]
        assert len(segments) == len(other_segments) > 0
        classes = [
            np.array([0, *(1 + 100 * s["isthing"] + s["category_id"] for s in info)])[np.asarray(m)]
            for m, info in ((labels, segments), (other.flip(-1), other_segments))
        ]
        assert (classes[0] == classes[1]).mean() > 0.99
    if "instances" in output:
        assert len(output["instances"]) == len(mirrored["instances"]) > 0
        assert torch.allclose(output["instances"].scores, mirrored["instances"].scores, atol=1e-5)


def test_semantics_against_plain_averages():
    """All views' probabilities at output size, in full tensors; the argmax is that of their mean."""
    sizes, output = (48, 96), (80, 120)
    model = network(sizes, flip=True, MODEL__META_ARCHITECTURE="SemanticNetwork")
    probabilities, partitions = [], []
    for size in sizes:
        for flip in (False, True):
            image = model.augmentation.image_of(View(size, flip), photo())["image"]
            assert min(image.shape[1:]) == size
            with torch.no_grad():
                heads = next(iter(run_heads(model, [{"image": image}], instances=False)))
            x = F.interpolate(heads.sem_seg_logits[None], scale_factor=4.0, mode="bilinear")
            x = F.interpolate(x[..., : heads.image_size[0], : heads.image_size[1]], size=output, mode="bilinear")[0]
            x = torch.stack([row.flip(-1) for row in x]) if flip else x
            probabilities.append(x.softmax(0))
            partitions.append(x.logsumexp(0))
    mean = sum(probabilities) / 4
    found = run(model, photo(), height=80, width=120)["sem_seg"]
    assert torch.allclose(found.softmax(0), mean, atol=1e-5)
    assert torch.allclose(found.logsumexp(0), sum(partitions) / 4, atol=1e-4)


def test_average_of_logits():
    """TEST.AUG.AVERAGE "logits" (TASCNet, UPSNet): the plain mean of the views' logits at output size."""
    keys = {"MODEL__META_ARCHITECTURE": "SemanticNetwork"}
    model = network((48, 96), flip=True, TEST__AUG__AVERAGE="logits", **keys)
    expected = []
    for size in (48, 96):
        for flip in (False, True):
            image = model.augmentation.image_of(View(size, flip), photo())["image"]
            with torch.no_grad():
                heads = next(iter(run_heads(model, [{"image": image}], instances=False)))
            x = F.interpolate(heads.sem_seg_logits[None], scale_factor=4.0, mode="bilinear")
            x = F.interpolate(x[..., : heads.image_size[0], : heads.image_size[1]], size=(64, 96), mode="bilinear")[0]
            expected.append(x.flip(-1) if flip else x)
    found = run(model, photo())["sem_seg"]
    assert torch.allclose(found, sum(expected) / 4, atol=1e-4)
    assert not torch.allclose(found, run(network((48, 96), flip=True, **keys), photo())["sem_seg"], atol=1e-3)


def test_views_of_the_instances():
    """UPSNet's protocol: the instances of one plain view, the semantic segmentation of all views, mirrored too."""
    one_view = {"TEST__AUG__INSTANCE_MIN_SIZES": (64,), "TEST__AUG__INSTANCE_FLIP": False}
    mixed = run(network((48, 64), flip=True, **one_view), photo())
    everywhere = run(network((48, 64), flip=True), photo())
    plain = run(network(enabled=False), photo())
    assert torch.equal(mixed["sem_seg"], everywhere["sem_seg"])
    assert not torch.allclose(mixed["sem_seg"], plain["sem_seg"], atol=1e-3)
    assert torch.allclose(mixed["instances"].pred_boxes.tensor, plain["instances"].pred_boxes.tensor, atol=1e-4)
    assert torch.equal(mixed["instances"].scores, plain["instances"].scores)
    same = mixed["instances"].pred_masks == plain["instances"].pred_masks
    assert same.float().mean() > 0.999 and len(mixed["instances"]) > 0
    assert not torch.equal(everywhere["instances"].scores, plain["instances"].scores)
    # TASCNet's: larger images for the instances, which the semantic segmentation does not see
    larger = run(network((48,), TEST__AUG__INSTANCE_MIN_SIZES=(96,), TEST__AUG__INSTANCE_FLIP=True), photo())
    assert torch.allclose(larger["sem_seg"], run(network((48,)), photo())["sem_seg"], atol=1e-3)
    assert torch.equal(larger["instances"].scores, run(network((96,), flip=True), photo())["instances"].scores)


def test_masks_against_plain_averages():
    """The mask of each merged box: the mean of the probabilities of the views, each on its own box."""
    model = network((64, 96), flip=True)
    image = photo()
    with torch.no_grad():
        heads, _ = model.augmentation.heads({"image": image}, model, model)
        expected = []
        for view in model.augmentation.views:
            seen = model.augmentation.image_of(view, image)
            images = model.preprocess_image([seen])
            features = model.backbone(images.tensor)
            for row, box in enumerate(heads.instances.pred_boxes.tensor.tolist()):
                x0, y0, x1, y1 = (side * view.size / 64 for side in box)
                if view.flip:
                    x0, x1 = 1.5 * view.size - x1, 1.5 * view.size - x0
                logits = model.roi_heads.mask_logits(features, [Boxes(torch.tensor([[x0, y0, x1, y1]]))])
                mask = logits[0, heads.instances.pred_classes[row]].sigmoid()
                expected.append((row, mask.flip(-1) if view.flip else mask))
    assert len(heads.instances) > 0
    for row in range(len(heads.instances)):
        mean = sum(mask for other, mask in expected if other == row) / 4
        assert torch.allclose(heads.instances.pred_mask_logits[row].sigmoid(), mean, atol=1e-4)


def test_merging_by_hand():
    """Two views: the same car twice (the lower score goes), a person at its place, and a far car."""

    def view(boxes, scores, classes):
        return Instances(
            (10, 10),
            pred_boxes=Boxes(torch.tensor(boxes).float()),
            scores=torch.tensor(scores),
            pred_classes=torch.tensor(classes),
        )

    first = view([[0, 0, 4, 4], [6, 6, 9, 9]], [0.5, 0.6], [1, 1])
    second = view([[0, 0, 4, 5], [0, 0, 4, 4]], [0.9, 0.8], [1, 0])
    merged = merge_detections([first, second], 0.5, 10)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.6]) and merged.pred_classes.tolist() == [1, 0, 1]
    assert merge_detections([first, second], 0.5, 1).pred_boxes.tensor.tolist() == [[0, 0, 4, 5]]
    assert len(merge_detections([first, second], 0.9, 10)) == 4
    assert len(merge_detections([first[:0], second[:0]], 0.5, 10)) == 0


def test_merging_against_a_loop():
    rng = np.random.default_rng(5)
    for _ in range(200):
        views, boxes, scores, classes = [], [], [], []
        for _ in range(int(rng.integers(1, 4))):
            count = int(rng.integers(0, 8))
            corner, side = rng.uniform(0, 20, (count, 2)), rng.uniform(1, 20, (count, 2))
            box = torch.tensor(np.concatenate([corner, corner + side], 1)).float()
            score, label = torch.tensor(rng.random(count)).float(), torch.tensor(rng.integers(0, 3, count))
            views.append(Instances((40, 40), pred_boxes=Boxes(box), scores=score, pred_classes=label))
            boxes += box
            scores += score.tolist()
            classes += label.tolist()
        kept = []
        for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
            rivals = [j for j in kept if classes[j] == classes[i]]
            if all(box_iou(boxes[i][None], boxes[j][None]) <= 0.5 for j in rivals):
                kept.append(i)
        merged = merge_detections(views, 0.5, 5)
        assert merged.scores.tolist() == pytest.approx([scores[i] for i in kept[:5]])


def test_views_of_a_config():
    aug = TestTimeAugmentation.from_config(resolve_config(small_cfg(TEST__AUG__ENABLED=True)))
    assert len(aug.views) == 18 and aug.views[:2] == (View(400, False), View(400, True))
    cfg = resolve_config(small_cfg(TEST__AUG__ENABLED=True, TEST__AUG__MIN_SIZES=(80,), TEST__AUG__MAX_SIZE=60))
    aug = TestTimeAugmentation.from_config(cfg)
    assert aug.image_of(View(80, False), photo())["image"].shape == (3, 40, 60)
    assert torch.equal(aug.image_of(View(0, True), photo())["image"][:, 2, 3], photo()[:, 2, -4])
    assert build_augmentations(cfg, is_train=False) == []
    assert aug.instance_views == aug.views and aug.average == "probabilities"
    cfg = small_cfg(TEST__AUG__ENABLED=True, TEST__AUG__INSTANCE_MIN_SIZES=(9,), TEST__AUG__INSTANCE_FLIP=False)
    assert TestTimeAugmentation.from_config(resolve_config(cfg)).instance_views == (View(9, False),)
    assert TestTimeAugmentation.from_config(resolve_config(small_cfg())) is None
