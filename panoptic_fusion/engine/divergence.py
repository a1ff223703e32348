"""Stops a training run that has diverged, before it writes a checkpoint.

If the losses of an iteration are not finite, this is recorded on the device. The record is read before each log and
each checkpoint. Before a checkpoint, the weights and the state of the optimizer are checked as well.
"""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from panoptic_fusion.checkpoint import AtomicCheckpointer, last_checkpoint
from panoptic_fusion.checkpoint.finite import non_finite_tensors
from panoptic_fusion.errors import UserError

from .loss_metrics import LOG_PERIOD, LossRecord, NonFiniteLoss


class DivergenceError(UserError):
    """Error of a training run that diverged. The message says when, how, and what to do."""


class StopOnDivergence(HookBase):
    """Hook that ends the run in all processes if a loss, a weight or the state of the optimizer is not finite.

    It must come before the hooks that write checkpoints and evaluate.
    """

    def __init__(self, cfg: CfgNode, checkpointer: AtomicCheckpointer, record: LossRecord):
        """Initializes the hook.

        Args:
            cfg: resolved config.
            checkpointer: checkpointer that writes the run's checkpoints to its `save_dir`.
            record: record of the losses of each iteration.
        """
        self._cfg = cfg
        self._checkpointer = checkpointer
        self._record = record

    def after_step(self) -> None:
        """Checks for divergence if a log or a checkpoint comes next.

        Raises:
            DivergenceError: if the run diverged, in this or in another process.
        """
        done = self.trainer.iter + 1
        is_last = done >= self.trainer.max_iter
        saves = is_last or done % self._cfg.SOLVER.CHECKPOINT_PERIOD == 0
        if not saves and done % LOG_PERIOD:
            return
        found = next((f for f in comm.all_gather(self._find(look_at_weights=saves)) if f is not None), None)
        if found is not None:
            self._stop(*found, together=True)

    def explain(self, error: Exception) -> None:
        """Raises DivergenceError if the error of an iteration was caused by numbers that are not finite."""
        if isinstance(error, UserError):
            return
        found = self._find(look_at_weights=True)
        if found is None and isinstance(error, NonFiniteLoss):
            found = error.iteration, f"{error.name} of another process is not finite"
        if found is None and isinstance(error, FloatingPointError):
            found = self.trainer.iter, "boxes or scores of proposals are not finite"
        if found is not None:
            self._stop(*found)

    def _find(self, look_at_weights: bool) -> tuple[int, str] | None:
        """Returns the iteration and a description of the non-finite values in it; None if this process found none."""
        broken = self._record.first_broken()
        if broken is not None:
            iteration, names = broken
            others = f" (and {', '.join(names[1:])})" if names[1:] else ""
            return iteration, f"{names[0]}{others} is not finite"
        if not look_at_weights:
            return None
        optimizer = self.trainer._trainer.optimizer
        names = non_finite_tensors({"": self.trainer._trainer.model.state_dict(), "optimizer": optimizer.state_dict()})
        if names:
            text = f"{len(names)} tensors of the model and the optimizer are not finite, the first is {names[0][:200]}"
            return self.trainer.iter + 1, text
        return None

    def _stop(self, iteration: int, what: str, together: bool = False) -> None:
        if comm.is_main_process():
            exploded = self._record.first_exploded()
            self._unname_ruined(iteration if exploded is None else min(iteration, exploded))
        if together:
            comm.synchronize()  # so that all processes name the same checkpoint
        # If a run ends in its last iteration, detectron2 evaluates even after an error.
        self.trainer._hooks = [hook for hook in self.trainer._hooks if not isinstance(hook, EvalHook)]
        raise DivergenceError(f"training diverged at iteration {iteration}: {what}. {self._advice()}")

    def _unname_ruined(self, iteration: int) -> None:
        """Makes `last_checkpoint` refer to a checkpoint from before the bad iteration, or removes it.

        Checkpoints of this run whose weights were used or produced by the bad or a later iteration are finite, but
        useless.
        """
        folder = self._checkpointer.save_dir
        last = last_checkpoint(folder)
        if last is None or last[1] < max(iteration - 1, self.trainer.start_iter):
            return
        earlier = [path for path in Path(folder).glob("model_*.pth") if _iteration(path) < iteration - 1]
        if earlier:
            self._checkpointer.tag_last_checkpoint(max(earlier, key=_iteration).name)
        else:
            os.unlink(os.path.join(folder, "last_checkpoint"))

    def _advice(self) -> str:
        last, solver = last_checkpoint(self._checkpointer.save_dir), self._cfg.SOLVER
        if last is None:
            start = "No good checkpoint was written. Start again with"
        else:
            path = os.path.join(self._checkpointer.save_dir, last[0])
            start = f"The last good checkpoint is {path} (iteration {last[1]}). Continue from it with --resume and"
        clip = solver.CLIP_GRADIENTS
        clipping = f"a lower SOLVER.CLIP_GRADIENTS.CLIP_VALUE (now {clip.CLIP_VALUE})"
        if not clip.ENABLED:
            clipping = "SOLVER.CLIP_GRADIENTS.ENABLED True"
        return (
            f"{start} a lower SOLVER.BASE_LR (now {solver.BASE_LR}), a longer SOLVER.WARMUP_ITERS (now "
            f"{solver.WARMUP_ITERS}), or {clipping}"
        )


def _iteration(path: Path) -> int:
    """Returns the iteration in a checkpoint's name, such as model_0000099.pth; a large number for other names."""
    digits = path.stem.removeprefix("model_")
    return int(digits) if digits.isdigit() else 1 << 62
