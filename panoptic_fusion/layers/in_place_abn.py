"""In-place activated batch normalization: batch norm and LeakyReLU in a layer that keeps only its output for backward.

References: Rota Bulò et al., "In-Place Activated BatchNorm for Memory-Optimized Training of DNNs"; Seamless, section
3.1.

    z = (x - mean) / sqrt(var + eps) * (|weight| + eps) + bias        y = leaky_relu(z [+ residual])

LeakyReLU and the affine transform can be inverted, so the backward pass computes the normalized input from y and does
not need x. The layer is pure PyTorch for CPU and CUDA. With torch.distributed, statistics are computed over all
processes.

Shapes: N is the batch size, C the number of channels, "..." any number of further dimensions (none after a linear
layer).
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
    """Applies batch norm, adds `residual` and applies LeakyReLU.

    During training, mean and variance are computed from `x` over all processes of the default process group. Each
    process is weighted by its number of elements, which may be 0 (N = 0). Every process must call this function and run
    backward through the result, so each process must include it in its loss, if only as `0 * y.sum()`.

    "In place" refers to the memory kept for the backward pass: `x` is not kept, so it is freed once the caller releases
    it. `x` itself is not overwritten, so it may be used elsewhere. The result must not be modified in place before the
    backward pass (autograd raises an error).

    Deviation from plain batch norm: a batch with one element per channel is normalized to zero instead of raising an
    error, because an image may have a single RoI.

    Args:
        x: (N, C, ...) float.
        weight, bias: (C,) float. The scale is |weight| + eps.
        running_mean, running_var: (C,) float, updated during training as in torch.nn.BatchNorm2d (unbiased variance).
        residual: tensor of the same shape as `x`, added before the activation. It is also kept for the backward pass.
        slope: slope of LeakyReLU for negative values, > 0. 1.0 means no activation.

    Returns:
        Tensor of the same shape and dtype as `x`.
    """
    if residual is not None and x.dtype in (torch.float16, torch.bfloat16):
        # y - residual would lose the few digits of these types, so the two parts of the sum are kept separate.
        y = in_place_abn(
            x, weight, bias, running_mean, running_var, training=training, momentum=momentum, eps=eps, slope=1.0
        )
        return _activate_(y + residual, slope)
    settings = training, momentum, eps
    if not torch.is_grad_enabled():
        return _forward(x, residual, weight, bias, running_mean, running_var, settings, slope)[0]
    return _InPlaceABN.apply(x, residual, weight, bias, running_mean, running_var, settings, slope)


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes per-channel statistics of `x` (N, C, ...) over all processes.

    Returns:
        mean (C,), biased variance (C,) and number of elements per channel (scalar tensor), in float32 (float64 for
        float64 input). All are zero if no process has an element.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    num_channels = x.shape[1]
    count = x.numel() // num_channels
    if count == 0:
        mean = var = torch.zeros(num_channels, dtype=dtype, device=x.device)
    elif x.device.type == "cpu":  # three times as fast as var_mean on the CPU
        mean, var = torch.batch_norm_update_stats(x.to(dtype), None, None, 0.0)
    else:
        var, mean = torch.var_mean(x.to(dtype), [d for d in range(x.dim()) if d != 1], correction=0)
    if not _is_distributed():
        return mean, var, torch.full((), count, dtype=dtype, device=x.device)
    # One row (count, mean, var * count) per process, filled by all_reduce, which every backend has on every device.
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


def _per_channel(x: Tensor) -> list[int]:
    """Returns the shape of a tensor (C,) that is broadcast over `x`."""
    return [1, -1] + [1] * (x.dim() - 2)


def _activate_(x: Tensor, slope: float) -> Tensor:
    return x if slope == 1 else F.leaky_relu_(x, slope)


def _forward(x, residual, weight, bias, running_mean, running_var, settings, slope: float):
    """Returns the layer's output, and for the backward pass what `_normalize` returns."""
    y, inv_std, count = _normalize(x, weight.abs() + settings[-1], bias, running_mean, running_var, *settings)
    return _activate_(y if residual is None else y.add_(residual), slope), inv_std, count


def _normalize(
    x: Tensor, scale: Tensor, bias: Tensor, running_mean: Tensor, running_var: Tensor, training, momentum, eps
) -> tuple[Tensor, Tensor, Tensor | int | None]:
    """Applies batch norm, and updates the running statistics during training.

    Returns:
        The result, 1 / sqrt(var + eps) (C,), and the number of elements per channel, over all processes. The number is
        None if mean and variance do not depend on `x` (evaluation).
    """
    num = x.numel() // x.shape[1]
    if training and num > 1 and not _is_distributed():
        y, _, inv_std = torch.native_batch_norm(x, scale, bias, running_mean, running_var, True, momentum, eps)
        return y, inv_std, num
    mean, var, count = running_mean, running_var, None
    if training:
        mean, var, count = batch_statistics(x)
        rate = momentum * count.clamp(max=1)  # without elements, the running statistics do not change
        running_mean.lerp_(mean.to(running_mean.dtype), rate.to(running_mean.dtype))
        unbiased = var * (count / (count - 1).clamp(min=1))
        running_var.lerp_(unbiased.to(running_var.dtype), rate.to(running_var.dtype))
        if num == 1:  # the kernel would subtract two products of size 1 / sqrt(eps), and leave their rounding
            x, mean = (x - mean.view(_per_channel(x))).to(x.dtype), torch.zeros_like(mean)
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, eps), torch.rsqrt(var + eps), count


