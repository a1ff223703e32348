"""Metrics of the losses: written once per period, with the values of every iteration."""

import math

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from panoptic_fusion.engine.loss_metrics import NonFiniteLoss
from panoptic_fusion.engine.trainer import FullPrecisionTrainer


class TwoLosses(torch.nn.Module):
    """Two losses of each batch; the second one is only there for batches above 2."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch):
        losses = {"loss_a": self.weight * batch}
        return losses | ({"loss_b": 10 * self.weight * batch} if batch > 2 else {})


def histories(batches, period, *, gather=None, monkeypatch=None):
    """{metric: [(value, iteration)]} after training on the batches, and how often the processes were gathered."""
    calls = []

    def counted(rows):
        calls.append(len(rows))
        return gather(rows) if gather else [rows]

    monkeypatch.setattr(comm, "gather", counted)
    model = TwoLosses()
    trainer = FullPrecisionTrainer(
        model, [torch.tensor(float(x)) for x in batches], torch.optim.SGD(model.parameters(), lr=0.0)
    )
    trainer.gather_metric_period = period
    with EventStorage() as storage:
        for trainer.iter in range(len(batches)):
            storage.iter = trainer.iter
            trainer.run_step()
        trainer.write_pending_metrics()
    return {name: history.values() for name, history in storage.histories().items()}, calls


def test_every_iteration_is_written_once_per_period(monkeypatch):
    batches = [1, 2, 3, 4, 5, 6, 7, 8]
    each, calls = histories(batches, 1, monkeypatch=monkeypatch)
    assert calls == [1] * 8 + [0]
    together, calls = histories(batches, 3, monkeypatch=monkeypatch)
    assert calls == [3, 3, 2]
    for metrics in (each, together):
        assert metrics["total_loss"] == [(x * (11 if x > 2 else 1), x - 1) for x in batches]
        assert metrics["loss_a"] == [(x, x - 1) for x in batches if x > 2]  # a single loss is the total
        assert metrics["loss_b"] == [(10 * x, x - 1) for x in batches if x > 2]
        assert [i for _, i in metrics["data_time"]] == [i for _, i in metrics["rank_data_time"]] == list(range(8))


def test_losses_are_averaged_over_the_processes(monkeypatch):
    def two(rows):
        return [rows, [(i, {name: 3 * value for name, value in losses.items()}, 50.0 + i) for i, losses, _ in rows]]

    metrics, _ = histories([1, 4], 2, gather=two, monkeypatch=monkeypatch)
    assert metrics["total_loss"] == [(2, 0), (88, 1)] and metrics["loss_b"] == [(80, 1)]
    assert metrics["data_time"] == [(50.0, 0), (51.0, 1)] and metrics["rank_data_time"][1][0] < 50
    metrics, _ = histories([1, 4], 2, gather=lambda rows: [], monkeypatch=monkeypatch)  # not rank 0
    assert list(metrics) == ["rank_data_time"]


def test_a_loss_of_another_process_that_is_not_finite(monkeypatch):
    def two(rows):
        return [rows, [(i, dict.fromkeys(losses, math.nan if i == 1 else 1.0), 0.0) for i, losses, _ in rows]]

    with pytest.raises(NonFiniteLoss, match="loss_a is not finite in iteration 1") as caught:
        histories([1, 4, 4], 3, gather=two, monkeypatch=monkeypatch)
    assert (caught.value.iteration, caught.value.name) == (1, "loss_a")
