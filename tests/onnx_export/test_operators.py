"""Single layers against torch: deformable convolution, large-window pooling, in-place ABN, choice of a class."""

import io
import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from panoptic_fusion.layers import InPlaceABN, box_average, deform_conv2d
from panoptic_fusion.modeling.things.box_convention import clip_to_pixels
from panoptic_fusion.modeling.things.roi_heads import select_class
from panoptic_fusion.onnx_export.operators import OPSET, exporting, separate_half_norms
from panoptic_fusion.onnx_export.plain_norms import PlainABN, plain_norms


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def to_onnx(function, example: tuple, axes: dict[int, list[int]] | None = None) -> bytes:
    """A function of tensors as an ONNX model; `axes` are the dimensions of each input that vary."""
    names = [f"x{i}" for i in range(len(example))]
    dynamic = {names[i]: {d: f"x{i}_{d}" for d in dims} for i, dims in (axes or {}).items()}
    file = io.BytesIO()
    module = function if isinstance(function, nn.Module) else Calls(function)
    with exporting(), torch.no_grad():
        torch.onnx.export(
            module.eval(), example, file, dynamo=False, opset_version=OPSET, input_names=names, dynamic_axes=dynamic
        )
    return file.getvalue()


def run(model: bytes, *inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {x.name: y.numpy() for x, y in zip(session.get_inputs(), inputs, strict=True)})


@pytest.mark.parametrize("kernel, stride, padding, dilation", [(3, 1, 1, 1), (3, 2, 1, 1), (3, 1, 2, 2), (1, 1, 0, 1)])
def test_deform_conv(kernel, stride, padding, dilation, one_thread):
    torch.manual_seed(kernel + stride + dilation)
    weight, bias = torch.randn(5, 3, kernel, kernel), torch.randn(5)
    settings = {"stride": stride, "padding": padding, "dilation": dilation}

    def example(batch, height, width):
        sizes = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (height, width))
        offset = torch.randn(batch, 2 * kernel**2, *sizes) * 3
        offset.view(-1)[::7] = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e9]).repeat(
            -(-offset.numel() // 28)
        )[: -(-offset.numel() // 7)]
        return torch.randn(batch, 3, height, width), offset

    model = to_onnx(
        lambda x, offset: deform_conv2d(x, offset, weight, bias, **settings),
        example(2, 9, 11),
        {0: [0, 2, 3], 1: [0, 2, 3]},
    )
    assert [n.op_type for n in onnx.load_from_string(model).graph.node].count("DeformConv") == 1
    for size in [(2, 9, 11), (1, 6, 7), (3, 14, 10)]:
        x, offset = example(*size)
        expected = deform_conv2d(x, offset, weight, bias, **settings)
        assert np.abs(run(model, x, offset)[0] - expected.numpy()).max() < 1e-4


def test_box_average_at_sizes_below_and_above_the_window(one_thread):
    model = to_onnx(lambda x: box_average(x, 8), (torch.rand(1, 2, 5, 13),), {0: [2, 3]})
    for height, width in itertools.product((1, 3, 8, 9, 20), repeat=2):
        x = torch.rand(1, 2, height, width)
        assert np.abs(run(model, x)[0] - box_average(x, 8).numpy()).max() < 1e-5


@pytest.mark.parametrize("activation", ["leaky_relu", "identity"])
@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 4, 5)])
def test_plain_abn_equals_the_layer(activation, shape):
    torch.manual_seed(0)
    network = nn.Sequential(InPlaceABN(6, activation=activation, slope=0.2)).eval()
    norm = network[0]
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
        tensor.normal_()  # negative weights as well
    norm.running_var.uniform_(0.1, 2)
    x, residual = torch.randn(shape), torch.randn(shape)
    expected = norm(x.clone()), norm(x.clone(), residual)
    with plain_norms(network):
        assert type(network[0]) is PlainABN
        torch.testing.assert_close(network(x.clone()), expected[0])
        torch.testing.assert_close(network[0](x.clone(), residual), expected[1])
    assert network[0] is norm


def test_layers_come_back_after_an_error():
    network = nn.Sequential(nn.Sequential(InPlaceABN(4)), InPlaceABN(4))
    before = list(network.modules())
    with pytest.raises(ValueError), plain_norms(network):
        raise ValueError
    assert list(network.modules()) == before


def test_a_half_precision_linear_layer_with_a_norm_can_be_loaded():
    network = nn.Sequential(nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6)).eval()
    network[1].running_mean.normal_()
    with torch.autocast("cpu", dtype=torch.float16, cache_enabled=False):
        model = onnx.load_from_string(to_onnx(network, (torch.rand(3, 4),)))
    changed = separate_half_norms(onnx.ModelProto.FromString(model.SerializeToString()))
    onnx.checker.check_model(changed, full_check=True)
    x = torch.rand(3, 4)
    with torch.no_grad():
        assert np.abs(run(changed.SerializeToString(), x)[0] - network(x).numpy()).max() < 1e-2


@pytest.mark.parametrize("channels", [1, 4])
def test_the_class_of_any_number_of_regions_is_chosen(channels):
    def choose(logits, classes):
        return select_class(logits, [classes])[0]

    example = torch.rand(7, channels, 3, 3), torch.randint(4, (7,))
    model = to_onnx(choose, example, {0: [0], 1: [0]})
    for count in (0, 1, 12):
        logits, classes = torch.rand(count, channels, 3, 3), torch.randint(4, (count,))
        expected = [logits[i, classes[i] if channels > 1 else 0].numpy() for i in range(count)]
        found = run(model, logits, classes)[0]
        assert found.shape == (count, 3, 3)
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


def test_inclusive_boxes_are_clipped_to_the_size_of_each_image():
    def clip(boxes, image):
        return clip_to_pixels(boxes, image.shape[-2:])

    model = to_onnx(clip, (torch.rand(5, 4) * 9, torch.zeros(1, 8, 6)), {0: [0], 1: [1, 2]})
    for height, width in [(8, 6), (3, 20), (50, 4)]:
        boxes = torch.randn(30, 4) * 40
        image = torch.zeros(1, height, width)
        found = run(model, boxes, image)[0]
        for box, own in zip(boxes.tolist(), found.tolist(), strict=True):
            limits = ((0, width - 1), (0, height - 1), (1, width), (1, height))
            assert own == pytest.approx([min(max(v, low), high) for v, (low, high) in zip(box, limits, strict=True)])
