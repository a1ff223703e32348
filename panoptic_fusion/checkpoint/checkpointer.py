"""Atomic checkpointing: an interrupted run never leaves a partially written file."""

import os
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode

from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError, one_line
from panoptic_fusion.files import write_atomically

from .branch_names import copy_to_branches, find_unmergeable_tensors, is_branched
from .class_rows import DETECTRON2, LAYOUTS, PANOPTIC_FUSION, ClassRows, has_semantic_predictor, take_rows
from .finite import non_finite_tensors
from .loaded_weights import MARK, LoadedWeights, load_weights, mark
from .transfer import NameMatch, new_parts, transfer
from .weights_file import read_weights_file

BEST = "model_best"  # file name, without .pth, of the best checkpoint of a run with TEST.BEST_METRIC


def check_weights_file(path: str) -> None:
    """Checks that MODEL.WEIGHTS is a file, unless it is "" or a URL.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    file = path.partition("?")[0]
    if not path or "://" in path or os.path.isfile(file):
        return
    if os.path.isdir(file):
        raise FileNotFoundError(f"MODEL.WEIGHTS: {file} is a folder: name a checkpoint in it, such as model_final.pth")
    raise FileNotFoundError(f"MODEL.WEIGHTS: {file} does not exist")


class AtomicCheckpointer(DetectionCheckpointer):
    """Checkpointer (detectron2's) that writes each file under a temporary name, flushes it to disk and renames it.

    `last_checkpoint` therefore always names a complete file. Weights that do not fit are rejected, whereas detectron2
    logs a warning and continues with random tensors. Files are read by `read_weights_file`, so no code in them is
    executed.
    """

    def __init__(
        self,
        model,
        save_dir: str = "",
        *,
        require_complete: bool = False,
        allow_shape_mismatch: bool = False,
        rows: ClassRows | None = None,
        weights_layout: str = "",
        name_match: NameMatch | None = None,
        **kwargs,
    ):
        """Initializes the checkpointer.

        Args:
            model: model to load into and save from. Its optional attribute `preloaded_modules` names the children whose
                weights the model has already loaded; a file need not contain them.
            save_dir: folder of the checkpoints.
            require_complete: whether to reject a file that lacks a tensor of the model, and an empty path (for
                evaluation).
            allow_shape_mismatch: whether to skip tensors of a different shape instead of rejecting them.
            rows: classes of the model. They are saved with the tensors, and the rows of a file in detectron2's layout
                are reordered to match the model. None neither saves nor reorders rows.
            weights_layout: MODEL.WEIGHTS_LAYOUT, for files whose layout is not known.
            name_match: rule by which rows are copied from a file with any classes, for classes whose names agree; all
                other rows are initialized from scratch. If it is None or `require_complete` is set, the file must fit
                as it is.
            kwargs: forwarded to `DetectionCheckpointer`.
        """
        super().__init__(model, save_dir, **kwargs)
        self.require_complete = require_complete
        self.allow_shape_mismatch = allow_shape_mismatch
        self.rows = rows
        self.weights_layout = weights_layout
        self.name_match = name_match
        self.left_over: list[str] = []  # tensors of the last loaded file that the model does not have
        self._new_rows: dict[str, list[str]] = {}

    @classmethod
    def from_config(cls, cfg: CfgNode, model, save_dir: str = "", **kwargs) -> "AtomicCheckpointer":
        """Builds the checkpointer for the model of a resolved config; `kwargs` are forwarded to the class."""
        rows = ClassRows(
            PANOPTIC_FUSION, LabelSpace.from_categories(cfg.MODEL.CATEGORIES), cfg.MODEL.SEM_SEG_HEAD.ONTOLOGY
        )
        return cls(model, save_dir, rows=rows, weights_layout=cfg.MODEL.WEIGHTS_LAYOUT, **kwargs)

    def save(self, name: str, **kwargs) -> None:
        """Saves `<save_dir>/<name>.pth` and writes its name to `last_checkpoint` (rank 0 only).

        Raises:
            UserError: a tensor contains NaN or infinity. Nothing is saved.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {
            "model": self.model.state_dict(),
            **{k: v.state_dict() for k, v in self.checkpointables.items()},
            **({MARK: mark(self.rows)} if self.rows else {}),
            **kwargs,
        }
        if broken := non_finite_tensors(data):
            raise UserError(f"{name}.pth is not saved: {len(broken)} tensors are not finite, the first is {broken[0]}")
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(data, file))
        self.tag_last_checkpoint(f"{name}.pth")

    def save_best(self, best: dict[str, Any]) -> None:
        """Saves the network and `best` as `<save_dir>/model_best.pth`; keeps `last_checkpoint` (rank 0 only).

        Args:
            best: plain values: metric, value, iteration, results, data. `read_best` returns them.
        """
        data = {
            "model": self.model.state_dict(),
            **({MARK: mark(self.rows)} if self.rows else {}),
            "iteration": best["iteration"],
            "best": best,
        }
        path = os.path.join(self.save_dir, f"{BEST}.pth")
        self.logger.info("Saving the best checkpoint so far (%s %.3f) to %s", best["metric"], best["value"], path)
        write_atomically(path, lambda file: torch.save(data, file))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Writes the name of the last checkpoint to the file `last_checkpoint`."""
        path = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(path, lambda file: file.write(last_filename_basename.encode()))

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict:
        """Loads the last checkpoint of `save_dir` with its training state if `resume` and it exists, or `path`."""
        self.require_complete |= resume and self.has_checkpoint()
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args, **kwargs) -> dict:
        """Loads a checkpoint, see fvcore's `Checkpointer.load`; "" loads nothing.

        Raises:
            FileNotFoundError: the file does not exist.
            UserError: the file cannot be downloaded or read, or its tensors do not fit or contain NaN or infinity; the
                message names the first such tensor.
        """
        if self.require_complete and not path and (needed := self._needed(self.model.state_dict())):
            raise UserError(
                f"MODEL.WEIGHTS is empty: name a checkpoint that has {needed[0]} (and {len(needed) - 1} more)"
            )
        check_weights_file(path)
        try:
            return super().load(path, *args, **kwargs)
        except NonFiniteError as error:
            raise UserError(f"{path}: {error}") from None
        except OSError as error:
            if "://" not in path:
                raise
            raise UserError(
                f"MODEL.WEIGHTS: {path} cannot be downloaded ({one_line(error)}): download it where there is a network "
                "and give the file"
            ) from error
        finally:
            self._parsed_url_during_load = None  # detectron2 keeps it after an error and then refuses to load

    @property
    def _transfers(self) -> bool:
        return self.name_match is not None and self.rows is not None and not self.require_complete

    def _needed(self, names: Iterable[str]) -> list[str]:
        """Returns which of these tensors the model has not already loaded."""
        loaded = getattr(self.model, "preloaded_modules", ())
        return [name for name in names if name.partition(".")[0] not in loaded]

    def _load_file(self, filename: str) -> dict:
        """Reads a file as in `DetectionCheckpointer` and converts it to the model's layout."""
        expected = self.rows and self.rows.label_space
        weights = load_weights(filename, layout=self.weights_layout, expected=expected)
        checkpoint = {**weights.rest, "model": self._in_model_layout(weights)}
        query = parse_qs(self._parsed_url_during_load.query)
        if query.pop("matching_heuristics", None) == ["True"]:
            checkpoint["matching_heuristics"] = True
        if query:
            raise UserError(f"MODEL.WEIGHTS: after ? only matching_heuristics=True is known, not {', '.join(query)}")
        return checkpoint

    def _in_model_layout(self, weights: LoadedWeights) -> dict[str, torch.Tensor]:
        """Returns the tensors with the rows of all heads in the model's order.

        Raises:
            UserError: the order of the file's rows is unknown, or its classes differ and no key says what to do.
        """
        self._new_rows = {}
        if self.rows is None:
            return weights.tensors
        model = self.model.state_dict()
        if weights.rows is None and has_semantic_predictor(weights.tensors) and has_semantic_predictor(model):
            raise UserError(
                f"{weights.path} does not contain the order of its semantic channels: set MODEL.WEIGHTS_LAYOUT to "
                f"{' or '.join(LAYOUTS)}, the program that it was trained with"
            )
        if self._transfers:
            source = weights.rows or ClassRows(PANOPTIC_FUSION, None)
            tensors, table = transfer(weights.tensors, source, model, self.rows, self.name_match)
            self.logger.info("MODEL.TRANSFER: rows copied from %s by class name\n%s", weights.path, table)
            return tensors
        if weights.rows is None or self._has_rows_of(weights.rows):
            return weights.tensors
        if weights.rows.layout != DETECTRON2 and not self.allow_shape_mismatch:
            raise UserError(
                f"the checkpoint does not fit: its classes differ from the model's: "
                f"{_first_difference(weights.rows.label_space, self.rows.label_space)}. "
                + (
                    "Check that it was made with this config"
                    if self.require_complete
                    else "Set MODEL.TRANSFER to names to take over the rows of classes of the same name, or "
                    "MODEL.ALLOW_SHAPE_MISMATCH to True to start all other rows new"
                )
            )
        tensors, self._new_rows = take_rows(weights.tensors, weights.rows, model, self.rows)
        for head, names in self._new_rows.items():
            self.logger.warning("%s: rows that %s does not have start new: %s", head, weights.path, ", ".join(names))
        return tensors

    def _has_rows_of(self, theirs: ClassRows) -> bool:
        """Returns whether rows in this project's layout have the model's order. True if the classes are unknown."""
        if theirs.layout == DETECTRON2:
            return False
        spaces = theirs.label_space, self.rows.label_space
        return None in spaces or _class_lists(spaces[0]) == _class_lists(spaces[1])

    def _load_model(self, checkpoint: dict):
        _refuse_non_finite(checkpoint.get("model"))
        if isinstance(checkpoint.get("model"), dict):
            lost = find_unmergeable_tensors(map(str, checkpoint["model"]), self.model.state_dict())
            if lost:
                name, theirs = next(iter(lost.items()))
                raise UserError(
                    f"the checkpoint does not fit: it has two branches, such as {theirs}, where the model has one, "
                    f"{name}, and two branches cannot become one. Set MODEL.SHARING to the checkpoint's value, or to "
                    "one that shares less"
                )
        try:
            if is_branched(self.model.state_dict()):
                checkpoint = self._for_branches(checkpoint)
            incompatible = super()._load_model(checkpoint)
        except (ValueError, AttributeError) as error:
            raise UserError(f"the checkpoint does not hold the tensors of a model: {one_line(error)}") from error
        self.left_over = list(incompatible.unexpected_keys)
        if incompatible.incorrect_shapes and not self.allow_shape_mismatch:
            name, theirs, ours = incompatible.incorrect_shapes[0]
            skip = ", or set MODEL.ALLOW_SHAPE_MISMATCH True to skip such tensors"
            raise UserError(
                f"the checkpoint does not fit: {len(incompatible.incorrect_shapes)} tensors have another shape, the "
                f"first is {name}: {tuple(theirs)} in the file, {tuple(ours)} in the model. Check that it was made "
                f"with this config{'' if self.require_complete else skip}"
            )
        if self._new_rows and self.require_complete:
            head, names = next(iter(self._new_rows.items()))
            raise UserError(
                f"the checkpoint does not fit: it has no rows of {head} for {', '.join(names[:3])}"
                f"{f' and {len(names) - 3} more classes' if len(names) > 3 else ''}. Train the model first"
            )
        missing = self._needed(incompatible.missing_keys)
        if missing and self._transfers:
            self.logger.info("MODEL.TRANSFER: not in the file, or of another shape, so new: %s", new_parts(missing))
        if missing and self.require_complete:
            raise UserError(
                f"the checkpoint does not fit: it lacks {len(missing)} tensors of the model, the first is "
                f"{missing[0]}. Check that it was made with this config"
            )
        if {name for name, _ in self.model.named_parameters()} <= set(incompatible.missing_keys):
            raise UserError("the checkpoint does not fit: it holds no tensor of the model. Check MODEL.WEIGHTS")
        return incompatible

    def _for_branches(self, checkpoint: dict) -> dict:
        """Adapts a checkpoint to a model with two backbones, by detectron2's name heuristics if it requests them."""
        self._convert_ndarray_to_tensor(checkpoint["model"])
        tensors = copy_to_branches(
            checkpoint["model"],
            self.model.state_dict(),
            match_suffixes=checkpoint.get("matching_heuristics", False),
            caffe2=checkpoint.get("__author__") == "Caffe2",
        )
        return {**checkpoint, "model": tensors, "matching_heuristics": False}


