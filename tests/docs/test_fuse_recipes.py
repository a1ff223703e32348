"""The recipes of docs/evaluate_any_model.md run on what the five libraries return."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.structures import Boxes, Instances
from doc_blocks import ROOT, blocks

PAGE = ROOT / "docs" / "evaluate_any_model.md"
SIZE = (40, 64)


def run(first_line, **names):
    """Runs the block that starts so; returns its names, among them panoptic_seg and segments_info."""
    (text,) = [block.text for block in blocks(PAGE) if block.language == "python" and block.text.startswith(first_line)]
    exec(compile(text, str(PAGE), "exec"), names)
    panoptic_seg, segments_info = names["panoptic_seg"], names["segments_info"]
    assert set(np.unique(panoptic_seg)) - {0} == {s["id"] for s in segments_info}
    return names


def rectangles():
    """Three masks: 20x20, one of which it hides more than half, and one apart."""
    masks = torch.zeros(3, *SIZE, dtype=torch.bool)
    masks[0, 5:25, 5:25] = masks[1, 10:25, 10:27] = masks[2, 20:40, 40:60] = True
    return masks


def things_of(names):
    return [(s["instance_id"], s["category_id"]) for s in names["segments_info"] if s["isthing"]]


def stuff_of(names):
    return [s["category_id"] for s in names["segments_info"] if not s["isthing"]]


def halves(upper, lower, dtype=torch.int64):
    """A label map whose upper and lower half have different labels."""
    labels = torch.full(SIZE, upper, dtype=dtype)
    labels[SIZE[0] // 2 :] = lower
    return labels


@pytest.fixture(autouse=True)
def small_images_keep_their_stuff(monkeypatch):
    """The area limit of stuff is made for photos; these images have 2560 pixels."""
    from panoptic_fusion.modeling.fusion import PanopticFusion

    monkeypatch.setattr(PanopticFusion, "thresholds", {**PanopticFusion.thresholds, "STUFF_AREA_LIMIT": 100})


def test_first_example():
    names = run("import numpy as np\n\nfrom panoptic_fusion import fuse\n\nlabels")
    assert names["panoptic_seg"].tolist() == [[2, 2, 2, 2], [2, 1, 1, 2], [3, 1, 1, 3]]
    assert [(s["isthing"], s["category_id"], s["area"]) for s in names["segments_info"]] == [
        (True, 0, 4), (False, 0, 6), (False, 1, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_ultralytics(dtype):
    boxes = SimpleNamespace(conf=torch.tensor([0.9, 0.8, 0.7]), cls=torch.tensor([2.0, 2.0, 79.0]))
    result = SimpleNamespace(masks=SimpleNamespace(data=rectangles().to(dtype)), boxes=boxes)
    names = run("# result = yolo(", result=result, labels=halves(5, 52).numpy())
    assert things_of(names) == [(0, 2), (2, 79)] and stuff_of(names) == [5, 52]
    nothing = SimpleNamespace(masks=None, boxes=SimpleNamespace(conf=torch.zeros(0), cls=torch.zeros(0)))
    names = run("# result = yolo(", result=nothing, labels=halves(5, 52).numpy())
    assert things_of(names) == [] and stuff_of(names) == [5, 52]


def test_transformers():
    segments = [
        {"id": i, "label_id": label, "was_fused": False, "score": score}
        for i, (label, score) in enumerate([(0, 0.91), (0, 0.83), (79, 0.77)])
    ]
    instances = {"segmentation": rectangles().float(), "segments_info": segments}
    names = run("# semantic = ", instances=instances, semantic=halves(80, 132))
    assert things_of(names) == [(0, 0), (2, 79)] and stuff_of(names) == [80, 132]
    nothing = {"segmentation": torch.zeros(SIZE) - 1, "segments_info": []}
    names = run("# semantic = ", instances=nothing, semantic=halves(80, 132))
    assert things_of(names) == [] and stuff_of(names) == [80, 132]


def test_torchvision():
    from torchvision.models import detection

    torch.manual_seed(0)
    model = detection.maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=40, max_size=64, box_score_thresh=0.0,
        box_detections_per_img=5,
    ).eval()  # fmt: skip
    with torch.no_grad():
        (detections,) = model([torch.rand(3, *SIZE)])
    assert detections["masks"].shape == (5, 1, *SIZE) and detections["masks"].dtype == torch.float32
    # the weights are random: give the detections scores and masks that mean something
    detections["scores"] = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1])
    detections["masks"] = torch.zeros_like(detections["masks"])
    detections["masks"][:3, 0] = rectangles() * 0.8
    names = run("# (detections,) = ", detections=detections, labels=halves(92, 182))
    labels = detections["labels"].tolist()
    assert things_of(names) == [(0, labels[0]), (2, labels[2])] and stuff_of(names) == [92, 182]


def test_detectron2():
    torch.manual_seed(0)
    instances = Instances(
        SIZE,
        pred_boxes=Boxes(torch.tensor([[5.0, 5, 25, 25], [10, 10, 27, 25], [40, 20, 60, 40]])),
        scores=torch.tensor([0.9, 0.8, 0.7]),
        pred_classes=torch.tensor([3, 3, 79]),
        pred_masks=rectangles(),
    )
    sem_seg = torch.randn(1, 54, 3, 4)
    sem_seg = torch.nn.functional.interpolate(sem_seg, size=SIZE, mode="bilinear")[0]
    names = run("# outputs = predictor(", outputs={"instances": instances, "sem_seg": sem_seg})
    expected, info = combine_semantic_and_instance_outputs(instances, sem_seg.argmax(0), 0.5, 100, 0.5)
    assert torch.equal(names["panoptic_seg"], expected) and len(info) > 3
    assert [s["category_id"] for s in names["segments_info"]] == [
        s["category_id"] - (not s["isthing"])
        for s in info  # detectron2 counts its things channel as stuff 0
    ]


def test_sam():
    masks = rectangles().numpy()
    regions = [
        {"segmentation": mask, "area": int(mask.sum()), "bbox": [0, 0, 1, 1], "predicted_iou": iou,
         "stability_score": 0.97, "point_coords": [[1.0, 1.0]], "crop_box": [0, 0, 64, 40]}
        for mask, iou in zip([*masks, ~masks.any(0)], [0.95, 0.9, 0.92, 0.99], strict=True)
    ]  # fmt: skip
    labels = halves(0, 2, torch.uint8).numpy()
    labels[masks[0] | masks[1]] = 4
    labels[masks[2]] = 3
    names = run("# regions = ", regions=regions, labels=labels)
    assert things_of(names) == [(0, 4), (2, 3)]  # the second is hidden, the fourth is stuff
    assert stuff_of(names) == [0, 2]
    names = run("# regions = ", regions=[], labels=labels)
    assert things_of(names) == [] and stuff_of(names) == [0, 2]
