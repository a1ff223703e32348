"""panoptic-fusion export: options, refusals, and no file unless it agrees with PyTorch."""

import sys

import pytest
from spread_networks import SYSTEMS, TINY, smooth_image, spread_cfg, spread_network

from panoptic_fusion import load_trained
from panoptic_fusion.networks.trained import build_predictor
from panoptic_fusion.runtime import OnnxPredictor


def test_a_trained_model(trained, run_script, tmp_path):
    path = tmp_path / "new" / "model.onnx"
    code, out, err = run_script("export", "--model", trained, "--output", path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: ") and "PanopticFPNHead + HeuristicFusion, float32" in out
    assert out.count("detections match PyTorch's") == 2
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    image = smooth_image((90, 130), 0)
    expected, segments = build_predictor(load_trained(trained, ["MODEL.DEVICE", "cpu"]))(image)["panoptic_seg"]
    found, found_segments = OnnxPredictor(path, threads=1)(image)["panoptic_seg"]
    assert (found == expected.numpy()).mean() >= 0.9999
    assert [s["category_id"] for s in found_segments] == [s["category_id"] for s in segments]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "pass --model"),
        (["--model", "{model}", "--batch", "0"], "--batch is 0: use 1 or more"),
        (["--model", "{model}", "--size", "0", "5"], "--size is 0 5: use 1 or more pixels"),
        (["--model", "{model}", "--zoo", "x"], "leave out --model"),
        (["--config-file", "a.yaml", "--weights", "b.pth"], "with --config-file, set the config key MODEL.WEIGHTS\n"),
        (["--model", "missing"], "missing has no config.yaml"),
        (["--model", "{model}", "TEST.AUG.ENABLED", "True"], "one view: add TEST.AUG.ENABLED False"),
        (["--model", "{model}", "MODEL.PANOPTIC_FUSION.OVERLAP", "1"], "OVERLAP"),
    ],
)
def test_bad_arguments_are_one_line(words, message, trained, run_script, tmp_path):
    words = [str(trained) if word == "{model}" else word for word in words]
    code, out, err = run_script("export", "--output", tmp_path / "model.onnx", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_the_output_is_a_folder(trained, run_script, tmp_path):
    _, _, err = run_script("export", "--model", trained, "--output", tmp_path)
    assert "is a folder: name the file, such as model.onnx" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["IndependentPanoptic", "SemanticNetwork", "InstanceNetwork"])
def test_other_networks_are_refused_by_name(name, monkeypatch, run_script, tmp_path, tiny_cfg):
    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = name
    monkeypatch.setattr("panoptic_fusion.networks.trained.load_config", lambda *args, **kwargs: cfg)
    code, _, err = run_script("export", "--model", "x", "--output", tmp_path / "model.onnx")
    assert (code, err.count("\n")) == (2, 1)
    assert f"MODEL.META_ARCHITECTURE is {name}" in err


def test_without_onnx_the_extra_is_named(trained, run_script, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    _, _, err = run_script("export", "--model", trained, "--output", tmp_path / "model.onnx")
    assert "pip install 'panoptic-fusion[export]'" in err and err.count("\n") == 1


@pytest.fixture(scope="module")
def network(one_thread):
    cfg = spread_cfg(SYSTEMS["panoptic_fpn"], TINY)
    return cfg, spread_network(cfg)


@pytest.mark.parametrize(
    "part, problem",
    [
        ("sem_seg_head.predictor.weight", "sem_seg_logits differ by"),
        ("roi_heads.mask_head.predictor.weight", "mask_logits differ by"),
        ("roi_heads.box_predictor.bbox_pred.weight", "have no counterpart"),
        ("roi_heads.box_predictor.cls_score.weight", "have no counterpart"),
        ("proposal_generator.rpn_head.anchor_deltas.weight", ""),
    ],
)
def test_an_export_that_disagrees_is_not_written(part, problem, network, monkeypatch, tmp_path):
    """The weights of one part change by a tenth after they were recorded."""
    from panoptic_fusion.errors import UserError
    from panoptic_fusion.onnx_export import onnx_model

    cfg, net = network
    trace = onnx_model.trace

    def changed_trace(*args, **kwargs):
        model = trace(*args, **kwargs)
        net.get_parameter(part).data.mul_(1.1)
        return model

    monkeypatch.setattr(onnx_model, "trace", changed_trace)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"earlier")
    before = net.get_parameter(part).detach().clone()
    try:
        with pytest.raises(UserError, match=f"disagrees with PyTorch on images of 135 x 65: .*{problem}"):
            onnx_model.export_network(cfg, net, path)
    finally:
        net.get_parameter(part).data.copy_(before)
    assert path.read_bytes() == b"earlier"


def test_a_fusion_of_a_plugin_is_refused(network, tmp_path):
    from panoptic_fusion.errors import UserError
    from panoptic_fusion.modeling.fusion import HeuristicFusion
    from panoptic_fusion.onnx_export.onnx_model import export_network

    class SmallFirst(HeuristicFusion):
        pass

    cfg, net = network
    before = net.fusion.__class__
    net.fusion.__class__ = SmallFirst
    try:
        with pytest.raises(UserError, match="is SmallFirst, which the runtime does not have: it has Heur"):
            export_network(cfg, net, tmp_path / "model.onnx")
    finally:
        net.fusion.__class__ = before
    assert not list(tmp_path.iterdir())
