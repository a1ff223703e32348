"""Cityscapes metrics and submission files, computed from the panoptic output and from the instance head.

AP is measured twice: for the instances of the instance head, before fusion, as in the papers, and for the thing
segments of the panoptic map, which do not overlap. For the pixel-level metrics and the submission files, every thing
segment is an instance with its score, the class of every segment is the label of its pixels, and void is the label
"unlabeled" (0). The metrics are computed by detectron2's `CityscapesInstanceEvaluator` and `CityscapesSemSegEvaluator`,
which call cityscapesscripts. The AP of a class is 0 if it has ground truth and no detection. A class without ground
truth does not enter the average.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import CityscapesInstanceEvaluator, CityscapesSemSegEvaluator, DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from PIL import Image

from ..data.label_space import LabelSpace
from ..errors import UserError
from ..files import temporary_folder
from ..modeling.fusion.mask_crops import MaskCrops
from .prediction import panoptic_prediction

logger = logging.getLogger(__name__)

UNLABELED = 0  # label id of pixels without a class; cityscapesscripts counts them as wrong


def build_cityscapes_evaluators(
    dataset_name: str,
    output_dir: str | os.PathLike | None = None,
    write_submission: bool = False,
    *,
    instances: bool = False,
) -> list[DatasetEvaluator]:
    """Builds the Cityscapes evaluators of a dataset; returns none for datasets other than Cityscapes.

    The metrics need `cityscapes_gt_dir` in the metadata, which the test split does not have. They also need a folder
    that all processes can read, so jobs on several machines skip them with a warning.

    Args:
        dataset_name: name of a registered dataset.
        output_dir: folder for the submission files.
        write_submission: whether to also write the files for the evaluation servers below `output_dir`.
        instances: whether the model returns `instances`, so that the AP of the instance head can be measured.

    Raises:
        UserError: `write_submission` is set without an `output_dir`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if metadata.get("cityscapes_gt_dir") is not None:
        if importlib.util.find_spec("cityscapesscripts") is None:
            logger.warning("Cityscapes' own measures are left out: pip install cityscapesscripts")
        elif comm.get_local_size() != comm.get_world_size():
            logger.warning("Cityscapes' own measures are left out on several machines: use --eval-only on one")
        else:
            kinds = [InstancesOfHead] if instances else []
            evaluators += [kind(dataset_name) for kind in (*kinds, PanopticInstanceEvaluator, PanopticSemSegEvaluator)]
    if write_submission and metadata.get("builtin_key") == "cityscapes":
        if output_dir is None:
            raise UserError("writing the Cityscapes submission needs an output_dir")
        evaluators.append(CityscapesSubmission(dataset_name, output_dir))
    return evaluators


# -- one image -------------------------------------------------------------------------------------------------------


def label_id_map(
    panoptic_map: np.ndarray, segments_info: Sequence[Mapping[str, Any]], label_space: LabelSpace
) -> np.ndarray:
    """Returns the label ids of a panoptic map (H, W): (H, W) uint8, `UNLABELED` where void.

    `segments_info` has contiguous category ids. `label_space` is the Cityscapes label space, where category ids are
    label ids.
    """
    table = np.full(int(panoptic_map.max(initial=0)) + 1, UNLABELED, np.uint8)
    for segment in segments_info:
        ids = label_space.thing_ids if segment["isthing"] else label_space.stuff_ids
        if segment["id"] < len(table):
            table[segment["id"]] = ids[segment["category_id"]]
    return table[panoptic_map]


def write_pixel_level(path: Path, panoptic_map: np.ndarray, segments_info: Sequence, label_space: LabelSpace) -> None:
    """Writes the PNG of label ids that the pixel-level evaluation server expects."""
    Image.fromarray(label_id_map(panoptic_map, segments_info, label_space)).save(path)


def write_instance_level(
    path: Path, panoptic_map: np.ndarray, segments_info: Sequence, label_space: LabelSpace
) -> None:
    """Writes the thing segments of one image in the format of the instance-level evaluation server.

    Raises:
        ValueError: a thing segment has no score.
    """
    things = [segment for segment in segments_info if segment["isthing"]]
    for segment in things:
        if "score" not in segment:
            raise ValueError(f"{path}: segment {segment['id']} is a thing without a score")
    masks = ((segment["id"], panoptic_map == segment["id"]) for segment in things)
    classes = [(segment["category_id"], float(segment["score"])) for segment in things]
    _write_masks(path, masks, classes, label_space)


def write_instances(path: Path, instances: Instances, label_space: LabelSpace) -> None:
    """Writes the instances of one image in the format of the instance-level evaluation server.

    Args:
        path: path of the text file.
        instances: R instances on the CPU with scores, pred_classes, and either pred_masks (R, H, W) or pred_mask_logits
            (R, M, M) on pred_boxes.
        label_space: Cityscapes label space.
    """
    classes = list(zip(instances.pred_classes.tolist(), instances.scores.tolist(), strict=True))
    _write_masks(path, enumerate(_full_masks(instances)), classes, label_space)


