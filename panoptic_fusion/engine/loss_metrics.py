"""Losses of a training run: which are not finite, and metrics that are read and gathered once per log line.

Reading a loss makes the CPU wait for the device, and gathering makes each process wait for the others. On a GPU, the
losses of `LOG_PERIOD` iterations are therefore kept on the device, and read and gathered at once. No value is lost.
"""

import math
from functools import cached_property

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

LOG_PERIOD = 20  # number of iterations between two lines of detectron2's log
EXPLODED = 1000  # the weights are useless if the sum of losses exceeds this multiple of the first iteration's


class NonFiniteLoss(FloatingPointError):
    """Error of a loss that is NaN or infinite, averaged over the processes.

    Attributes:
        iteration: iteration of the loss.
        name: name of the loss.
    """

    def __init__(self, iteration: int, name: str):
        super().__init__(f"{name} is not finite in iteration {iteration}")
        self.iteration, self.name = iteration, name


class LossRecord:
    """Record of the first iteration in which each loss was not finite. `add` does not synchronize with the CPU."""

    def __init__(self):
        self._first: dict[tuple[str, ...], torch.Tensor] = {}  # names of losses -> iterations (L,) int64, -1 for none
        self._start: torch.Tensor | None = None  # sum of the losses in the first iteration
        self._exploded: torch.Tensor | None = None  # first iteration with a far larger sum, or -1

    def add(self, iteration: int, losses: dict[str, torch.Tensor]) -> None:
        """Adds the losses (scalar tensors) of an iteration."""
        if not losses:
            return
        values = torch.stack([loss.detach().float() for loss in losses.values()])
        first = self._first.get(tuple(losses))
        if first is None:
            first = torch.full_like(values, -1, dtype=torch.int64)
        self._first[tuple(losses)] = torch.where((first < 0) & ~values.isfinite(), iteration, first)
        total = values.sum()
        if self._start is None:
            self._start, self._exploded = total, torch.full_like(total, -1, dtype=torch.int64)
        is_exploded = ~(total <= EXPLODED * self._start)  # also true for NaN
        self._exploded = torch.where((self._exploded < 0) & is_exploded, iteration, self._exploded)

    def first_broken(self) -> tuple[int, list[str]] | None:
        """Returns the first iteration in which a loss was not finite, and the losses that broke in it; or None."""
        found: dict[int, list[str]] = {}
        for names, iterations in self._first.items():
            for name, iteration in zip(names, iterations.tolist(), strict=True):
                found.setdefault(iteration, []).append(name)
        found.pop(-1, None)
        return (min(found), found[min(found)]) if found else None

    def first_exploded(self) -> int | None:
        """Returns the first iteration whose sum of losses is more than `EXPLODED` times the first one, or None."""
        iteration = -1 if self._exploded is None else int(self._exploded)
        return None if iteration < 0 else iteration


class LossMetrics:
    """Mixin for detectron2's trainers that records the losses and writes them; it must be the first base class.

    Replaces detectron2's `gather_metric_period`, which drops the iterations between two periods.
    """

    @cached_property
    def record(self) -> LossRecord:
        """Record of the losses of this trainer."""
        return LossRecord()

    @cached_property
    def _pending(self) -> list[tuple[int, dict[str, torch.Tensor], float]]:
        return []

    def _write_metrics(self, loss_dict: dict[str, torch.Tensor], data_time: float) -> None:
        self.record.add(self.iter, loss_dict)
        self._pending.append((self.iter, {name: loss.detach() for name, loss in loss_dict.items()}, data_time))
        if (self.iter + 1) % self.gather_metric_period == 0:
            self.write_pending_metrics()

    def write_pending_metrics(self) -> None:
        """Writes the losses since the last call to the event storage; all processes must call it.

        As in detectron2, losses are averaged over the processes, and the waiting time for data is their maximum.

        Raises:
            NonFiniteLoss: a loss is not finite; only on rank 0.
        """
        losses = [loss.float() for _, losses, _ in self._pending for loss in losses.values()]
        values = iter(torch.stack(losses).tolist() if losses else [])
        rows = [(i, {name: next(values) for name in losses}, seconds) for i, losses, seconds in self._pending]
        self._pending.clear()
        storage = get_event_storage()
        for iteration, _, seconds in rows:
            storage.put_scalar("rank_data_time", seconds, cur_iter=iteration)
        for same in zip(*comm.gather(rows), strict=True):  # empty except on rank 0
            iteration, first, _ = same[0]
            metrics = {name: sum(losses[name] for _, losses, _ in same) / len(same) for name in first}
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise NonFiniteLoss(iteration, name)
            storage.put_scalar("data_time", max(seconds for *_, seconds in same), cur_iter=iteration)
            storage.put_scalar("total_loss", sum(metrics.values()), cur_iter=iteration)
            if len(metrics) > 1:
                storage.put_scalars(cur_iter=iteration, **metrics)
