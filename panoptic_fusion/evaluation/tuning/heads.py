"""Caches the outputs of a network's heads, in one file per image, so that the network runs once per image.

Boxes and scores keep float32. Mask logits and semantic logits become float16, which changes a pixel only where two
values agree to three digits. A file is written atomically, so a killed run resumes with the next image.

Shapes: R is the number of instances, M the side of a mask head's output, C the number of semantic channels.
"""

import hashlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.files import file_state, safe_name, write_atomically
from panoptic_fusion.networks.inference import ImageHeads, Size, visible_instances
from panoptic_fusion.networks.test_time_augmentation import heads_of_images

ARCHIVE_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error)
"""Errors of `numpy.load` for a missing or damaged .npz file."""

HALF = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True)
class CachedImage:
    """Results of the heads for one image, on the CPU, in float32.

    Attributes:
        heads: results of the heads; instances without a visible box are left out.
        output_size: (height, width) of the panoptic map.
    """

    heads: ImageHeads
    output_size: Size


def save_heads(path: str | os.PathLike, image: CachedImage, source: str) -> None:
    """Writes one image as .npz; `source` identifies the image file, see `image_source`."""
    heads = image.heads
    arrays = {
        "source": np.array(source),
        "sizes": np.array([heads.padded_size, heads.image_size, image.output_size], np.int64),
        "sem_seg_logits": _half(heads.sem_seg_logits),
        "boxes": heads.instances.pred_boxes.tensor.float().cpu().numpy(),
        "scores": heads.instances.scores.float().cpu().numpy(),
        "classes": heads.instances.pred_classes.cpu().numpy(),
        "mask_logits": _half(heads.instances.pred_mask_logits),
    }
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_heads(path: str | os.PathLike) -> CachedImage:
    """Reads one image.

    Raises:
        any of ARCHIVE_ERRORS: the file is missing or damaged.
    """
    return _read(path)[0]


def is_cached(path: str | os.PathLike, source: str) -> bool:
    """Returns whether a file is intact and holds the results for the current version of an image file."""
    try:
        return _read(path)[1] == source
    except ARCHIVE_ERRORS:
        return False


def _read(path: str | os.PathLike) -> tuple[CachedImage, str]:
    """Returns the image of a file, and its source; for errors see `load_heads`."""
    with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
        padded_size, image_size, output_size = (tuple(size) for size in file["sizes"].tolist())
        instances = Instances(
            image_size,
            pred_boxes=Boxes(torch.from_numpy(file["boxes"])),
            scores=torch.from_numpy(file["scores"]),
            pred_classes=torch.from_numpy(file["classes"]),
            pred_mask_logits=torch.from_numpy(file["mask_logits"]).float(),
        )
        logits = torch.from_numpy(file["sem_seg_logits"]).float()
        source = str(file["source"])
    return CachedImage(ImageHeads(logits, instances, padded_size, image_size), output_size), source


def image_source(record: Mapping[str, Any]) -> str:
    """Returns a text that identifies the image file of a dataset dict: path, size in bytes, modification time."""
    state = file_state(record["file_name"])
    return f"{record['file_name']} {'(missing)' if state is None else ' '.join(map(str, state))}"


def cache_folder(output: str | os.PathLike, cfg: CfgNode, model: nn.Module) -> Path:
    """Returns the folder of a model's cached results below `output`; it differs per model and input size.

    The name is a hash of the weights without the fusion's, and of the config keys that the heads depend on.
    """
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        if not name.startswith("fusion."):
            digest.update(name.encode())
            digest.update(value.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    kept = cfg.clone()
    kept.defrost()
    for key in ("PANOPTIC_FUSION", "WEIGHTS", "DEVICE"):
        del kept.MODEL[key]
    for part in (kept.MODEL, kept.INPUT, kept.TEST.AUG):
        digest.update(part.dump().encode())
    digest.update(str(kept.TEST.DETECTIONS_PER_IMAGE).encode())
    return Path(output) / "heads" / digest.hexdigest()[:16]


def cache_path(folder: Path, record: Mapping[str, Any]) -> Path:
    """Returns the path of the cached results for a dataset dict."""
    return folder / f"{safe_name(str(record['image_id']))}.npz"


def run_network(
    cfg: CfgNode, model: nn.Module, records: list[dict[str, Any]], folder: Path
) -> Iterator[tuple[dict[str, Any], str]]:
    """Caches the results for the images of a dataset that are not cached yet.

    Args:
        cfg: resolved config of the model.
        model: `PanopticRCNN` or `IndependentPanoptic` in eval mode.
        records: dataset dicts.
        folder: existing folder of the files.

    Yields:
        Each dict, with the reason why it cannot be used ("" if it can). An invalid image never ends the run.

    Raises:
        DiskError: if the disk is full. A later run resumes.
    """
    detector, semantic = (getattr(model, f"{task}_network", model) for task in ("instance", "semantic"))
    mapper = PanopticDatasetMapper(cfg, is_train=False)
    for record in records:
        path, source = cache_path(folder, record), image_source(record)
        problem = ""
        if not is_cached(path, source):
            try:
                inputs = [mapper(record)]
            except ValueError as error:  # DatasetError is one
                problem = str(error)
            else:
                with torch.no_grad():
                    heads, size = next(heads_of_images(inputs, detector, semantic, model.augmentation))
                instances = visible_instances(heads.instances, size)
                heads = ImageHeads(heads.sem_seg_logits, instances, heads.padded_size, heads.image_size)
                save_heads(path, CachedImage(heads, size), source)
        yield record, problem


def _half(values: torch.Tensor) -> np.ndarray:
    """Returns values as float16, limited to its range; NaN stays NaN."""
    return values.float().clamp(-HALF, HALF).half().cpu().numpy()