class _InPlaceABN(torch.autograd.Function):
    """Layer with its own backward pass. `settings` is (training, momentum, eps)."""

    @staticmethod
    def forward(ctx, x, residual, weight, bias, running_mean, running_var, settings, slope):
        y, inv_std, ctx.count = _forward(x, residual, weight, bias, running_mean, running_var, settings, slope)
        ctx.save_for_backward(y, residual, weight, bias, inv_std)
        ctx.eps, ctx.slope = settings[-1], slope
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        y, residual, weight, bias, inv_std = ctx.saved_tensors
        z, grad_z = y, grad_y
        if ctx.slope != 1:
            z = F.leaky_relu(y, 1 / ctx.slope)
            grad_z = torch.ops.aten.leaky_relu_backward(grad_y, y, ctx.slope, True)
        if residual is not None:
            z = z - residual if z is y else z.sub_(residual)
        scale, bias = (weight.abs() + ctx.eps).to(inv_std.dtype), bias.to(inv_std.dtype)
        grad_x, grad_scale, grad_bias = _backward(
            grad_z, z, scale, bias, inv_std, ctx.count, needs_x=ctx.needs_input_grad[0]
        )
        grad_residual = None if residual is None else grad_z
        return grad_x, grad_residual, grad_scale * weight.sign(), grad_bias, None, None, None, None


def _backward(
    grad_z: Tensor,
    z: Tensor,
    scale: Tensor,
    bias: Tensor,
    inv_std: Tensor,
    count: Tensor | int | None,
    *,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Computes the gradients of z = (x - mean) * inv_std * scale + bias without x.

    The normalized input is (z - bias) / scale. torch's kernel for the backward pass of batch norm computes it if it
    receives `z` as input, `bias` as mean and `scale` as standard deviation. Its weight makes up for the different
    standard deviation.

    Args:
        count: see `_normalize`.
        needs_x: whether the gradient of x is needed.

    Returns:
        Gradients of x (or None), of the scale, and of the bias. The last two are of this process, as for all
        parameters.
    """
    is_local = count is not None and not _is_distributed()
    grad_x, grad_scale, grad_bias = None, torch.zeros_like(scale), torch.zeros_like(scale)
    if z.numel():  # the kernel divides by the number of elements, as integers
        needed = [needs_x and is_local, True, True]
        grad_x, grad_scale, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad_z, z, scale.square() * inv_std, None, None, bias, 1 / scale, True, 0.0, needed
        )
    if is_local and z.numel() == len(scale):
        grad_x = torch.zeros_like(z)  # a single element does not change the result, whatever rounding makes of it
    if not needs_x or grad_x is not None:
        return grad_x, grad_scale, grad_bias
    per_channel = _per_channel(z)
    factor = scale * inv_std
    grad_x = grad_z * factor.view(per_channel)
    if count is not None:
        sums = torch.stack([grad_scale, grad_bias])
        if _is_distributed():
            dist.all_reduce(sums)
        mean_scale, mean_bias = sums / count.clamp(min=1)
        grad_x.sub_((z - bias.view(per_channel)).mul_((inv_std * mean_scale).view(per_channel)))
        grad_x.sub_((factor * mean_bias).view(per_channel))
    return grad_x.to(z.dtype), grad_scale, grad_bias


class InPlaceABN(nn.BatchNorm1d):
    """Layer of `in_place_abn` with parameters `weight` and `bias`, and buffers `running_mean` and `running_var`.

    It accepts inputs of any shape (N, C, ...). The state dict has the same keys as in the published code: it has no
    `num_batches_tracked`, and drops it when loading a plain batch norm.

    It is a subclass of BatchNorm1d, although it accepts any number of dimensions, because detectron2 recognizes norms
    by their type. SOLVER.WEIGHT_DECAY_NORM and the PreciseBN hook treat it as a norm. detectron2's `freeze`, which
    replaces every BatchNorm2d by a FrozenBatchNorm2d, leaves it unchanged. A replacement would lose the activation, and
    the Seamless networks continue to update the statistics of frozen layers.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        activation: str = "leaky_relu",
        slope: float = 0.01,
    ):
        """Builds the layer.

        Args:
            num_features: number of channels C.
            eps: number added to the variance and to |weight|.
            momentum: weight of the new batch in the running statistics.
            activation: "leaky_relu" or "identity".
            slope: slope of LeakyReLU for negative values.

        Raises:
            ValueError: if the activation is not supported, or if the slope cannot be inverted.
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
        """Applies the layer to `x` (N, C, ...), see `in_place_abn`."""
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
        """Resets the running statistics. torch's version would also reset `num_batches_tracked`, which is None."""
        self.running_mean.zero_()
        self.running_var.fill_(1)

    def extra_repr(self) -> str:
        """Returns the settings that `repr` prints."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, activation={self.activation}"

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + "num_batches_tracked", None)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *args)
