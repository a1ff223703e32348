"""Loads detectron2's published models as models of this project: downloaded, verified and converted.

    from detectron2.engine import DefaultPredictor
    from panoptic_fusion import load_zoo
    predictor = DefaultPredictor(load_zoo("panoptic_fpn_r50_coco"))

The weights are stored in detectron2's download cache ($FVCORE_CACHE, else ~/.torch/iopath_cache). A copy in this
project's layout is stored next to them. Programs that load the copy, including detectron2's `DefaultPredictor`, need
neither the pickle nor the channel order of detectron2.
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import get_cache_dir

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.loaded_weights import MARK, mark
from panoptic_fusion.checkpoint.model_zoo import ZOO, md5_of
from panoptic_fusion.config import config_file, read_config, resolve_config
from panoptic_fusion.errors import UserError, one_line
from panoptic_fusion.files import write_atomically

TIMEOUT = 30.0  # seconds without an answer or a byte
# Buffers, not parameters, of detectron2's models of 2019; they follow from the config.
CONFIGURED = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.cell_anchors")


def load_zoo(name: str, opts: Sequence[str] = (), weights: str | os.PathLike | None = None) -> CfgNode:
    """Returns the config of a model of detectron2's zoo, and downloads its weights if necessary.

    Args:
        name: key of `ZOO`, such as "panoptic_fpn_r50_coco".
        opts: KEY, VALUE, KEY, VALUE, ... that change the config, such as MODEL.PANOPTIC_FUSION.NAME.
        weights: path to a file to use instead of the download, for machines without network access.

    Returns:
        A resolved config whose MODEL.WEIGHTS is a local `.pth` file in this project's layout.

    Raises:
        UserError: if the model does not exist, the file cannot be downloaded or read, or its tensors do not match the
            model.
        ConfigError: if an option is invalid.
        FileNotFoundError: if `weights` does not exist.
    """
    if name not in ZOO:
        raise UserError(f"model {name!r} is not in the zoo; available: {', '.join(ZOO)}")
    cfg = resolve_config(read_config(config_file(ZOO[name].config), opts))
    source = Path(weights) if weights else download(ZOO[name].url, ZOO[name].md5_prefix)
    if not source.is_file():
        raise FileNotFoundError(f"the weights {source} do not exist")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(converted(cfg, source))
    cfg.freeze()
    return cfg


def download(url: str, md5_prefix: str) -> Path:
    """Returns the local file of a URL, and downloads it with a progress bar unless it is in detectron2's cache.

    Raises:
        UserError: if it cannot be downloaded, or its MD5 checksum does not start with `md5_prefix`.
    """
    try:
        with _timeout():
            path = Path(PathManager.get_local_path(url))
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{url} cannot be downloaded ({one_line(error)}). Without an internet connection, download it on "
            "another machine and pass the file: --weights FILE"
        ) from error
    if not md5_of(path).startswith(md5_prefix):
        path.unlink()
        raise UserError(f"the download of {url} was damaged and has been removed from the cache: try again")
    return path


def converted(cfg: CfgNode, source: Path) -> Path:
    """Returns the copy of a weights file in this project's layout; the first call creates it.

    Args:
        cfg: resolved config of the model.
        source: path to a file in detectron2's or in this project's layout.

    Raises:
        UserError: if a tensor is missing, left over or has a different shape, or the channel order is unknown.
    """
    on_meta = cfg.clone()
    on_meta.defrost()
    on_meta.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in build_model(on_meta).state_dict().items()}
    settings = (cfg.MODEL.CATEGORIES, cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY, cfg.MODEL.WEIGHTS_LAYOUT, shapes)
    key = hashlib.sha1(json.dumps([md5_of(source), *settings]).encode()).hexdigest()[:16]
    target = Path(get_cache_dir(), "panoptic_fusion", f"{source.stem}-{key}.pth")
    if target.is_file():
        return target
    on_cpu = cfg.clone()
    on_cpu.defrost()
    on_cpu.MODEL.DEVICE = "cpu"
    model = build_model(on_cpu)
    checkpointer = AtomicCheckpointer.from_config(cfg, model, require_complete=True)
    try:
        checkpointer.load(str(source))
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    left_over = [name for name in checkpointer.left_over if not name.startswith(CONFIGURED)]
    if left_over:
        raise UserError(
            f"{source} belongs to another network: {len(left_over)} of its tensors are left over, the first is "
            f"{left_over[0]}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    content = {"model": model.state_dict(), MARK: mark(checkpointer.rows)}
    write_atomically(target, lambda file: torch.save(content, file))
    return target


@contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
