"""In-place activated batch norm against torch's batch norm and LeakyReLU, in one process and in several."""

import pytest
import torch
import torch.multiprocessing as mp
from detectron2.config import get_cfg
from detectron2.layers import Conv2d, get_norm
from detectron2.solver import build_optimizer
from dispatch_counts import CountKernels
from torch import nn
from torch.nn import functional as F
from two_processes import run_in_two_processes

from panoptic_fusion.layers import InPlaceABN, freeze_norm_parameters, get_activated_norm, in_place_abn, resolve_norm
from panoptic_fusion.layers.activated_norm import ActivatedBatchNorm, ActivatedFrozenBatchNorm

EPS = 1e-5
SHAPES = [(4, 6, 5, 7), (9, 6), (3, 6, 11), (1, 6, 8, 8), (2, 6, 2, 3, 4)]


def make_layer(channels: int = 6, dtype=torch.float32, **kwargs) -> InPlaceABN:
    """A layer with scales of both signs in [0.3, 2] and running statistics that are not the defaults."""
    layer = InPlaceABN(channels, **kwargs).to(dtype)
    with torch.no_grad():
        layer.weight.uniform_(0.3, 2.0).mul_(torch.tensor([1.0, -1.0] * channels)[:channels])
        layer.bias.normal_()
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    return layer