def named_checkpoint(folder: str | os.PathLike) -> Path | None:
    """Returns the file that `last_checkpoint` in a folder names, which may not exist; None if it names no file.

    Raises:
        UserError: it names anything other than a `.pth` file of that folder. detectron2 executes code in a `.pkl`.
    """
    pointer = Path(folder, "last_checkpoint")
    if not pointer.is_file():
        return None
    name = pointer.read_text(encoding="utf-8", errors="replace").strip()
    if Path(name).name != name or Path(name).suffix != ".pth" or not name.isprintable():
        raise UserError(f"{pointer} names {ascii(name)[:80]}: write the name of a .pth file of that folder into it")
    return Path(folder, name)


def read_best(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the values that `AtomicCheckpointer.save_best` saved in a folder; None if it has no best checkpoint.

    Raises:
        UserError: the file cannot be read or is not such a checkpoint.
    """
    path = Path(folder, f"{BEST}.pth")
    if not path.is_file():
        return None
    content = read_weights_file(path, mmap=True)
    best = content.get("best") if isinstance(content, dict) else None
    if not isinstance(best, dict) or not {"metric", "value", "iteration", "results"} <= set(best):
        raise UserError(f"{path} does not contain the result that it was selected by")
    return best


def last_checkpoint(folder: str | os.PathLike) -> tuple[str, int] | None:
    """Returns the file name and last iteration of the checkpoint from which a run in `folder` would resume.

    The iteration is -1 if the checkpoint does not store it. Returns None if there is no checkpoint. The tensors are not
    read into memory.

    Raises:
        UserError: the file cannot be read.
    """
    path = named_checkpoint(folder)
    if path is None or not path.is_file():
        return None
    content = _read(path)
    iteration = content.get("iteration", -1)
    if type(iteration) is not int:
        raise UserError(f"{path} is not a checkpoint of a training run: its iteration is a {type(iteration).__name__}")
    return path.name, iteration


def check_finite_weights(path: str | os.PathLike) -> None:
    """Checks that the weights of a checkpoint are finite, without reading all of them into memory.

    Raises:
        UserError: the file cannot be read, or a tensor of its model contains NaN or infinity.
    """
    try:
        _refuse_non_finite(_read(path).get("model"))
    except NonFiniteError as error:
        raise UserError(f"{path}: {error}") from None


class NonFiniteError(UserError):
    """Error raised if a checkpoint contains numbers that are not finite."""


def _refuse_non_finite(tensors: object) -> None:
    if broken := non_finite_tensors(tensors):
        raise NonFiniteError(
            f"the checkpoint holds NaN or infinity in {len(broken)} tensors, the first is {broken[0]}: its training "
            "diverged. Use an earlier checkpoint"
        )


def _read(path: str | os.PathLike) -> dict:
    content = read_weights_file(path, mmap=True)
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, no tensors by name")
    return content


def _class_lists(space: LabelSpace) -> tuple[list[str], list[str]]:
    return list(space.stuff_classes), list(space.thing_classes)


def _first_difference(theirs: LabelSpace, ours: LabelSpace) -> str:
    """Returns the first class that differs in words, such as "the first thing class is 'car' in the file, ..."."""
    for kind, their_names, our_names in zip(("stuff", "thing"), _class_lists(theirs), _class_lists(ours), strict=True):
        for i, (their_name, our_name) in enumerate(zip_longest(their_names, our_names)):
            if their_name != our_name:
                return f"{kind} class {i} is {their_name!r} in the file, {our_name!r} in the model"
    raise ValueError("the classes are the same")
