"""Measures the gradients that the two branches send into the shared backbone.

They help to choose the loss weight of the stuff head (OANet, section 4.3, figure 5 and table 1).
"""

import logging
import math
from collections.abc import Collection, Mapping

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.losses import branch_losses


def branch_gradients(
    losses: Mapping[str, Tensor], feature: Tensor, branches: Mapping[str, Collection[str]], *, scale: float = 1.0
) -> dict[str, Tensor]:
    """Returns the mean absolute gradient of the losses of each branch with respect to a feature map of the backbone.

    The graph is retained for the backward pass of the training step, and the `grad` of parameters does not change.

    Args:
        losses: weighted losses by name.
        feature: feature map of any shape.
        branches: {branch: names of its losses}, see `branch_losses`; names that are not in `losses` are ignored.
        scale: factor of the losses in the backward pass, for half precision; the result is divided by it.

    Returns:
        {branch: float32 scalar without gradient}; 0 if no loss of a branch depends on the map.
    """
    gradients = {}
    for branch, names in branches.items():
        own = [loss for name, loss in losses.items() if name in names and loss.requires_grad]
        gradient = None
        if own:
            gradient = torch.autograd.grad(scale * sum(own), feature, retain_graph=True, allow_unused=True)[0]
        gradients[branch] = feature.new_zeros((), dtype=torch.float32)
        if gradient is not None:
            gradients[branch] = gradient.float().abs().mean() / scale
    return gradients


class GradientBalance(HookBase):
    """Hook that logs the mean absolute gradients of both branches in the last map of the ResNet, once per period.

    It writes three scalars (metrics.json, TensorBoard) and a line of the log:

    - `gradient_balance/instance`: gradient of the losses of RPN and RoI heads together;
    - `gradient_balance/stuff`: gradient of the losses of the stuff head, divided by MODEL.SEM_SEG_HEAD.LOSS_WEIGHT,
      because the paper compares at weight 1 (without losses that have their own weight, such as UPSNet's RoI loss);
    - `gradient_balance/equal_loss_weight`: their ratio, the MODEL.SEM_SEG_HEAD.LOSS_WEIGHT at which both are equal.

    The paper's figure shows the "mean gradient" in the last layer of the backbone, while its text describes the
    gradient with respect to the last feature map. We use the output of the last stage of `backbone.bottom_up` (res5)
    and the mean of the absolute values, because the signs cancel in a plain mean. In distributed training, it is the
    mean over the processes. A gradient that overflows in half precision (the trainer skips that step) is not logged.

    In these iterations, the backward pass from the losses to the backbone runs once more per branch, and its graph is
    retained. In all other iterations the hook does nothing. The training result does not change.
    """

    def __init__(self, period: int, stuff_weight: float):
        """Initializes the hook.

        Args:
            period: number of iterations from one measurement to the next.
            stuff_weight: weight of the stuff head's losses.

        Raises:
            ConfigError: if the period is negative or the weight is not positive.
        """
        if period <= 0:
            raise ConfigError(f"SOLVER.GRADIENT_BALANCE_PERIOD is {period}: use a number of iterations, or 0 for never")
        if stuff_weight <= 0:
            raise ConfigError(
                f"SOLVER.GRADIENT_BALANCE_PERIOD is set, but MODEL.SEM_SEG_HEAD.LOSS_WEIGHT is {stuff_weight}: the "
                "gradient at weight 1 follows from one at a positive weight; use 1"
            )
        self._period = period
        self._stuff_weight = stuff_weight
        self._feature = None
        self._gradients = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GradientBalance":
        """Builds the hook from a config, for a model with two branches on one ResNet.

        Raises:
            ConfigError: if MODEL.SHARING is "none", so that there is nothing to balance; or see `__init__`.
        """
        if cfg.MODEL.SHARING == "none":
            raise ConfigError(
                "SOLVER.GRADIENT_BALANCE_PERIOD is set, but with MODEL.SHARING 'none' no layer gets gradients of both "
                "branches: set it to 0"
            )
        return cls(cfg.SOLVER.GRADIENT_BALANCE_PERIOD, cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT)

    def before_train(self) -> None:
        """Finds the ResNet.

        Raises:
            ConfigError: if the model has no ResNet, or none of its layers is trained.
        """
        self._model = getattr(self.trainer.model, "module", self.trainer.model)
        self._bottom_up = getattr(getattr(self._model, "backbone", None), "bottom_up", None)
        if self._bottom_up is None:
            raise ConfigError(
                "SOLVER.GRADIENT_BALANCE_PERIOD is set, but the model has no backbone.bottom_up: it needs an FPN "
                "backbone; set it to 0"
            )
        if not any(p.requires_grad for p in self._bottom_up.parameters()):
            raise ConfigError(
                "SOLVER.GRADIENT_BALANCE_PERIOD is set, but no layer of backbone.bottom_up is trained (MODEL.FREEZE, "
                "MODEL.BACKBONE.FREEZE_AT): set it to 0"
            )
        shapes = self._bottom_up.output_shape()
        self._last_map = max(shapes, key=lambda name: shapes[name].stride)

    def before_step(self) -> None:
        """Prepares a measurement if one is due."""
        if (self.trainer.iter + 1) % self._period == 0:
            self._handles = [
                self._bottom_up.register_forward_hook(self._keep_last_map),
                self._model.register_forward_hook(self._measure),
            ]

    def after_step(self) -> None:
        """Logs the measurement, if any."""
        if self._gradients is None:
            return
        gradients = comm.reduce_dict(self._gradients)
        self._gradients = None
        if not comm.is_main_process():
            return
        instance, stuff = (gradients[branch].item() for branch in ("instance", "stuff"))
        if not math.isfinite(instance + stuff):
            return
        stuff /= self._stuff_weight
        scalars = {"instance": instance, "stuff": stuff}
        if stuff > 0:
            scalars["equal_loss_weight"] = instance / stuff
        storage = get_event_storage()
        for name, value in scalars.items():
            storage.put_scalar(f"gradient_balance/{name}", value, smoothing_hint=False)
        logging.getLogger(__name__).info(
            "iteration %d: mean |gradient| in the backbone's last map: %s",
            self.trainer.iter,
            ", ".join(f"{name} {value:.3g}" for name, value in scalars.items()),
        )

    def _keep_last_map(self, module: nn.Module, args, features: dict[str, Tensor]) -> None:
        self._feature = features[self._last_map]

    def _measure(self, module: nn.Module, args, losses: dict[str, Tensor]) -> None:
        for handle in self._handles:
            handle.remove()
        scaler = getattr(self.trainer._trainer, "grad_scaler", None)
        scale = scaler.get_scale() if scaler is not None else 1.0
        with torch.autocast(self._feature.device.type, enabled=False):
            self._gradients = branch_gradients(losses, self._feature, branch_losses(module), scale=scale)
        self._feature = None
