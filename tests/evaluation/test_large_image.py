"""Evaluation at full size makes no tensor that grows with both the image and the number of classes or instances.

Times and the memory of a process are in benchmarks/large_image.py.
"""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_api
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from panoptic_fusion import get_cfg
from panoptic_fusion.data import register_panoptic
from panoptic_fusion.evaluation import InstancesEvaluator, restrict_outputs
from panoptic_fusion.evaluation.instances import encoded_masks
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, SemSegLogits, build_panoptic_fusion
from panoptic_fusion.networks.inference import with_pasted_masks

NUM_THINGS, NUM_STUFF, NUM_INSTANCES = 37, 28, 60
SIZE = (480, 640)
PIXELS = SIZE[0] * SIZE[1]


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements of a tensor that an operator returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        self.numel = max([self.numel, *sizes])
        return result


def settings(fusion: str):
    cfg = get_cfg()
    kinds = [1] * NUM_THINGS + [0] * NUM_STUFF
    cfg.MODEL.CATEGORIES = [{"id": i + 1, "name": f"c{i}", "isthing": k, "color": [i] * 3} for i, k in enumerate(kinds)]
    cfg.MODEL.PANOPTIC_FUSION.NAME = fusion
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def random_instances(size=SIZE, num=NUM_INSTANCES, seed=0) -> Instances:
    """Boxes of up to a third of each side, some over the border before they are clipped; blobs as masks."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([size[1], size[0]])
    corner = (torch.rand(num, 2, generator=generator) * 1.1 - 0.1) * scale
    boxes = Boxes(torch.cat([corner, corner + 2 + torch.rand(num, 2, generator=generator) * scale / 3], dim=1))
    boxes.clip(size)
    coarse = torch.randn(num, 1, 4, 4, generator=generator) * 4 + 1
    instances = Instances(
        size,
        pred_boxes=boxes,
        scores=torch.rand(num, generator=generator),
        pred_classes=torch.randint(NUM_THINGS, (num,), generator=generator),
        pred_mask_logits=nn.functional.interpolate(coarse, size=(28, 28))[:, 0],
    )
    return instances[boxes.nonempty()]


@pytest.fixture
def small_strips(monkeypatch):
    """The strips of an image of this size in proportion to those of a large one."""
    from panoptic_fusion.modeling.fusion import sem_seg_logits

    monkeypatch.setitem(sem_seg_logits.MAX_STRIP_ELEMENTS, "cpu", PIXELS)


# The network's input: the image itself; a smaller one, padded, as with INPUT.MIN_SIZE_TEST.
INPUTS = {"same": (SIZE, SIZE), "smaller": ((224, 288), (214, 285))}


@pytest.mark.parametrize("name", sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
@pytest.mark.parametrize("size", INPUTS)
def test_fusions_make_no_large_tensor(name, size, small_strips):
    fusion = build_panoptic_fusion(settings(name)).eval()
    padded, image = INPUTS[size]
    logits = torch.randn(NUM_STUFF + NUM_THINGS, padded[0] // 4, padded[1] // 4)
    logits[NUM_STUFF:, : padded[0] // 8] += 4  # things above, so that rules that ask the semantic side find some
    sem_seg = SemSegLogits(logits, padded, image, SIZE)
    with torch.no_grad(), LargestTensor() as largest:
        panoptic_map, segments_info = fusion(sem_seg, random_instances())
    assert panoptic_map.shape == SIZE and any(s["isthing"] for s in segments_info)
    # The logits, with a border, have 4 elements a pixel; classes x pixels would be 65, instances x pixels 60.
    assert PIXELS <= largest.numel <= 5 * PIXELS


def test_the_counter_sees_large_tensors():
    logits = torch.randn(NUM_STUFF + NUM_THINGS, SIZE[0] // 4, SIZE[1] // 4)
    with LargestTensor() as largest:
        SemSegLogits(logits, SIZE, SIZE, SIZE).full()
    assert largest.numel >= (NUM_STUFF + NUM_THINGS) * PIXELS
    instances = random_instances()
    with LargestTensor() as largest:
        with_pasted_masks(instances)
    assert largest.numel >= len(instances) * PIXELS


def test_masks_are_encoded_as_detectron2_pastes_them():
    """The only difference can be the rounding of float32 where a probability is 0.5."""
    different = total = 0
    for seed in range(20):
        instances = random_instances((60, 90), 30, seed)
        pasted = with_pasted_masks(instances).pred_masks.numpy()
        with LargestTensor() as largest:
            rles = encoded_masks(instances)
        assert largest.numel < len(instances) * 60 * 90 / 2
        masks = np.stack([mask_api.decode(rle) for rle in rles])
        assert masks.shape == pasted.shape
        different += (masks != pasted).sum()
        total += pasted.sum()
    assert total > 10000 and different <= 1e-5 * total


def test_mask_ap_from_mask_logits(tiny_data, tmp_path):
    register_panoptic("tiny_val", **tiny_data["val"])
    instances, results = random_instances((96, 128), 20), []
    instances.pred_classes %= 6  # the thing classes of the dataset
    for i, given in enumerate([instances, with_pasted_masks(instances)]):
        evaluator = InstancesEvaluator("tiny_val", str(tmp_path / str(i)), distributed=False)
        evaluator.reset()
        evaluator.process([{"image_id": 1}], [{"instances": given}])
        results.append(evaluator._predictions[0]["instances"])
    assert len(results[0]) == len(instances) and results[0] == results[1]


def test_no_instances_are_no_results(tiny_data, tmp_path):
    register_panoptic("tiny_val", **tiny_data["val"])
    evaluator = InstancesEvaluator("tiny_val", str(tmp_path), distributed=False)
    evaluator.reset()
    evaluator.process([{"image_id": 1}], [{"instances": random_instances()[:0]}])
    assert evaluator._predictions == [{"image_id": 1, "instances": []}]


def test_a_model_computes_what_evaluators_need(tiny_cfg, one_thread):
    """A tiny network whose output is far larger than its input: no tensor of more than some maps."""
    torch.manual_seed(0)
    model = build_model(tiny_cfg).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0  # an untrained network is sure of nothing
    x = [{"image": torch.randint(256, (3, 64, 96), dtype=torch.uint8), "height": 1024, "width": 1536}]
    pixels = 1024 * 1536
    with torch.no_grad():
        with LargestTensor() as largest:
            whole = model(x)[0]
        assert whole.keys() == {"sem_seg", "instances", "panoptic_seg"} and len(whole["instances"]) > 4
        assert largest.numel >= len(whole["sem_seg"]) * pixels
        with restrict_outputs(model, ["panoptic", "instances", "cityscapes"]), LargestTensor() as largest:
            needed = model(x)[0]
        assert needed.keys() == {"instances", "panoptic_seg"} and largest.numel <= pixels
        with restrict_outputs(nn.parallel.DataParallel(model), ["panoptic"]):  # has .module, as a distributed one
            assert model(x)[0].keys() == {"panoptic_seg"}
        after = model(x)[0]
    assert torch.equal(needed["panoptic_seg"][0], whole["panoptic_seg"][0])
    assert needed["panoptic_seg"][1] == whole["panoptic_seg"][1]
    assert torch.equal(needed["instances"].pred_boxes.tensor, whole["instances"].pred_boxes.tensor)
    assert not needed["instances"].has("pred_masks")
    assert after.keys() == whole.keys() and torch.equal(after["instances"].pred_masks, whole["instances"].pred_masks)


def test_outputs_come_back_after_an_error(tiny_cfg):
    model = build_model(tiny_cfg).eval()
    before = model.outputs
    with pytest.raises(RuntimeError), restrict_outputs(model, []):
        assert model.outputs == frozenset() and not model.paste_masks
        raise RuntimeError
    assert model.outputs == before and model.paste_masks