def reference(layer: InPlaceABN, x, residual=None, slope=0.01):
    """torch's functions on copies of the layer's tensors: (y, weight, bias, running_mean, running_var)."""
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    y = F.batch_norm(x, mean, var, weight.abs() + EPS, bias, layer.training, 0.1, EPS)
    y = y if residual is None else y + residual
    return F.leaky_relu(y, slope), weight, bias, mean, var


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("activation", ["leaky_relu", "identity"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_batch_norm_and_leaky_relu(shape, activation, with_residual, training):
    torch.manual_seed(sum(shape))
    layer = make_layer(activation=activation).train(training)
    x = torch.randn(shape) * 2 + 1
    residual = torch.randn(shape) if with_residual else None
    xs = [x.clone().requires_grad_() for _ in range(2)]
    rs = [None if residual is None else residual.clone().requires_grad_() for _ in range(2)]
    slope = 0.01 if activation == "leaky_relu" else 1.0
    expected, weight, bias, mean, var = reference(layer, xs[0], rs[0], slope)
    y = layer(xs[1], rs[1])
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.running_mean, mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(layer.running_var, var, atol=1e-6, rtol=1e-6)
    grad = torch.randn(shape)
    expected.backward(grad)
    y.backward(grad)
    torch.testing.assert_close(xs[1].grad, xs[0].grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.weight.grad, weight.grad, atol=1e-5 * grad.numel() ** 0.5, rtol=1e-5)
    torch.testing.assert_close(layer.bias.grad, bias.grad, atol=1e-5, rtol=1e-5)
    if with_residual:
        torch.testing.assert_close(rs[1].grad, rs[0].grad, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # the path without autograd
        torch.testing.assert_close(layer.eval()(x, residual), reference(layer, x, residual, slope)[0])


def test_hand_computed():
    """Channel of the values 1, 3: mean 2, variance 1, unbiased 2; weight -2, bias 1."""
    layer = InPlaceABN(1, eps=1e-12)
    with torch.no_grad():
        layer.weight.fill_(-2)
        layer.bias.fill_(1)
    y = layer(torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(y, torch.tensor([[-0.01], [3.0]]))  # -1 -> -2 + 1 -> leaky; 1 -> 2 + 1
    assert layer.running_mean.item() == pytest.approx(0.2)
    assert layer.running_var.item() == pytest.approx(0.9 + 0.1 * 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("slope", [0.01, 0.3, 1.0])
def test_gradcheck(slope, with_residual, training):
    torch.manual_seed(0)
    layer = make_layer(3, torch.float64)
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True) if with_residual else None

    def function(x, weight, bias, residual):
        mean, var = layer.running_mean.clone(), layer.running_var.clone()
        return in_place_abn(x, weight, bias, mean, var, residual, training=training, slope=slope)

    assert torch.autograd.gradcheck(function, (x, layer.weight, layer.bias, residual))


def test_used_twice_and_shared_input():
    """One layer on several maps (an RPN head), and an input that something else reads, too."""
    torch.manual_seed(0)
    layer = make_layer()
    maps = [torch.randn(2, 6, s, s, requires_grad=True) for s in (8, 4)]
    copies = [m.detach().clone().requires_grad_() for m in maps]
    total = sum((layer(layer(m) * m) + m.sigmoid()).square().sum() for m in maps)
    weight = layer.weight.detach().clone().requires_grad_()
    bias = layer.bias.detach().clone().requires_grad_()

    def plain(x):
        return F.leaky_relu(F.batch_norm(x, None, None, weight.abs() + EPS, bias, True, 0.1, EPS), 0.01)

    expected = sum((plain(plain(m) * m) + m.sigmoid()).square().sum() for m in copies)
    total.backward()
    expected.backward()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-4)
    for a, b in [*zip(maps, copies, strict=True), (layer.weight, weight), (layer.bias, bias)]:
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_changing_the_result_in_place_is_an_error_not_a_wrong_gradient():
    layer = make_layer()
    y = layer(torch.randn(2, 6, 4, 4, requires_grad=True))
    y.add_(1)
    with pytest.raises(RuntimeError, match="inplace operation"):
        y.sum().backward()


def exact_gradients(x, residual, weight, bias, grad, slope):
    """Gradients by autograd of the formula written out, in float64: of x, of the residual, the weight and the bias."""
    leaves = [t.detach().double().requires_grad_() for t in (x, residual, weight, bias)]
    x, residual, weight, bias = leaves
    shape = [1, -1] + [1] * (x.dim() - 2)
    over = [d for d in range(x.dim()) if d != 1]
    mean = x.mean(over, keepdim=True)
    normalized = (x - mean) / ((x - mean).square().mean(over, keepdim=True) + EPS).sqrt()
    z = normalized * (weight.abs() + EPS).view(shape) + bias.view(shape) + residual
    torch.where(z > 0, z, slope * z).backward(grad.double())
    return [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("layout", ["contiguous", "channels last", "expanded gradient"])
@pytest.mark.parametrize("slope", [0.01, 1.0])
def test_gradients_equal_autograd_in_float64(slope, layout):
    """Scales from 1e-3 to 2 of both signs, means far from 0, 40 random sizes."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    for _ in range(40):
        channels = int(torch.randint(1, 9, (), generator=generator))
        shape = [int(torch.randint(low, 9, (), generator=generator)) for low in (1, 2, 2)]
        shape.insert(1, channels)
        weight = randn(channels).sign() * 10 ** (torch.rand(channels, generator=generator).double() * 3.3 - 3)
        bias, x, residual = randn(channels), randn(*shape) + 3 * randn(channels).view(1, -1, 1, 1), randn(*shape)
        grad = randn(*shape)
        if layout == "expanded gradient":
            grad = randn(1, channels, 1, 1).expand(*shape)
        if layout == "channels last":
            x, residual, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, residual, grad))
        expected = exact_gradients(x, residual, weight, bias, grad, slope)
        leaves = [t.detach().clone().requires_grad_() for t in (x, residual, weight, bias)]
        mean, var = torch.zeros(channels).double(), torch.ones(channels).double()
        x, residual, weight, bias = leaves
        in_place_abn(x, weight, bias, mean, var, residual, training=True, slope=slope).backward(grad)
        for leaf, gradient in zip(leaves, expected, strict=True):
            torch.testing.assert_close(leaf.grad, gradient, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("with_residual", [False, True])
def test_number_of_kernels(with_residual):
    """A layer and its backward pass: 40 and 42 with the formula in single operators; torch's BN has 6 and 8."""
    layer, x = make_layer(), torch.randn(2, 6, 4, 4, requires_grad=True)
    residual = torch.randn(2, 6, 4, 4, requires_grad=True) if with_residual else None
    with CountKernels() as counter:
        y = layer(x, residual)
        y.backward(torch.ones_like(y))
    assert 4 < counter.number <= 20


def test_single_and_no_element():
    layer = make_layer()
    x = torch.randn(1, 6, requires_grad=True)
    y = layer(x)
    torch.testing.assert_close(y, F.leaky_relu(layer.bias, 0.01)[None])
    y.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x)) and torch.isfinite(layer.running_var).all()
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    for shape in [(0, 6), (0, 6, 7, 7)]:
        x = torch.zeros(shape, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert y.shape == shape and x.grad.shape == shape
    assert torch.equal(layer.running_mean, mean) and torch.equal(layer.running_var, var)


def test_norms_of_every_name_are_frozen():
    norms = nn.ModuleList(get_norm(name, 32) for name in ("BN", "GN", "LN", "naiveSyncBN"))
    freeze_norm_parameters(norms)
    assert not any(parameter.requires_grad for parameter in norms.parameters())


def test_frozen_parameters_still_update_the_statistics():
    layer = make_layer()
    freeze_norm_parameters(nn.Sequential(layer))
    before = layer.running_mean.clone()
    x = torch.randn(4, 6, requires_grad=True)
    layer(x).square().sum().backward()
    assert layer.weight.grad is None and x.grad.abs().sum() > 0
    assert not torch.equal(layer.running_mean, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_under_a_large_residual(dtype):
    """A scale of 0.1 under a residual of size 10: the gradients stay those of float32 up to the type's precision."""
    torch.manual_seed(0)
    x, residual, grad = torch.randn(8, 4, 16, 16), 10 * torch.randn(8, 4, 16, 16), torch.randn(8, 4, 16, 16)
    results = []
    for kind in (torch.float32, dtype):
        layer = InPlaceABN(4)
        with torch.no_grad():
            layer.weight.fill_(0.1)
        inputs = x.to(kind, copy=True).requires_grad_(), residual.to(kind, copy=True).requires_grad_()
        y = layer(*inputs)
        assert y.dtype == kind and layer.running_mean.dtype == torch.float32
        y.backward(grad.to(kind))
        results.append([y, inputs[0].grad, inputs[1].grad, layer.weight.grad])
    for exact, low in zip(*results, strict=True):
        error = (low.float() - exact).norm() / exact.norm()
        assert error < 0.02


def test_autocast():
    torch.manual_seed(0)
    net = nn.Sequential(*[Conv2d(c, 8, 3, bias=False, norm=InPlaceABN(8)) for c in (3, 8)])
    x = torch.randn(2, 3, 16, 16)
    grads = []
    for enabled in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = net(x)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        y.float().square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert F.cosine_similarity(grads[0], grads[1], dim=0) > 0.99


def test_state_dict_and_errors():
    assert list(InPlaceABN(3).state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(2)
    layer = InPlaceABN(3)
    layer.load_state_dict(norm.state_dict())  # drops num_batches_tracked
    assert torch.equal(layer.running_mean, norm.running_mean)
    layer.load_state_dict(dict(InPlaceABN(3).state_dict()))  # without the metadata of a state dict's version
    layer.reset_parameters()  # as of any batch norm
    assert all(torch.equal(v, InPlaceABN(3).state_dict()[k]) for k, v in layer.state_dict().items())
    with pytest.raises(ValueError, match="activation"):
        InPlaceABN(3, activation="relu")
    with pytest.raises(ValueError, match="slope"):
        InPlaceABN(3, slope=0.0)
    with pytest.raises(ValueError, match="NORM"):
        get_activated_norm("BatchNorm", 3)


def test_detectron2_treats_it_as_a_norm():
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1, 0.0
    groups = build_optimizer(cfg, nn.Sequential(nn.Conv2d(3, 3, 1), InPlaceABN(3))).param_groups
    assert sorted((g["weight_decay"], len(g["params"])) for g in groups) == [(0.0, 2), (0.1, 2)]
    conv = Conv2d(3, 4, 1, norm=resolve_norm("InPlaceABN")(4), activation=F.relu)
    conv(torch.randn(2, 3, 4, 4)).sum().backward()
    assert resolve_norm("GN") == "GN"


def test_activated_norms():
    torch.manual_seed(0)
    x, residual = torch.randn(2, 32, 4, 4), torch.randn(2, 32, 4, 4)
    for activation, slope in (("leaky_relu", 0.01), ("identity", 1.0)):
        norm = get_activated_norm("GN", 32, activation)
        assert list(norm.state_dict()) == ["weight", "bias"]
        torch.testing.assert_close(norm(x, residual), F.leaky_relu(F.group_norm(x, 16) + residual, slope))
        batch = get_activated_norm("BN", 32, activation)
        assert isinstance(batch, ActivatedBatchNorm)
        torch.testing.assert_close(batch(x), F.leaky_relu(F.batch_norm(x, None, None, training=True), slope))
    frozen = get_activated_norm("FrozenBN", 32)
    assert isinstance(frozen, ActivatedFrozenBatchNorm) and not list(frozen.parameters())
    torch.testing.assert_close(frozen(x), F.leaky_relu(x, 0.01))
    assert get_activated_norm("GN", 32)(torch.zeros(0, 32, 14, 14)).shape == (0, 32, 14, 14)
    assert isinstance(get_activated_norm(nn.BatchNorm2d, 32), nn.BatchNorm2d)


def saved_bytes(net: nn.Module, x: torch.Tensor) -> int:
    """Bytes of the storages that forward keeps for backward, each once; the parameters' own do not count."""
    own = {t.untyped_storage().data_ptr() for t in [*net.parameters(), *net.buffers()]}
    storages = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = net(x)
        del y
    return sum(storages.values())


def test_keeps_only_its_output():
    """Ten convolutions: one map each with it, the convolution's and the norm's result without."""
    convs = [nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(10)]
    x = torch.randn(2, 16, 32, 32)
    map_bytes = x.numel() * 4
    counts = {}
    for norm in ("InPlaceABN", "BN"):
        layers = [m for conv in convs for m in (conv, get_activated_norm(norm, 16))]
        counts[norm] = saved_bytes(nn.Sequential(*layers), x)
    assert 11 * map_bytes <= counts["InPlaceABN"] < 11.1 * map_bytes  # ten results and the input
    assert 21 * map_bytes <= counts["BN"] < 21.1 * map_bytes


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", SHAPES)
def test_on_cuda_equals_cpu(shape):
    torch.manual_seed(0)
    layer, x, residual, grad = make_layer(), torch.randn(shape), torch.randn(shape), torch.randn(shape)
    results = []
    for device in ("cpu", "cuda"):
        copy = make_layer()
        copy.load_state_dict(layer.state_dict())
        copy.to(device)
        inputs = x.detach().to(device).requires_grad_(), residual.detach().to(device).requires_grad_()
        y = copy(*inputs)
        y.backward(grad.to(device))
        tensors = (y, inputs[0].grad, inputs[1].grad, copy.weight.grad, copy.bias.grad, *copy.buffers())
        results.append([t.detach().cpu() for t in tensors])
    for on_cpu, on_cuda in zip(*results, strict=True):
        torch.testing.assert_close(on_cuda, on_cpu, atol=1e-4, rtol=1e-4)


BATCHES = [(3, 1), (4, 0), (0, 2), (0, 0)]  # images of the two processes


def _run_rank(rank: int, results) -> None:
    for sizes in BATCHES:
        start = sum(sizes[:rank])
        results[sizes, rank] = _two_steps(sum(sizes), slice(start, start + sizes[rank]))


def _two_steps(num: int, part: slice) -> dict[str, torch.Tensor]:
    """Two forward and backward passes on `part` of a batch of `num`: the running statistics accumulate."""
    torch.manual_seed(0)
    layer = make_layer()
    x = torch.randn(num, 6, 3, 4) * 2 + 3 * torch.arange(num).view(-1, 1, 1, 1)
    x, residual, grad = x[part], torch.randn(num, 6, 3, 4)[part], torch.randn(num, 6, 3, 4)[part]
    for _ in range(2):
        x, residual = x.detach().clone().requires_grad_(), residual.detach().clone().requires_grad_()
        y = layer(x, residual)
        y.backward(grad)
    result = {"y": y.detach(), "x_grad": x.grad, "residual_grad": residual.grad}
    result |= {"weight_grad": layer.weight.grad, "bias_grad": layer.bias.grad}
    return result | {"running_mean": layer.running_mean, "running_var": layer.running_var}


@pytest.fixture(scope="module")
def results_of_two_processes():
    with mp.Manager() as manager:
        results = manager.dict()
        run_in_two_processes(_run_rank, results)
        yield dict(results)


@pytest.mark.parametrize("sizes", BATCHES)
def test_processes_together_equal_one_on_the_joined_batch(sizes, results_of_two_processes):
    parts = [results_of_two_processes[sizes, rank] for rank in range(2)]
    joined = _two_steps(sum(sizes), slice(None))
    for key in ("y", "x_grad", "residual_grad"):
        torch.testing.assert_close(torch.cat([p[key] for p in parts]), joined[key], atol=1e-5, rtol=1e-5)
    for key in ("weight_grad", "bias_grad"):  # of its own part each: DistributedDataParallel averages them
        torch.testing.assert_close(parts[0][key] + parts[1][key], joined[key], atol=1e-4, rtol=1e-5)
    for key in ("running_mean", "running_var"):
        for part in parts:
            torch.testing.assert_close(part[key], joined[key], atol=1e-5, rtol=1e-5)
