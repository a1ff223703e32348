"""Keeps the checkpoint with the best result of all evaluations during training (TEST.BEST_METRIC)."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.checkpointer import BEST, read_best
from panoptic_fusion.errors import UserError

logger = logging.getLogger(__name__)


class BestCheckpoint(HookBase):
    """Writes `model_best.pth` whenever an evaluation has a higher result than all before it.

    Unlike detectron2's `BestCheckpointer`, it leaves `last_checkpoint` alone, so that a run resumes from its last
    checkpoint and not from its best, and a resumed run knows the best result so far. The file has the network, the
    result and the whole table of that evaluation, no optimizer. Runs after `EvalHook`, in the main process only.
    """

    def __init__(self, checkpointer: AtomicCheckpointer, metric: str):
        """
        Args:
            checkpointer: of the network; has the folder.
            metric: a name in the results, such as "panoptic_seg/PQ"; "DATA SET/panoptic_seg/PQ" if there are several.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._best: dict[str, Any] | None = None

    def before_train(self) -> None:
        """Takes the best so far from the folder if the run was resumed; else removes it, since it is of another run."""
        if self.trainer.start_iter > 0:
            try:
                best = read_best(self._checkpointer.save_dir)
            except UserError as error:
                logger.warning("The best checkpoint so far is lost: %s", error)
                best = None
            self._best = best if best is not None and best["metric"] == self._metric else None
        if self._best is None:
            Path(self._checkpointer.save_dir, f"{BEST}.pth").unlink(missing_ok=True)

    def after_step(self) -> None:
        """Compares, if this iteration was evaluated; the last one is compared in `after_train`."""
        if self.trainer.iter + 1 < self.trainer.max_iter:
            self._compare()

    def after_train(self) -> None:
        """Compares the last evaluation, and makes the results of the best one those of the run."""
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
            return  # of an earlier evaluation
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
        }
        self._checkpointer.save_best(self._best)


def _plain(results: Mapping | float) -> dict | float:
    """Nested results as dicts of Python floats, which a checkpoint can hold."""
    if isinstance(results, Mapping):
        return {key: _plain(value) for key, value in results.items()}
    return float(results)
