"""Training and inference in half precision on a CPU: UPSNet in bfloat16 against float32, steps, resuming."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import SimpleTrainer
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from tiny_training import as_opts

from panoptic_fusion import config_file, get_cfg, resolve_config
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.engine.mixed_precision import MixedPrecisionTrainer

BFLOAT16 = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "bfloat16"]
UPSNET = {
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32,  # a multiple of group norm's 32 groups
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 64,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 60,
    "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": 16,
    "SOLVER.BASE_LR": 0.03,
    "MODEL.DEVICE": "cpu",
}


@pytest.fixture
def upsnet_settings(tiny_settings) -> dict:
    return {**tiny_settings, **UPSNET}


def detect_ground_truth(model: torch.nn.Module, gt_instances: list[Instances]) -> None:
    """From here on, its boxes are those of the ground truth, with the masks that the network gives them: so short a
    training teaches masks and semantics, but does not make it sure of boxes."""

    def forward(images, features, proposals, targets):
        detections = []
        for x in gt_instances:
            scores = torch.linspace(0.9, 0.7, len(x))
            detections.append(Instances(x.image_size, pred_boxes=x.gt_boxes, scores=scores, pred_classes=x.gt_classes))
        return model.roi_heads._forward_mask(features, detections), {}

    model.roi_heads.forward = forward


def labels(panoptic_seg: torch.Tensor, segments_info: list[dict]) -> torch.Tensor:
    """(H, W): what each pixel is: 0 void, then the stuff classes, then the rows of the instances."""
    table = torch.zeros(len(segments_info) + 1, dtype=torch.int64)
    for s in segments_info:
        table[s["id"]] = 100 + s["instance_id"] if s["isthing"] else 1 + s["category_id"]
    return table[panoptic_seg.long()]


def test_upsnet_in_bfloat16_paints_the_map_of_float32(upsnet_settings, one_thread):
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/upsnet_r18.yaml"))
    cfg.merge_from_list(as_opts(upsnet_settings))
    cfg = resolve_config(cfg)
    torch.manual_seed(0)
    model = PanopticTrainer.build_model(cfg).train()
    optimizer = PanopticTrainer.build_optimizer(cfg, model)
    mapper = PanopticDatasetMapper(cfg, is_train=True)
    mapper.augmentations.augs.pop()  # no flip: two images that stay the same are learnt at once
    batch = [mapper(x) for x in DatasetCatalog.get("tiny_train")[:2]]
    history = []
    with EventStorage(0):
        trainer = MixedPrecisionTrainer(model, [batch] * 40, optimizer, torch.bfloat16)
        trainer.iter, trainer._write_metrics = 0, lambda losses, _: history.append(losses)
        for _ in range(40):
            trainer.run_step()
    names = {"sem_seg", "sem_seg_roi", "panoptic", "rpn_cls", "rpn_loc", "cls", "box_reg", "mask"}
    assert set(history[0]) == {f"loss_{name}" for name in names}  # the paper's eight
    assert all(loss.isfinite() for losses in history for loss in losses.values())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())
    for name in ("sem_seg", "panoptic"):
        assert history[-1][f"loss_{name}"] < history[0][f"loss_{name}"] / 3

    model.eval()
    detect_ground_truth(model, [x["instances"] for x in batch])
    images = [{"image": x["image"]} for x in batch]
    with torch.no_grad():
        exact_outputs = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded_outputs = model(images)
    for a, b in zip(exact_outputs, rounded_outputs, strict=True):
        assert not torch.equal(a["sem_seg"], b["sem_seg"])  # there was something to round
    exact, rounded = (
        torch.stack([labels(*x["panoptic_seg"]) for x in outputs]) for outputs in (exact_outputs, rounded_outputs)
    )
    stuff = exact[(exact > 0) & (exact < 100)].unique(return_counts=True)[1]
    things = exact[exact >= 100].unique(return_counts=True)[1]
    assert (stuff > 50).sum() >= 4 and (things > 20).sum() >= 2  # the map is not trivial
    assert (exact != rounded).float().mean() < 0.005


def test_train_net_in_bfloat16_resumes_a_training_in_float32(upsnet_settings, run_script, tmp_path: Path):
    arguments = ["--config-file", config_file("toy/upsnet_r18.yaml"), "--resume", *as_opts(upsnet_settings)]
    arguments += ["OUTPUT_DIR", tmp_path]
    code, _, err = run_script("train", *arguments, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")
    assert code == 0, err
    state = torch.load(tmp_path / "model_final.pth", weights_only=True)["trainer"]["_trainer"]
    assert "grad_scaler" not in state
    code, _, err = run_script("train", *arguments, *BFLOAT16, "SOLVER.MAX_ITER", 2)
    assert code == 0, err
    assert "Starting training from iteration 1" in (tmp_path / "log.txt").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["panoptic_seg"]["images"] == 3
    assert torch.load(tmp_path / "model_final.pth", weights_only=True)["iteration"] == 1
    # and back
    code, _, err = run_script("train", *arguments, "SOLVER.MAX_ITER", 3, "DATASETS.TEST", "()")
    assert code == 0, err


class Line(torch.nn.Module):
    """Losses of a straight line through (2, 6), so small that float16 holds their scaled gradients."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, batch):
        self.seen = self.linear(batch)
        return {"loss_a": (self.seen.float() - 6).square().mean() / 1024, "loss_b": 0 * self.seen.float().sum()}


def line_trainer(dtype: torch.dtype | None):
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05 * 1024, momentum=0.9)
    data = [torch.full((1, 1), 2.0)] * 100
    if dtype is None:
        return SimpleTrainer(model, data, optimizer)
    return MixedPrecisionTrainer(model, data, optimizer, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_step_is_that_of_float32(dtype):
    trainer, reference = line_trainer(dtype), line_trainer(None)
    for x in (trainer, reference):
        with EventStorage(0):
            x.iter = 0
            x.run_step()
    assert trainer.model.seen.dtype == dtype
    # d/dw (2 w + b - 6)^2 = -24, d/db = -12, of which 1 / 1024; times the rate
    for x in (trainer, reference):
        assert x.model.linear.weight.item() == pytest.approx(0.05 * 24)
        assert x.model.linear.bias.item() == pytest.approx(0.05 * 12)


@pytest.mark.parametrize("saved", [None, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("resumed", [None, torch.float16, torch.bfloat16])
def test_resumes_a_checkpoint_of_any_precision(saved, resumed):
    before, after = line_trainer(saved), line_trainer(resumed)
    with EventStorage(0):
        before.iter = 0
        before.run_step()
    if saved == torch.float16:
        before.grad_scaler.update(512.0)
    after.load_state_dict(before.state_dict())
    momentum = [state["momentum_buffer"].item() for state in after.optimizer.state.values()]
    assert momentum == [-24 / 1024, -12 / 1024]
    if resumed == torch.float16:
        assert after.grad_scaler.get_scale() == (512.0 if saved == torch.float16 else 2.0**16)
    with EventStorage(0):
        after.run_step()


def test_bad_precision_is_named(upsnet_settings, run_script, tmp_path: Path):
    arguments = ["--config-file", config_file("toy/upsnet_r18.yaml"), *as_opts(upsnet_settings), "OUTPUT_DIR", tmp_path]
    for dtype, says in (("float8", "one of float16, bfloat16"), ("float16", "needs a GPU")):
        code, _, err = run_script("train", *arguments, "SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", dtype)
        assert code == 2 and "SOLVER.AMP.DTYPE" in err and says in err
