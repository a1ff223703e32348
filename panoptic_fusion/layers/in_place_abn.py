"""In-place activated batch normalisation: batch norm and LeakyReLU in one layer that keeps only its output for the
backward pass (Rota Bulò et al., "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs"; Seamless, section
3.1).

    z = (x - mean) / sqrt(var + eps) * (|weight| + eps) + bias        y = leaky_relu(z [+ residual])

LeakyReLU and the affine can be inverted, so the backward pass gets the normalised input from y, and x is not kept.
Pure PyTorch, CPU and CUDA. With torch.distributed the statistics are those of all processes together.

Shape shorthand: N: batch, C: channels, ...: any number of further dimensions (none after a linear layer).
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def in_place_abn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    residual: Tensor | None = None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    slope: float = 0.01,
) -> Tensor:
    """Batch norm, the sum with `residual`, LeakyReLU.

    In training the mean and the variance are those of `x` over all processes of the default process group, each
    weighted by its number of elements; a process may have none (N = 0). Every process must call it, and must call
    backward: its result belongs into the loss there too, if only as `0 * y.sum()`.

    "In place" is about the memory that waits for the backward pass: nothing here keeps `x`, so it is freed once the
    caller lets go of it. `x` itself is not overwritten, so it may be used elsewhere. The result must not be changed in
    place while a backward pass is to come (autograd raises an error then).

    Deviation from plain batch norm: a batch with one element a channel is normalised to zero instead of being an error,
    because an image may leave a single RoI.

    Args:
        x: (N, C, ...) float.
        weight, bias: (C,) float; the scale is |weight| + eps.
        running_mean, running_var: (C,) float, updated in training as torch.nn.BatchNorm2d does it (unbiased variance).
        residual: shape of `x`, added before the activation. It is kept for the backward pass, too.
        slope: of LeakyReLU for negative values, > 0; 1.0 for no activation.

    Returns:
        Shape and dtype of `x`.
    """
    if residual is not None and x.dtype in (torch.float16, torch.bfloat16):
        # y - residual would cancel the few digits of these types: keep the sum's two parts apart.
        y = in_place_abn(
            x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps, slope=1.0
        )
        return _activate_(y + residual, slope)
    if training:
        with torch.no_grad():
            mean, var, count = batch_statistics(x)
            rate = momentum * count.clamp(max=1)  # without any element the running statistics stay
            running_mean.lerp_(mean.to(running_mean.dtype), rate.to(running_mean.dtype))
            unbiased = var * (count / (count - 1).clamp(min=1))
            running_var.lerp_(unbiased.to(running_var.dtype), rate.to(running_var.dtype))
    else:
        mean, var, count = running_mean, running_var, None
    if not torch.is_grad_enabled():
        return _forward(x, residual, weight, bias, mean, var, eps, slope)
    return _InPlaceABN.apply(x, residual, weight, bias, mean, var, count, eps, slope)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per-channel statistics of `x` (N, C, ...) over all processes together.

    Returns:
        mean (C,), biased variance (C,) and the number of elements a channel (scalar tensor), in float32 (float64 for
        float64 input). All zero where no process has an element.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    num_channels = x.shape[1]
    count = x.numel() // num_channels
    if count == 0:
        mean = var = torch.zeros(num_channels, dtype=dtype, device=x.device)
    elif x.device.type == "cpu":  # three times as fast as var_mean there
        mean, var = torch.batch_norm_update_stats(x.to(dtype), None, None, 0.0)
    else:
        var, mean = torch.var_mean(x.to(dtype), [d for d in range(x.dim()) if d != 1], correction=0)
    if not _is_distributed():
        return mean, var, torch.full((), count, dtype=dtype, device=x.device)
    # One row a process (count, mean, var * count), filled by an all_reduce: every backend has that on every device.
    rows = torch.zeros(dist.get_world_size(), 2 * num_channels + 1, dtype=dtype, device=x.device)
    rows[dist.get_rank(), 0] = count
    rows[dist.get_rank(), 1:] = torch.cat([mean, var * count])
    dist.all_reduce(rows)
    counts, means, squares = rows.split([1, num_channels, num_channels], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total.clamp(min=1)
    squares = squares.sum(0) + (counts * (means - mean) ** 2).sum(0)
    return mean, squares / total.clamp(min=1), total


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _activate_(x: Tensor, slope: float) -> Tensor:
    return x if slope == 1 else F.leaky_relu_(x, slope)


def _forward(x, residual, weight, bias, mean, var, eps: float, slope: float) -> Tensor:
    y = F.batch_norm(x, mean, var, weight.abs() + eps, bias, False, 0.0, eps)
    return _activate_(y if residual is None else y.add_(residual), slope)


class _InPlaceABN(torch.autograd.Function):
    """The layer with given statistics; `count` None says that they do not depend on `x` (evaluation)."""

    @staticmethod
    def forward(ctx, x, residual, weight, bias, mean, var, count, eps, slope):
        y = _forward(x, residual, weight, bias, mean, var, eps, slope)
        ctx.save_for_backward(y, residual, weight, bias, torch.rsqrt(var + eps), count)
        ctx.eps, ctx.slope = eps, slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        y, residual, weight, bias, inv_std, count = ctx.saved_tensors
        per_channel = [1, -1] + [1] * (y.dim() - 2)
        over = [d for d in range(y.dim()) if d != 1]
        scale = weight.abs() + ctx.eps
        # The normalised input, times `scale`: from the output, through the activation, the sum and the affine.
        centred = (y.clone() if ctx.slope == 1 else F.leaky_relu(y, 1 / ctx.slope)).to(inv_std.dtype)
        if residual is not None:
            centred.sub_(residual)
        centred.sub_(bias.view(per_channel))
        grad_z = grad_y
        if ctx.slope != 1:
            grad_z = torch.ops.aten.leaky_relu_backward(grad_y, y, ctx.slope, True)

        sums = torch.stack([grad_z.sum(over, dtype=inv_std.dtype), (grad_z * centred).sum(over)])
        grad_bias, grad_weight = sums[0], sums[1] * weight.sign() / scale  # of this process, as all parameters'
        grad_x = None
        if ctx.needs_input_grad[0]:
            factor = scale * inv_std
            grad_x = grad_z * factor.view(per_channel)
            if count is not None:
                if _is_distributed():
                    sums = sums.clone()
                    dist.all_reduce(sums)
                mean_grad, mean_product = sums / count.clamp(min=1)
                centred.mul_((inv_std * mean_product / scale).view(per_channel))
                grad_x = grad_x.sub_(centred).sub_((factor * mean_grad).view(per_channel))
            grad_x = grad_x.to(y.dtype)
        return grad_x, grad_z if residual is not None else None, grad_weight, grad_bias, None, None, None, None, None


class InPlaceABN(nn.BatchNorm1d):
    """The layer `in_place_abn` with its parameters `weight`, `bias` and buffers `running_mean`, `running_var`.

    It takes inputs of any shape (N, C, ...). The state dict is that of the published layer: no `num_batches_tracked`
    (that of a plain batch norm is accepted and dropped).

    It is a subclass of BatchNorm1d, although it is for any dimension, for what detectron2 does by type:
    SOLVER.WEIGHT_DECAY_NORM and the PreciseBN hook treat it as a norm, while `freeze`, which rewrites every BatchNorm2d
    as a FrozenBatchNorm2d, leaves it. That would lose the activation, and the Seamless networks go on updating the
    statistics of frozen layers.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        activation: str = "leaky_relu",
        slope: float = 0.01,
    ):
        """
        Args:
            num_features: C.
            eps: added to the variance and to |weight|.
            momentum: weight of the new batch in the running statistics.
            activation: "leaky_relu" or "identity".
            slope: of LeakyReLU for negative values.

        Raises:
            ValueError: another activation, or a slope that cannot be inverted.
        """
        super().__init__(num_features, eps=eps, momentum=momentum)
        if activation not in ("leaky_relu", "identity"):
            raise ValueError(f"InPlaceABN: activation is {activation!r}; it must be 'leaky_relu' or 'identity'")
        if slope <= 0:
            raise ValueError(f"InPlaceABN: slope is {slope}; it must be > 0 so that the activation can be inverted")
        self.activation = activation
        self.slope = slope
        self.num_batches_tracked = None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """See `in_place_abn`."""
        return in_place_abn(
            x,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            residual,
            training=self.training,
            momentum=self.momentum,
            eps=self.eps,
            slope=self.slope if self.activation == "leaky_relu" else 1.0,
        )

    def reset_running_stats(self) -> None:
        """What `reset_parameters` of torch's batch norms calls; here there is no `num_batches_tracked` to reset."""
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, activation={self.activation}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "num_batches_tracked", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)
