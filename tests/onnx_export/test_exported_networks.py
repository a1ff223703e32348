"""All systems against PyTorch: outputs of the heads, panoptic maps, and the description in the file."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from spread_networks import SYSTEMS, TINY, smooth_image, spread_cfg, spread_network

from panoptic_fusion.errors import UserError
from panoptic_fusion.onnx_export.agreement import FLOAT32, compare
from panoptic_fusion.onnx_export.heads_graph import HeadsOutputs
from panoptic_fusion.onnx_export.onnx_model import export_network, set_score_thresh, torch_outputs
from panoptic_fusion.runtime import OnnxPredictor

SIZES = [(96, 128), (37, 50), (64, 64), (131, 77), (200, 260)]


class Exported:
    """A network, the file that it was exported to, and detectron2's predictor with the network."""

    def __init__(self, cfg, path: Path, scores: float = 2.0, **settings):
        self.cfg, self.path = cfg, path
        self.network = spread_network(cfg, scores=scores)
        self.report = export_network(cfg, self.network, path, **settings)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def outputs(self, images: torch.Tensor) -> tuple[HeadsOutputs, HeadsOutputs]:
        """Outputs of PyTorch and of onnxruntime."""
        thresh = self.cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        return torch_outputs(self.network, images, thresh), HeadsOutputs(
            *self.session.run(None, {"image": images.numpy()})
        )

    def torch_predict(self, bgr: np.ndarray) -> dict:
        predictor = object.__new__(DefaultPredictor)  # its __init__ would build the network again
        predictor.cfg, predictor.model, predictor.input_format = self.cfg, self.network, self.cfg.INPUT.FORMAT
        predictor.aug = T.ResizeShortestEdge([self.cfg.INPUT.MIN_SIZE_TEST] * 2, self.cfg.INPUT.MAX_SIZE_TEST)
        return predictor(bgr)


@pytest.fixture(scope="module", params=SYSTEMS)
def exported(request, tmp_path_factory, one_thread) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    return Exported(spread_cfg(SYSTEMS[request.param], TINY), folder / "model.onnx")


def images_of(size, seed: int, batch: int = 1, noise: float = 12.0) -> torch.Tensor:
    images = [smooth_image(size, 100 * seed + i, noise) for i in range(batch)]
    return torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).astype(np.float32))


def assert_same_outputs(ours: HeadsOutputs, theirs: HeadsOutputs) -> int:
    """Every detection has its own counterpart, found one by one; returns the number of detections."""
    assert_close(ours.sem_seg_logits, theirs.sem_seg_logits)
    free = set(range(len(theirs.scores)))
    for i, score in enumerate(ours.scores):
        found = [
            j
            for j in free
            if theirs.batch_index[j] == ours.batch_index[i]
            and theirs.classes[j] == ours.classes[i]
            and abs(theirs.scores[j] - score) <= 1e-3
            and iou(theirs.boxes[j], ours.boxes[i]) >= 0.99
        ]
        if not found:
            ties = np.abs(ours.scores - score) <= 1e-4
            assert ties.sum() > 1, f"detection {i} with the score {score}"
            continue
        nearest = min(found, key=lambda j: np.abs(theirs.boxes[j] - ours.boxes[i]).max())
        free.remove(nearest)
        assert_close(ours.mask_logits[i], theirs.mask_logits[nearest])
    return len(ours.scores)


def assert_close(expected: np.ndarray, found: np.ndarray) -> None:
    assert np.abs(expected - found).max() <= 1e-3 * max(1, np.abs(expected).max())


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    return inside / union if union else float(np.array_equal(a, b))


def test_outputs_equal_pytorchs_at_any_size(exported):
    counts = []
    for seed, size in enumerate(SIZES):
        expected, found = exported.outputs(images_of(size, seed))
        assert [x.dtype for x in found] == [x.dtype for x in expected]
        counts.append(assert_same_outputs(expected, found))
        assert_same_outputs(found, expected)
    assert len(set(counts)) > 1  # the number of detections is not a constant of the trace
    assert min(counts) > 5


