"""Average pooling with a large fixed window at stride 1, at a cost that does not depend on the window.

It is the third branch of MiniDL (Seamless, section 3.3).
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .tracing import at_most


def box_average(x: Tensor, kernel_size: int = 64) -> Tensor:
    """Averages over windows of kernel_size x kernel_size, then replicates the border to the input's size.

    If a map is smaller than the window in one dimension, the average covers all of that dimension. Windows never extend
    past the border. A pixel without a window gets the result of the nearest window (no zero padding). Equal to
    `F.pad(F.avg_pool2d(x, (kh, kw), stride=1), (left, right, top, bottom), mode="replicate")` with kh =
    min(kernel_size, H), left = (kw - 1) // 2, right = kw - 1 - left, and so on. It takes O(H * W) by running sums in
    float32 or float64.

    Args:
        x: (N, C, H, W) float.
        kernel_size: side of the window in pixels, >= 1.

    Returns:
        Tensor of the same shape and dtype as `x`. No tensor is kept for the backward pass.

    Raises:
        ValueError: if kernel_size < 1, or if the map is empty.
    """
    if kernel_size < 1:
        raise ValueError(f"box_average: kernel_size is {kernel_size}; it must be at least 1")
    if x.dim() != 4 or 0 in x.shape[-2:]:
        raise ValueError(f"box_average: the input has shape {tuple(x.shape)}; it must be (N, C, H, W) with H, W > 0")
    return _BoxAverage.apply(x, kernel_size)


class _BoxAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel_size):
        kh, kw = (at_most(length, kernel_size) for length in x.shape[-2:])
        ctx.kernel = kh, kw
        y = x.to(torch.promote_types(x.dtype, torch.float32))
        y = _window_sum(_window_sum(y, -1, kw), -2, kh).div_(kh * kw)
        return F.pad(y, (*_border(kw), *_border(kh)), mode="replicate").to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        kh, kw = ctx.kernel
        g = grad.to(torch.promote_types(grad.dtype, torch.float32))
        g = _fold_border(_fold_border(g, -1, kw), -2, kh)
        # The gradient of a pixel is the sum over its k windows: window sums of the zero-padded gradient.
        g = _window_sum(F.pad(g, (kw - 1, kw - 1)), -1, kw)
        g = _window_sum(F.pad(g, (0, 0, kh - 1, kh - 1)), -2, kh)
        return g.div_(kh * kw).to(grad.dtype), None


def _border(k: int) -> tuple[int, int]:
    """Returns the number of positions before the first and after the last window's center."""
    return (k - 1) // 2, k - 1 - (k - 1) // 2


def _window_sum(x: Tensor, dim: int, k: int) -> Tensor:
    """Returns the sums of all windows of `k` positions along `dim`. Length n becomes n - k + 1."""
    sums, length = x.cumsum(dim), x.shape[dim]
    first, ends, starts = (_part(sums, dim, *ends) for ends in ((k - 1, k), (k, length), (0, length - k)))
    return torch.cat([first, ends - starts], dim)


def _part(x: Tensor, dim: int, start: int, stop: int) -> Tensor:
    """Returns x[start:stop] along dimension -1 or -2. Tracing records slices of any length, but not `narrow`."""
    return x[..., start:stop] if dim == -1 else x[..., start:stop, :]


def _fold_border(grad: Tensor, dim: int, k: int) -> Tensor:
    """Computes the adjoint of the replication along `dim`: adds the border's gradient to the first and last window."""
    before, behind = _border(k)
    num = grad.shape[dim] - before - behind
    out = grad.narrow(dim, before, num).clone()
    out.narrow(dim, 0, 1).add_(grad.narrow(dim, 0, before).sum(dim, keepdim=True))
    out.narrow(dim, num - 1, 1).add_(grad.narrow(dim, before + num, behind).sum(dim, keepdim=True))
    return out