def _full_masks(instances: Instances) -> Iterator[np.ndarray]:
    """Yields the masks (H, W) bool of the instances, one at a time."""
    if instances.has("pred_masks"):
        yield from (mask.numpy() > 0 for mask in instances.pred_masks)
        return
    crops = MaskCrops.from_instances(instances)
    for row, window in enumerate(crops.windows):
        mask = np.zeros(instances.image_size, bool)
        mask[window] = crops[row].numpy()
        yield mask


def _write_masks(
    path: Path,
    masks: Iterable[tuple[int, np.ndarray]],
    classes: Sequence[tuple[int, float]],
    label_space: LabelSpace,
) -> None:
    """Writes the text file `path`, with one line "mask label-id score" per instance, and the masks next to it.

    The masks are PNGs of 0 and 255. Masks listed in an older `path` are removed first.

    Args:
        path: path of the text file.
        masks: number and mask (H, W) bool of each instance.
        classes: contiguous thing class and score of each instance.
        label_space: Cityscapes label space.
    """
    if path.exists():
        for line in path.read_text().splitlines():
            path.with_name(line.split()[0]).unlink(missing_ok=True)
    lines = []
    for (number, mask), (cls, score) in zip(masks, classes, strict=True):
        label_id = label_space.thing_ids[cls]
        name = f"{path.stem}_{number}_{label_id}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(path.with_name(name), compress_level=1)
        lines.append(f"{name} {label_id} {score!r}\n")
    path.write_text("".join(lines))


# -- evaluators ------------------------------------------------------------------------------------------------------


class _PanopticBase:
    """Mixin of the evaluators, placed before detectron2's class; restricts the evaluation to the images seen."""

    def __init__(self, dataset_name: str) -> None:
        """Initializes the evaluator.

        Args:
            dataset_name: name of a Cityscapes dataset whose metadata have `cityscapes_gt_dir`.
        """
        metadata = MetadataCatalog.get(dataset_name)
        self._label_space = LabelSpace.from_metadata(metadata)
        self._gt_dir = Path(metadata.cityscapes_gt_dir).absolute()
        self._metadata = SimpleNamespace(gt_dir=None)  # detectron2's class reads the folder from here
        self._cpu_device = torch.device("cpu")
        self._logger = logger

    def reset(self) -> None:
        """Removes the predictions written so far; all processes must call it."""
        if hasattr(self, "_working_dir"):
            self._working_dir.cleanup()
        super().reset()

    def evaluate(self) -> OrderedDict:
        """Returns `{self.key: {metric: value x 100}}`, empty except on rank 0; all processes must call it."""
        comm.synchronize()  # wait until all predictions are written
        with contextlib.ExitStack() as stack:
            if comm.is_main_process():
                folder = stack.enter_context(temporary_folder("cityscapes_gt_"))
                self._link_ground_truth(folder / "gt")
                self._metadata.gt_dir = str(folder / "gt")
                stack.enter_context(_cityscapesscripts_on_numpy_2())
            # detectron2 removes the predictions, but `evaluate` may be called again: `reset` removes them
            stack.enter_context(mock.patch.object(self._working_dir, "cleanup"))
            results = super().evaluate()
        if not results:
            return OrderedDict()
        return OrderedDict({self.key: {name: float(value) for name, value in next(iter(results.values())).items()}})

    def _link_ground_truth(self, folder: Path) -> None:
        """Creates `folder`/{city} with links to the ground truth of the predicted images, under the official names."""
        predicted = sorted(Path(self._temp_dir).glob(f"*_leftImg8bit_pred.{self.suffix}"))
        if not predicted:
            raise UserError("no image was evaluated: the Cityscapes measures need at least one")
        for path in predicted:
            name = path.name.removesuffix(f"_leftImg8bit_pred.{self.suffix}")
            city = folder / name.split("_")[0]
            city.mkdir(parents=True, exist_ok=True)
            for kind in ("instanceIds", "labelIds"):
                source = self._gt_dir / city.name / f"{name}_gtFine_{kind}.png"
                if not source.is_file():
                    raise FileNotFoundError(f"{source} is missing, the Cityscapes measures need it")
                (city / source.name).symlink_to(source)


