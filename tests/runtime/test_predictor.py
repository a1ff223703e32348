"""OnnxPredictor: the outputs of detectron2's DefaultPredictor from a model file, one clear line for other files."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Boxes, Instances
from onnx import helper
from tiny_onnx import FUSIONS, metadata, raw_outputs, write_model

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY
from panoptic_fusion.networks.inference import ImageHeads, image_outputs
from panoptic_fusion.runtime import OnnxPredictor

SIZES = [(50, 77), (64, 64), (120, 61), (30, 200)]


def image_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def expected_outputs(predictor, content, bgr):
    """What the torch code makes of the raw outputs."""
    image = content["input"]
    resized = bgr if image["format"] == "BGR" else bgr[:, :, ::-1]
    if image["min_size"]:
        resize = ResizeShortestEdge([image["min_size"]] * 2, image["max_size"])
        resized = resize.get_transform(resized).apply_image(resized)
    pixels = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32)
    logits, boxes, scores, classes, masks, _ = (
        torch.from_numpy(x) for x in predictor.session.run(None, {"image": pixels})
    )
    instances = Instances(
        resized.shape[:2], pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes, pred_mask_logits=masks
    )
    settings = {k: v for k, v in content["fusion"].items() if k not in ("name", "at_input_resolution")}
    if "keep_instance_classes" in settings:
        settings["class_assignment"] = not settings.pop("keep_instance_classes")
    fusion = PANOPTIC_FUSION_REGISTRY.get(content["fusion"]["name"])(
        label_space=LabelSpace.from_categories(content["categories"]), ontology="full", **settings
    )
    if predictor._ranking_module:
        fusion.srm.forward = lambda channels: torch.from_numpy(predictor._ranking_module(channels.numpy()))
    padded = tuple(4 * n for n in logits.shape[2:])
    with torch.no_grad():
        return image_outputs(
            ImageHeads(logits[0], instances, padded, resized.shape[:2]), bgr.shape[:2], fusion=fusion,
            outputs=["sem_seg", "instances", "panoptic_seg"],
            fuse_at_input_resolution=content["fusion"]["at_input_resolution"],
        )  # fmt: skip


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize("image", [{}, {"format": "RGB"}, {"min_size": 0}])
def test_equals_torch_on_the_same_raw_outputs(name, image, tmp_path):
    content = metadata(name, **image)
    path = write_model(tmp_path / "model.onnx", content, ranking=name == "SpatialRankingFusion")
    predictor, things = OnnxPredictor(path), 0
    for size in SIZES:
        bgr = image_of(size)
        found, expected = predictor(bgr), expected_outputs(predictor, content, bgr)
        assert found.keys() == expected.keys()
        panoptic_seg, segments_info = found["panoptic_seg"]
        assert panoptic_seg.dtype == np.int32
        assert np.array_equal(panoptic_seg, expected["panoptic_seg"][0].numpy())
        assert segments_info == expected["panoptic_seg"][1]
        things += sum(s["isthing"] for s in segments_info)
        assert np.allclose(found["sem_seg"], expected["sem_seg"].numpy(), atol=1e-5)
        instances = expected["instances"]
        assert found["instances"].keys() == instances.get_fields().keys()
        assert np.array_equal(found["instances"]["pred_boxes"], instances.pred_boxes.tensor.numpy())
        assert np.array_equal(found["instances"]["scores"], instances.scores.numpy())
        assert np.array_equal(found["instances"]["pred_classes"], instances.pred_classes.numpy())
        assert (found["instances"]["pred_masks"] != instances.pred_masks.numpy()).sum() <= 1  # a value of 0.5
    assert things > 5


def test_only_the_requested_outputs(tmp_path):
    path = write_model(tmp_path / "model.onnx")
    found = OnnxPredictor(path, outputs=["instances"], paste_masks=False)(image_of((64, 64)))
    assert found.keys() == {"instances"}
    assert np.array_equal(found["instances"]["pred_mask_logits"], raw_outputs()[3])
    assert OnnxPredictor(path, outputs=["panoptic_seg"])(image_of((64, 64))).keys() == {"panoptic_seg"}
    only = write_model(tmp_path / "only.onnx", changes=lambda content: content.update(outputs=["panoptic_seg"]))
    assert OnnxPredictor(only)(image_of((64, 64))).keys() == {"panoptic_seg"}
    with pytest.raises(UserError, match="choose from"):
        OnnxPredictor(path, outputs=["depth"])


def test_the_classes_are_those_of_the_metadata(tmp_path):
    space = OnnxPredictor(write_model(tmp_path / "model.onnx")).model.label_space
    assert space.thing_classes == ("person", "car") and space.stuff_ids == (7, 9)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)]
)
def test_other_images_are_refused(image, tmp_path):
    with pytest.raises(UserError, match="uint8 in BGR"):
        OnnxPredictor(write_model(tmp_path / "model.onnx"))(image)


def test_a_model_of_a_fixed_size(tmp_path):
    predictor = OnnxPredictor(write_model(tmp_path / "model.onnx", metadata(size=[64, 96])))
    assert predictor(image_of((32, 48)))["panoptic_seg"][0].shape == (32, 48)
    with pytest.raises(UserError, match="exported for 96x64 only"):
        predictor(image_of((48, 48)))


def refusal(path, **options):
    """The message of the error, which is one line and names the file."""
    with pytest.raises(UserError) as caught:
        OnnxPredictor(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{path}: ") and len(message) < 500 + len(str(path))
    return message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file(share, tmp_path):
    path = write_model(tmp_path / "model.onnx")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot open the model" in refusal(path) or "no metadata" in refusal(path)


def test_files_that_are_not_models(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "cannot open the model" in refusal(path)
    with pytest.raises(FileNotFoundError, match="absent.onnx"):
        OnnxPredictor(tmp_path / "absent.onnx")
    with pytest.raises(FileNotFoundError):
        OnnxPredictor(tmp_path)


def test_a_model_without_metadata(tmp_path):
    assert "panoptic-fusion export" in refusal(write_model(tmp_path / "model.onnx", False))


def test_another_model_with_metadata(tmp_path):
    path = tmp_path / "model.onnx"
    value = helper.make_tensor_value_info("x", 1, [1])
    other = helper.make_tensor_value_info("y", 1, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "other", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"panoptic_fusion": json.dumps(metadata())})
    onnx.save(model, path)
    assert "inputs are x" in refusal(path)


def delete(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def put(value, *keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(2, "format"), "format 2, but this version reads 1"),
        (delete("format"), "format None"),
        (delete("categories"), "categories is missing"),
        (put([], "categories"), "no categories"),
        (put([{"id": 1}], "categories"), "has no name"),
        (put("half", "ontology"), "ontology is 'half'"),
        (delete("fusion", "overlap_thresh"), "fusion.overlap_thresh is missing"),
        (delete("fusion", "stuff_area_of"), "fusion.stuff_area_of is missing"),
        (put(1.5, "fusion", "overlap_thresh"), "fusion.overlap_thresh is 1.5"),
        (put(float("nan"), "fusion", "overlap_thresh"), "fusion.overlap_thresh is nan"),
        (put("yes", "fusion", "at_input_resolution"), "fusion.at_input_resolution is 'yes'"),
        (put(True, "fusion", "stuff_area_limit"), "fusion.stuff_area_limit is True"),
        (put("OtherFusion", "fusion", "name"), "this version can run HeuristicFusion"),
        (put(1, "fusion", "unknown"), "fusion.unknown is not a setting of HeuristicFusion"),
        (put([], "fusion"), "invalid"),
        (put("GRAY", "input", "format"), "input.format is 'GRAY'"),
        (put("bicubic", "input", "interpolation"), "input.interpolation is 'bicubic'"),
        (put("large", "input", "min_size"), "input.min_size is 'large'"),
        (put([1], "input", "size"), "input.size is [1]"),
        (put("BGR", "input"), "invalid"),
        (put([["sem_seg"]], "outputs"), "outputs is"),
        (delete("input", "batch"), "batch is missing"),
        (put(4, "input", "batch"), "4 images at a time"),
        (put([], "outputs"), "outputs is"),
        (put(["depth"], "outputs"), "outputs is"),
        (put("SpatialRankingFusion", "fusion", "name"), "fusion.order_by is missing"),
    ],
)
def test_invalid_metadata(change, words, tmp_path):
    assert words in refusal(write_model(tmp_path / "model.onnx", changes=change))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null"])
def test_metadata_that_are_not_an_object(text, tmp_path):
    assert "metadata" in refusal(write_model(tmp_path / "model.onnx", text))


def test_a_damaged_ranking_module(tmp_path):
    content = metadata("SpatialRankingFusion")
    assert "ranking_module" in refusal(write_model(tmp_path / "without.onnx", content))
    assert "damaged" in refusal(write_model(tmp_path / "text.onnx", content, ranking="no base64!"))
    assert "cannot open" in refusal(write_model(tmp_path / "bytes.onnx", content, ranking="AAAA"))


def test_providers(tmp_path, monkeypatch):
    path = write_model(tmp_path / "model.onnx")
    for name in ("cpu", "CPU", "CPUExecutionProvider", ("cpu", {})):
        assert OnnxPredictor(path, providers=[name]).session.get_providers() == ["CPUExecutionProvider"]
    assert "provider 'cuda' is not available: this onnxruntime has" in refusal(path, providers=["cuda"])
    assert "provider 'abacus'" in refusal(path, providers=[("abacus", {})])


def test_a_provider_that_does_not_start(tmp_path, monkeypatch):
    """onnxruntime uses the CPU without an error if the libraries of a provider are missing."""
    import onnxruntime

    path = write_model(tmp_path / "model.onnx")
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    asked = []

    def session(content, options, providers):
        asked.extend(providers)
        return SimpleNamespace(get_providers=lambda: names[1:])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert "cannot start CUDAExecutionProvider" in refusal(path, providers=[("cuda", {"device_id": 1}), "cpu"])
    assert asked == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]


def test_without_onnxruntime(tmp_path, monkeypatch):
    path = write_model(tmp_path / "model.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert "pip install onnxruntime" in refusal(path)
