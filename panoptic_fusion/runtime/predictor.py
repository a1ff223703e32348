"""Predictor of an exported model; the counterpart of detectron2's `DefaultPredictor` without torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from panoptic_fusion.errors import UserError

from .exported_model import OUTPUTS, RANKING_MODULE_KEY, ExportedModel
from .fusion import fuse
from .instances import Instances
from .mask_crops import PastedCrops
from .sem_seg_logits import SemSegLogits, Size
from .session import Provider, check_model, open_ranking_module, open_session

STRIDE = 4  # of the semantic logits, in pixels of the padded input


class OnnxPredictor:
    """Segments images with a model file that `panoptic-fusion export` has written.

    It needs numpy, Pillow and onnxruntime; with the area limit of connected stuff regions also OpenCV.

        predictor = OnnxPredictor("model.onnx")
        panoptic_seg, segments_info = predictor(bgr)["panoptic_seg"]

    Attributes:
        model: metadata of the model, such as `model.label_space`, the names, colors and category ids of the classes.
        session: onnxruntime session of the network.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        providers: Sequence[Provider] = ("cpu",),
        outputs: Collection[str] | None = None,
        paste_masks: bool = True,
        threads: int = 0,
    ):
        """Opens a model file.

        Args:
            path: path to the file.
            providers: execution providers of onnxruntime, the preferred one first: "cpu", "cuda", "tensorrt", full
                names, or pairs of a name and options. Only "cpu" is tested.
            outputs: names of the outputs to compute, of "panoptic_seg", "instances" and "sem_seg"; None: the outputs
                of the exported model.
            paste_masks: whether `instances` contain `pred_masks` (R, H, W). Otherwise they contain `pred_mask_logits`.
            threads: number of CPU threads of the network; 0 for one per core.

        Raises:
            FileNotFoundError: if the file does not exist.
            UserError: if the file is damaged or not an exported model, or a provider or an output is not available.
        """
        try:
            self.session = open_session(path, providers, threads)
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.model = ExportedModel.from_metadata(metadata)
            check_model(self.session)
            if self.model.batch != 1:
                raise UserError(f"the model takes {self.model.batch} images at a time: export it without --batch")
            self.outputs = frozenset(self.model.outputs if outputs is None else outputs)
            unknown = self.outputs - set(OUTPUTS)
            if unknown or not self.outputs:
                raise UserError(f"outputs are {sorted(self.outputs)}: choose from {', '.join(OUTPUTS)}")
            self._ranking_module = None
            if self.model.fusion.name == "SpatialRankingFusion":
                if RANKING_MODULE_KEY not in metadata:
                    raise UserError(f"the model has no metadata {RANKING_MODULE_KEY!r}: export it again")
                self._ranking_module = open_ranking_module(metadata[RANKING_MODULE_KEY], providers, threads)
        except UserError as error:
            raise UserError(f"{os.fspath(path)}: {error}") from error
        self.paste_masks = paste_masks

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Segments one image.

        Args:
            image: (H, W, 3) uint8 BGR.

        Returns:
            The requested outputs, with the same names and values as from `DefaultPredictor`, as numpy arrays:
            "panoptic_seg": map (H, W) int32, 0 = void, and segments_info, a list of dicts of Python scalars;
            "instances": dict of pred_boxes (R, 4) float32 XYXY in pixels, scores (R,) float32, pred_classes (R,) int64,
            and pred_masks (R, H, W) bool or pred_mask_logits (R, M, M) float32;
            "sem_seg": logits (C, H, W) float32.

        Raises:
            UserError: if the image has another shape or type, or its size does not fit a model of a fixed size.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise UserError(f"the image is {image.dtype} of shape {image.shape}: pass (H, W, 3) uint8 in BGR order")
        sem_seg, instances = self._run_network(image)
        result: dict[str, Any] = {}
        if "sem_seg" in self.outputs:
            result["sem_seg"] = sem_seg.full()
        if "instances" in self.outputs:
            result["instances"] = _as_dict(instances.rescaled(sem_seg.output_size), self.paste_masks)
        if "panoptic_seg" in self.outputs:
            space = self.model.label_space
            result["panoptic_seg"] = fuse(
                sem_seg, instances, self.model.fusion, num_stuff=space.num_stuff, num_things=space.num_things,
                ranking_module=self._ranking_module,
            )  # fmt: skip
        return result

    def _run_network(self, image: np.ndarray) -> tuple[SemSegLogits, Instances]:
        """Returns the semantic logits of an image, and its instances in pixels of the network's input."""
        output_size: Size = (image.shape[0], image.shape[1])
        resized = self.model.resize.resize(image if self.model.channel_order == "BGR" else image[:, :, ::-1])
        size: Size = (resized.shape[0], resized.shape[1])
        pixels = np.ascontiguousarray(resized.transpose(2, 0, 1)[None], np.float32)
        logits, boxes, scores, classes, mask_logits, _ = self.session.run(None, {"image": pixels})
        if logits.shape[1] != self.model.num_channels:
            raise UserError(f"the model has {logits.shape[1]} semantic channels, not {self.model.num_channels}")
        padded_size = (STRIDE * logits.shape[2], STRIDE * logits.shape[3])
        instances = Instances(size, boxes, scores, classes, mask_logits)
        return SemSegLogits(logits[0], padded_size, size, output_size), instances.visible(output_size)


def _as_dict(instances: Instances, paste_masks: bool) -> dict[str, np.ndarray]:
    """Returns instances with the names of detectron2's fields."""
    result = {"pred_boxes": instances.boxes, "scores": instances.scores, "pred_classes": instances.classes}
    if not paste_masks:
        return {**result, "pred_mask_logits": instances.mask_logits}
    crops = PastedCrops(instances)
    masks = np.zeros((len(crops), *crops.size), bool)
    for index, window in enumerate(crops.windows):
        masks[index][window] = crops[index]
    return {**result, "pred_masks": masks}
