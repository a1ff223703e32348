"""Whole networks on a simulated device: no operator gets tensors of two devices, nothing is read per instance.

A GPU refuses what `SimulatedDevice` refuses; without one, nothing else would notice a tensor left on the CPU.
"""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from launch_counter import LaunchCounter
from launches import flat_on
from simulated_device import DEVICE, SimulatedDevice, to_device
from tiny_training import TINY_NETWORK, as_opts

from panoptic_fusion import resolve_config
from panoptic_fusion.config import config_file, read_config
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.evaluation import build_evaluators

TINY = {**TINY_NETWORK, "MODEL.FPN.OUT_CHANNELS": 32, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32}
SYSTEMS = {
    "panoptic_fpn": ("toy/panoptic_fpn_r18.yaml", {}),
    "tascnet": (
        "toy/tascnet_r18.yaml",
        {"MODEL.PANOPTIC_FUSION.OUTPUTS": "['sem_seg','instances','panoptic_seg','things_masks']"},
    ),
    "seamless": ("toy/seamless_r18.yaml", {}),
    "upsnet": ("toy/upsnet_r18.yaml", {}),
    "oanet": ("toy/oanet_r18.yaml", {}),
    "augmented": ("toy/upsnet_r18.yaml", {"TEST.AUG.ENABLED": "True", "TEST.AUG.MIN_SIZES": "(64, 96)"}),
}


def setting(name, tiny_settings, changes=()):
    """The config of a system."""
    path, more = SYSTEMS[name]
    data = {key: value for key, value in tiny_settings.items() if key.startswith("DATASETS")}
    opts = {**TINY, **data, **more, "MODEL.DEVICE": DEVICE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, **dict(changes)}
    return resolve_config(read_config(config_file(path), as_opts(opts)))


@pytest.mark.parametrize("name", SYSTEMS)
def test_inference_and_evaluation(name, tiny_settings, tmp_path, one_thread):
    cfg = setting(name, tiny_settings)
    mapper = PanopticDatasetMapper(cfg, is_train=False)
    evaluators = build_evaluators(cfg, "tiny_val", str(tmp_path))
    evaluators.reset()
    with torch.no_grad(), flat_on(DEVICE), SimulatedDevice():
        model = build_model(cfg).eval()
        for record in DatasetCatalog.get("tiny_val"):
            inputs = [mapper(record)]
            outputs = model(inputs)
            assert outputs[0]["panoptic_seg"][0].device.type == DEVICE
            evaluators.process(inputs, outputs)
        assert evaluators.evaluate()["panoptic_seg"]["images"] == 3


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "augmented"])
def test_training(name, tiny_settings, one_thread):
    cfg = setting(name, tiny_settings)
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    batch = [mapper(record) for record in DatasetCatalog.get("tiny_train")[:2]]
    with EventStorage(), SimulatedDevice():
        model = build_model(cfg).train()
        losses = model(batch)
        assert all(loss.device.type == DEVICE for loss in losses.values())
        sum(losses.values()).backward()
        grads = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
        assert len(grads) > 60 and all(grad.device.type == DEVICE for grad in grads)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "augmented"])
def test_no_reads_per_instance(name, tiny_settings, one_thread):
    """40 detections instead of 4, and 12 annotations instead of 1, do not make the CPU wait more often."""
    opts = {"MODEL.RPN.POST_NMS_TOPK_TEST": 100, "MODEL.RPN.NMS_THRESH": 0.99, "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.99}
    opts["MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH"] = 0.0
    inference, training, found = [], [], []
    for number in (4, 40):
        cfg = setting(name, tiny_settings, {**opts, "TEST.DETECTIONS_PER_IMAGE": number})
        inputs = [PanopticDatasetMapper(cfg, is_train=False)(DatasetCatalog.get("tiny_val")[0])]
        with torch.no_grad(), flat_on(DEVICE), LaunchCounter() as counter:
            with counter.paused():
                torch.manual_seed(0)
                model = build_model(cfg).eval()
            found.append(len(model(inputs)[0]["instances"]))
        inference.append(counter.counts.all_reads)
    assert found == [4, 40] and inference[1] <= inference[0] + 4
    mapped = map(PanopticDatasetMapper(cfg, is_train=True), DatasetCatalog.get("tiny_train"))
    images = [image for image in mapped if len(image["instances"])][:2]
    for number in (1, 12):
        batch = [{**x, "instances": x["instances"][torch.arange(number) % len(x["instances"])]} for x in images]
        with EventStorage(), flat_on(DEVICE), LaunchCounter() as counter:
            with counter.paused():
                torch.manual_seed(0)
                model = build_model(cfg).train()
            sum(model(batch).values()).backward()
        training.append(counter.counts.all_reads)
    assert 50 < training[0] and training[1] <= training[0] + 4


def test_a_tensor_left_on_the_cpu_is_found():
    """What CUDA allows, and what it refuses."""
    x, y, index = torch.arange(6.0).view(2, 3), torch.ones(2, 3), torch.tensor([1, 0])
    with SimulatedDevice():
        ours, ones = to_device(x), to_device(y)
        assert (ours + torch.tensor(1.0)).tolist() == [[1, 2, 3], [4, 5, 6]]
        assert ours[index].tolist() == [[3, 4, 5], [0, 1, 2]]
        assert (ours + y.to(DEVICE)).cpu().equal(x + y)
        ours[index] = torch.tensor(7.0)
        assert ours.copy_(y).tolist() == y.tolist() and torch.zeros(2, 3).copy_(ones).equal(y)
        assert ones.unsqueeze_(0).shape == (1, 2, 3) and ones.sum().item() == 6
        for refused in (
            lambda: ours + y,
            lambda: torch.cat([ours, y]),
            lambda: torch.stack([ours[0, 0], torch.tensor(1.0)]),
            lambda: torch.where(y > 0, ours, 0.0),
            lambda: y[index.to(DEVICE)],
            lambda: ours.__setitem__(index, y),
            lambda: ours.index_select(0, index),
            lambda: torch.nn.functional.linear(ours, torch.ones(4, 3)),
            lambda: ours.numpy(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                refused()