def test_panoptic_maps_equal_pytorchs_on_20_images(exported):
    predictor = OnnxPredictor(exported.path, threads=1)
    different = pixels = things = 0
    for i in range(20):
        image = smooth_image((60 + 11 * i, 210 - 6 * i), i)
        expected, segments = exported.torch_predict(image)["panoptic_seg"]
        found, _ = predictor(image)["panoptic_seg"]
        different += (found != expected.numpy()).sum()
        pixels += found.size
        things += sum(segment["isthing"] for segment in segments)
    assert different <= 1e-4 * pixels
    assert things >= 5


def test_images_without_detections(exported):
    model = onnx.load(exported.path)
    set_score_thresh(model, 2)
    path = exported.path.with_name("empty.onnx")
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = HeadsOutputs(*session.run(None, {"image": images_of((70, 90), 0).numpy()}))
    side = outputs.mask_logits.shape[-1]
    assert [x.shape for x in outputs[1:]] == [(0, 4), (0,), (0,), (0, side, side), (0,)]
    _, segments = OnnxPredictor(path, threads=1)(smooth_image((70, 90), 0))["panoptic_seg"]
    assert not any(segment["isthing"] for segment in segments)


def test_the_description_and_the_checks(exported):
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    description = json.loads({p.key: p.value for p in model.metadata_props}["panoptic_fusion"])
    fusion = exported.network.fusion
    assert description["fusion"]["name"] == type(fusion).__name__
    assert description["fusion"]["overlap_thresh"] == fusion.overlap_thresh
    assert [c["name"] for c in description["categories"]] == ["person", "car", "sky", "road"]  # by id
    assert description["input"]["min_size"] == 96 and description["input"]["pixel_std"] == [58.0, 57.0, 57.0]
    assert [(c["matched"], c["problem"]) for c in exported.report["checks"]] == [
        (c["detections"], "") for c in exported.report["checks"]
    ]
    assert exported.report["bytes"] == exported.path.stat().st_size


def test_deformable_convolutions_become_one_operator(exported):
    operators = [node.op_type for node in onnx.load(exported.path).graph.node]
    layers = [m for m in exported.network.modules() if type(m).__name__ == "DeformConv2d"]
    levels = 4 if layers else 0
    assert operators.count("DeformConv") == levels * len(layers)
    assert "GridSample" not in operators


