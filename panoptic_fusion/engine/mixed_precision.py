"""Training with automatic mixed precision, on CUDA devices and on the CPU."""

import time

import torch
from detectron2.engine import AMPTrainer, SimpleTrainer

from .loss_metrics import LossMetrics

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # values of SOLVER.AMP.DTYPE


class MixedPrecisionTrainer(LossMetrics, AMPTrainer):
    """Variant of detectron2's AMPTrainer, which requires CUDA, for any device.

    The losses are scaled for float16 only, because bfloat16 has the range of float32. A checkpoint of a run without
    scaling can be resumed: the scale starts from its initial value (detectron2 raises KeyError).
    """

    def __init__(self, model: torch.nn.Module, data_loader, optimizer: torch.optim.Optimizer, dtype: torch.dtype):
        """Initializes the trainer.

        Args:
            model, data_loader, optimizer: see detectron2's SimpleTrainer.
            dtype: torch.float16 or torch.bfloat16.
        """
        self.device_type = next(model.parameters()).device.type
        scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == torch.float16)
        super().__init__(model, data_loader, optimizer, grad_scaler=scaler, precision=dtype)

    def run_step(self) -> None:
        """Runs one iteration."""
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast(self.device_type, self.precision):
            losses = self.model(data)
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def load_state_dict(self, state_dict: dict) -> None:
        """Loads the state of a run with or without mixed precision."""
        SimpleTrainer.load_state_dict(self, state_dict)
        if state_dict.get("grad_scaler"):  # empty with bfloat16
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
