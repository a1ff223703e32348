"""Tiny model files with the interface of `panoptic-fusion export`, written without torch."""

import base64
import copy
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
    {"id": 3, "name": "car", "isthing": 1, "color": [200, 0, 0]},
    {"id": 9, "name": "road", "isthing": 0, "color": [90, 0, 90]},
    {"id": 1, "name": "person", "isthing": 1, "color": [0, 200, 0]},
]
FUSIONS = {
    "HeuristicFusion": {"stuff_channels_only": False, "stuff_area_of": "class"},
    "SpatialRankingFusion": {
        "stuff_channels_only": True, "stuff_area_of": "region",
        "stride": 4, "order_by": "ranking", "score_over": "mask",
    },
    "UPSNetFusion": {"unknown": True, "keep_instance_classes": False, "test_sizes": None},
}  # fmt: skip


def metadata(name="HeuristicFusion", **image):
    """The metadata of a model, as Python."""
    return {
        "format": 1,
        "system": f"PanopticFPNHead + {name}",
        "categories": CATEGORIES,
        "ontology": "full",
        "fusion": {
            "name": name, "instances_confidence_thresh": 0.3, "overlap_thresh": 0.5, "stuff_area_limit": 30,
            "at_input_resolution": False, **FUSIONS[name],
        },
        "input": {
            "format": "BGR", "min_size": 64, "max_size": 120, "interpolation": "bilinear", "size": None, "batch": 1,
            "size_divisibility": 4, "pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1], **image,
        },
        "outputs": ["sem_seg", "instances", "panoptic_seg"],
        "precision": "float32",
        "opset": 17,
        "versions": {},
    }  # fmt: skip


def raw_outputs(seed=0, num=6, side=14):
    """Constant instances of a tiny model: boxes, scores, classes and mask logits."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 40, (num, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 24, (num, 2))], axis=1).astype(np.float32)
    scores = np.sort(rng.random(num).astype(np.float32))[::-1].copy()
    return boxes, scores, rng.integers(0, 2, num), rng.normal(1, 2, (num, side, side)).astype(np.float32)


def write_model(path, content=None, *, changes=lambda content: None, ranking=None, seed=0):
    """Writes a model file whose semantic logits depend on the image and whose instances are `raw_outputs(seed)`.

    Args:
        path: path to the file.
        content: metadata; default: `metadata()`. Bytes or a text are stored as they are, False stores none.
        changes: function that changes a copy of the metadata in place.
        ranking: ranking module to store, as text; True: a tiny one.
    """
    rng = np.random.default_rng(seed)
    weight = (rng.normal(0, 1, (4, 3, 1, 1)) / 40).astype(np.float32)
    boxes, scores, classes, masks = raw_outputs(seed)
    arrays = {
        "weight": weight, "boxes_": boxes, "scores_": scores, "classes_": classes, "mask_logits_": masks,
        "batch_index_": np.zeros(len(boxes), np.int64),
    }  # fmt: skip
    names = [name[:-1] for name in arrays if name.endswith("_")]
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4], auto_pad="SAME_UPPER"
        ),
        helper.make_node("Conv", ["pooled", "weight"], ["sem_seg_logits"]),
        *(helper.make_node("Identity", [f"{name}_"], [name]) for name in names),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, "H", "W"])],
        [
            helper.make_tensor_value_info("sem_seg_logits", TensorProto.FLOAT, [1, 4, "h", "w"]),
            *(
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
                for n, a in ((name, arrays[f"{name}_"]) for name in names)
            ),
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    model = _model(graph)
    content = copy.deepcopy(metadata() if content is None else content)
    if isinstance(content, dict):
        changes(content)
        content = json.dumps(content)
    properties = {} if content is False else {"panoptic_fusion": content}
    if ranking:
        properties["panoptic_fusion.ranking_module"] = ranking if isinstance(ranking, str) else _ranking_module(rng)
    helper.set_model_props(model, properties)
    Path(path).write_bytes(model.SerializeToString())
    return path


def _ranking_module(rng):
    weight = rng.normal(0, 1, (2, 2, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["channels", "weight"], ["logits"], pads=[1, 1, 1, 1])],
        "ranking",
        [helper.make_tensor_value_info("channels", TensorProto.FLOAT, [1, 2, "h", "w"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 2, "h", "w"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return base64.b64encode(_model(graph).SerializeToString()).decode()


def _model(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model
