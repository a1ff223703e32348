"""Keeps the checkpoint with the best evaluation result of a training run (TEST.BEST_METRIC)."""

import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.checkpointer import BEST, read_best
from panoptic_fusion.errors import UserError

from .inputs import dataset_states

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Hook that writes `model_best.pth` whenever an evaluation has a higher result than all previous ones.

    Unlike detectron2's `BestCheckpointer`, it does not change `last_checkpoint`, so that a run resumes from its last
    checkpoint and not from its best. The file contains the network, the result and the complete table of that
    evaluation, but no optimizer. A resumed run reads the best result so far from the file, unless the data of the
    evaluation have changed since. The hook must run after `EvalHook`, in the main process only.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, metric: str, datasets: Iterable[str] = ()):
        """Initializes the hook.

        Args:
            checkpointer: checkpointer of the network; provides the folder.
            metric: name in the results, such as "panoptic_seg/PQ", or "DATASET/panoptic_seg/PQ" with several datasets.
            datasets: names in DATASETS.TEST.
        """
        self._datasets = tuple(datasets)
        self._checkpointer = checkpointer
        self._metric = metric
        self._best: dict[str, Any] | None = None

    def before_train(self) -> None:
        """Reads the best result so far if the run was resumed; otherwise removes the file, which is of another run."""
        self._data = dataset_states(self._datasets)
        path = Path(self._checkpointer.save_dir, f"{BEST}.pth")
        if self.trainer.start_iter > 0:
            try:
                best = read_best(self._checkpointer.save_dir)
            except UserError as error:
                logger.warning("The best checkpoint so far is lost: %s", error)
                best = None
            if best is not None and best.get("data", self._data) != self._data:
                kept = path.with_name(f"{BEST}_before.pth")
                path.replace(kept)
                logger.warning(
                    "The data in DATASETS.TEST changed since the best checkpoint was chosen: it is %s now, and the "
                    "choice starts again",
                    kept,
                )
                best = None
            self._best = best if best is not None and best["metric"] == self._metric else None
        if self._best is None:
            path.unlink(missing_ok=True)

    def after_step(self) -> None:
        """Compares the result if this iteration was evaluated; `after_train` compares the last one."""
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compares the last evaluation, and replaces the results of the run by the best ones."""
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare()
            if self._best is not None:
                self.trainer._last_eval_results = self._best["results"]
                logger.info(
                    "Best of the run: %s %.3f after %d iterations, in %s.pth",
                    self._metric, self._best["value"], self._best["iteration"] + 1, BEST,
                )  # fmt: skip

    def _compare(self) -> None:
        latest = self.trainer.storage.latest()
        value, iteration = latest.get(self._metric, (math.nan, self.trainer.storage.iter))
        if iteration != self.trainer.storage.iter:
            return  # from an earlier evaluation
        results = getattr(self.trainer, "_last_eval_results", None)
        if self._metric not in latest:
            if results:
                logger.warning(
                    "TEST.BEST_METRIC %s is not among the results; they have PQ as panoptic_seg/PQ", self._metric
                )
            return
        if math.isnan(value) or (self._best is not None and value <= self._best["value"]):
            return
        self._best = {
            "metric": self._metric,
            "value": float(value),
            "iteration": min(int(iteration), self.trainer.max_iter - 1),
            "results": _plain(results),
            "data": self._data,
        }
        self._checkpointer.save_best(self._best)


def _plain(results: Mapping | float) -> dict | float:
    """Converts nested results to dicts of Python floats, which can be stored in a checkpoint."""
    if isinstance(results, Mapping):
        return {key: _plain(value) for key, value in results.items()}
    return float(results)