class InstancesOfHead(_PanopticBase, CityscapesInstanceEvaluator):
    """Evaluator of Cityscapes' AP and AP50 of the instance head, before fusion; result key `cityscapes_instance`."""

    key = "cityscapes_instance"
    suffix = "txt"

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Writes the instances of a batch; `outputs` have instances (see `write_instances`) and are not changed."""
        for image, output in zip(inputs, outputs, strict=True):
            path = Path(self._temp_dir, f"{Path(image['file_name']).stem}_pred.txt")
            write_instances(path, output["instances"].to(self._cpu_device), self._label_space)


class PanopticInstanceEvaluator(_PanopticBase, CityscapesInstanceEvaluator):
    """Evaluator of Cityscapes' AP and AP50 of the thing segments; result key `cityscapes_instance_panoptic`."""

    key = "cityscapes_instance_panoptic"
    suffix = "txt"

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Writes the instances of a batch; `outputs` have panoptic_seg and are not changed."""
        for image, output in zip(inputs, outputs, strict=True):
            name = Path(image["file_name"]).stem
            panoptic_map, segments_info = panoptic_prediction(output, self._label_space, name)
            path = Path(self._temp_dir, f"{name}_pred.txt")
            write_instance_level(path, panoptic_map, segments_info, self._label_space)


class PanopticSemSegEvaluator(_PanopticBase, CityscapesSemSegEvaluator):
    """Evaluator of Cityscapes' pixel-level IoU, iIoU, IoU_sup and iIoU_sup; result key `cityscapes_sem_seg`."""

    key = "cityscapes_sem_seg"
    suffix = "png"

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Writes the label ids of a batch; `outputs` have panoptic_seg and are not changed."""
        for image, output in zip(inputs, outputs, strict=True):
            name = Path(image["file_name"]).stem
            panoptic_map, segments_info = panoptic_prediction(output, self._label_space, name)
            path = Path(self._temp_dir, f"{name}_pred.png")
            write_pixel_level(path, panoptic_map, segments_info, self._label_space)


class CityscapesSubmission(DatasetEvaluator):
    """Writer of the Cityscapes submission files, without metrics.

    It writes `output_dir`/cityscapes_pixel_level/*.png and `output_dir`/cityscapes_instance_level/*.{txt,png}. Each
    folder must be zipped for its server. (The panoptic server expects the COCO files of `evaluation.submission`.)
    """

    def __init__(self, dataset_name: str, output_dir: str | os.PathLike) -> None:
        self._label_space = LabelSpace.from_metadata(MetadataCatalog.get(dataset_name))
        self._pixel_level = Path(output_dir, "cityscapes_pixel_level")
        self._instance_level = Path(output_dir, "cityscapes_instance_level")

    def reset(self) -> None:
        """Creates the folders; existing files stay until they are overwritten."""
        for folder in (self._pixel_level, self._instance_level):
            folder.mkdir(parents=True, exist_ok=True)

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        """Writes the files of a batch; `outputs` have panoptic_seg and are not changed."""
        for image, output in zip(inputs, outputs, strict=True):
            name = Path(image["file_name"]).stem
            panoptic_map, segments_info = panoptic_prediction(output, self._label_space, name)
            prediction = panoptic_map, segments_info, self._label_space
            write_pixel_level(self._pixel_level / f"{name}_pred.png", *prediction)
            write_instance_level(self._instance_level / f"{name}_pred.txt", *prediction)

    def evaluate(self) -> OrderedDict:
        """Logs where the files are."""
        logger.info("Cityscapes submissions written to %s and %s", self._pixel_level, self._instance_level)
        return OrderedDict()


@contextlib.contextmanager
def _cityscapesscripts_on_numpy_2() -> Iterator[None]:
    """Makes cityscapesscripts 2.3.0 work with current numpy, without printing or writing files.

    It calls `in1d`, which numpy 2.4 has removed. It also writes a matches.json into the working directory, which fails
    on numpy 2 integers. Its instance AP of a class raises an IndexError if no instance is found and all predictions lie
    on ignored regions; `_matches_evaluated_by_class` returns 0 instead.
    """
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_level
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixel_level

    evaluate_matches = functools.partial(_matches_evaluated_by_class, instance_level.evaluateMatches)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(instance_level, "evaluateMatches", evaluate_matches))
        if not hasattr(np, "in1d"):
            stack.enter_context(mock.patch.object(np, "in1d", np.isin, create=True))
        stack.enter_context(mock.patch.object(instance_level, "writeDict2JSON", lambda content, path: None))
        stack.enter_context(mock.patch.object(instance_level.args, "quiet", True))
        stack.enter_context(mock.patch.object(pixel_level.args, "quiet", True))
        yield


def _matches_evaluated_by_class(
    evaluate_matches: Callable[[Mapping, Any], np.ndarray], matches: Mapping, args: Any
) -> np.ndarray:
    """Returns cityscapesscripts' AP (distances, classes, overlaps), with 0 wherever it raises an IndexError.

    The error means that the class has ground truth, but no instance of it was found and no prediction of it counts as
    wrong.
    """
    try:
        return evaluate_matches(matches, args)
    except IndexError:
        if args.distanceAvailable:  # the loop over distances would also have to be split; Cityscapes has none
            raise
    ap = np.zeros((1, len(args.instLabels), len(args.overlaps)))
    own = copy.copy(args)
    for row, label in enumerate(args.instLabels):
        for column, overlap in enumerate(args.overlaps):
            own.instLabels, own.overlaps = [label], [overlap]
            with contextlib.suppress(IndexError):
                ap[0, row, column] = evaluate_matches(matches, own)[0, 0, 0]
    return ap