class TestSettings:
    """On the system with the fewest special operators, unless another one is named."""

    def export(self, tmp_path, system="panoptic_fpn", **settings) -> Exported:
        return Exported(spread_cfg(SYSTEMS[system], TINY), tmp_path / "model.onnx", **settings)

    def test_batch(self, tmp_path, one_thread):
        exported = self.export(tmp_path, "seamless", batch=3)
        expected, found = exported.outputs(images_of((75, 90), 1, batch=3))
        assert set(found.batch_index.tolist()) == {0, 1, 2}
        assert_same_outputs(expected, found)
        with pytest.raises(UserError, match="takes 3 images at a time"):
            OnnxPredictor(exported.path)

    def test_fixed_size(self, tmp_path, one_thread):
        exported = self.export(tmp_path, size=(96, 130))
        shape = onnx.load(exported.path).graph.input[0].type.tensor_type.shape
        assert [d.dim_value for d in shape.dim] == [1, 3, 96, 130]
        assert_same_outputs(*exported.outputs(images_of((96, 130), 2)))
        predictor = OnnxPredictor(exported.path, threads=1)
        image = smooth_image((192, 260), 3)
        expected = exported.torch_predict(image)["panoptic_seg"][0].numpy()
        assert (predictor(image)["panoptic_seg"][0] == expected).mean() >= 0.9999
        with pytest.raises(UserError, match="96"):
            predictor(smooth_image((100, 100), 0))

    @pytest.mark.parametrize(
        "system", ["seamless", *(pytest.param(s, marks=pytest.mark.slow) for s in ("panoptic_fpn", "upsnet"))]
    )
    def test_half(self, system, tmp_path, one_thread):
        exported = self.export(tmp_path, system, half=True)
        model = onnx.load(exported.path)
        kinds = [t.data_type for t in model.graph.initializer if len(t.dims) == 4]
        assert kinds.count(onnx.TensorProto.FLOAT16) > len(kinds) / 2
        expected, found = exported.outputs(images_of((96, 128), 4))
        assert all(x.dtype == y.dtype for x, y in zip(found, expected, strict=True))
        scale = np.abs(expected.sem_seg_logits).max()
        assert 0 < np.abs(found.sem_seg_logits - expected.sem_seg_logits).max() <= 0.02 * scale
        best = [max(iou(a, b) for b in found.boxes) for a in expected.boxes]
        assert np.mean(np.array(best) > 0.9) > 0.9

    def test_timm_backbone(self, tmp_path, one_thread):
        keys = {"INPUT.MIN_SIZE_TEST": 96, "INPUT.MAX_SIZE_TEST": 192, "MODEL.TIMM.WEIGHTS": ""}
        exported = Exported(spread_cfg("toy/panoptic_fpn_lite0.yaml", keys), tmp_path / "model.onnx")
        assert_same_outputs(*exported.outputs(images_of((101, 140), 5)))

    @pytest.mark.parametrize("sharing", ["backbone", pytest.param("none", marks=pytest.mark.slow)])
    def test_two_branches(self, sharing, tmp_path, one_thread):
        cfg = spread_cfg(SYSTEMS["oanet"], {**TINY, "MODEL.SHARING": sharing})
        assert_same_outputs(*Exported(cfg, tmp_path / "model.onnx").outputs(images_of((101, 140), 5)))

    def test_collapsed_ontology_and_class_agnostic_heads(self, tmp_path, one_thread):
        keys = {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True, "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True}
        cfg = spread_cfg("toy/tascnet_r18_collapsed.yaml", {**TINY, **keys, "MODEL.BOX_CONVENTION": "inclusive"})
        exported = Exported(cfg, tmp_path / "model.onnx")
        assert exported.report["ontology"] == "collapsed"
        assert_same_outputs(*exported.outputs(images_of((101, 140), 6)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        "coco/panoptic_fpn_r50.yaml", "cityscapes/tascnet_r50.yaml", "coco/oanet_r50.yaml", "vistas/seamless_r50.yaml",
        "coco/upsnet_r50.yaml", "coco/upsnet_r101_dcn.yaml",
    ],
)  # fmt: skip
def test_full_size_configs(config, tmp_path):
    """Maps are compared on equal raw outputs: random deep networks amplify rounding, which decides at thresholds."""
    keys = {"MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH": 0.1, "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": 1}
    cfg = spread_cfg(config, {**keys, "INPUT.MIN_SIZE_TEST": 256, "INPUT.MAX_SIZE_TEST": 512})
    exported = Exported(cfg, tmp_path / "model.onnx", scores=0.7)
    sizes = [(256, 320), (300, 210), (180, 400)]
    for i, size in enumerate(sizes):
        assert compare(*exported.outputs(images_of(size, i, noise=2.0)), FLOAT32).problem == ""

    class TorchSession:
        def run(self, names, feeds):
            image = torch.from_numpy(feeds["image"])
            return list(torch_outputs(exported.network, image, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST))

    predictor = OnnxPredictor(exported.path)
    predictor.session = TorchSession()
    for i, size in enumerate(sizes):
        image = smooth_image(size, i, noise=2.0)
        expected, segments = exported.torch_predict(image)["panoptic_seg"]
        found, found_segments = predictor(image)["panoptic_seg"]
        assert np.array_equal(found, expected.numpy())
        assert len(found_segments) == len(segments) > 5
