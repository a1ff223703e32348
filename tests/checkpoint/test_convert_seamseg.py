"""The converter of published Seamless checkpoints: a random one in their layout, read back, and our modules against a
plain-PyTorch network that uses the published names and conventions."""

import math
import re

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from torch.nn import functional as F

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.convert_seamseg import convert_seamseg, describe
from panoptic_fusion.checkpoint.published import DEPTHS
from panoptic_fusion.data.datasets import BUILTIN
from panoptic_fusion.errors import UserError

GROUP_NORM = ["MODEL.RPN.NORM", "GN", "MODEL.ROI_BOX_HEAD.NORM", "GN", "MODEL.ROI_MASK_HEAD.NORM", "GN"]


def published_shapes(stuff=28, things=37, extra=2, anchors=5, group_norm=False, res4_blocks=6):
    """{part: {name: shape}} of a published checkpoint, written down from its list of keys."""

    def bn(name, channels, gn=False):
        kinds = ("weight", "bias") if gn else ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{kind}": (channels,) for kind in kinds}

    body = {"backbone.mod1.conv1.weight": (64, 3, 7, 7), **bn("backbone.mod1.bn1", 64)}
    before = 64
    for mod, blocks, inner in ((2, 3, 64), (3, 4, 128), (4, res4_blocks, 256), (5, 3, 512)):
        for b in range(1, blocks + 1):
            p = f"backbone.mod{mod}.block{b}"
            body[f"{p}.convs.conv1.weight"] = (inner, before, 1, 1)
            body[f"{p}.convs.conv2.weight"] = (inner, inner, 3, 3)
            body[f"{p}.convs.conv3.weight"] = (4 * inner, inner, 1, 1)
            body |= bn(f"{p}.convs.bn1", inner) | bn(f"{p}.convs.bn2", inner) | bn(f"{p}.convs.bn3", 4 * inner)
            if b == 1:
                body[f"{p}.proj_conv.weight"] = (4 * inner, before, 1, 1)
                body |= bn(f"{p}.proj_bn", 4 * inner)
            before = 4 * inner
    for i, channels in enumerate((256, 512, 1024, 2048)):
        body[f"fpn.lateral.{i}.conv.weight"] = (256, channels, 1, 1)
        body[f"fpn.output.{i}.conv.weight"] = (256, 256, 3, 3)
        body |= bn(f"fpn.lateral.{i}.bn", 256) | bn(f"fpn.output.{i}.bn", 256)
    for i in range(extra):
        body[f"fpn.extra.{i}.conv.weight"] = (256, 2048 if i == 0 else 256, 3, 3)
        body |= bn(f"fpn.extra.{i}.bn", 256)

    rpn = {"conv1.weight": (256, 256, 3, 3), **bn("bn1", 256, group_norm)}
    rpn |= {"conv_obj.weight": (anchors, 256, 1, 1), "conv_obj.bias": (anchors,)}
    rpn |= {"conv_bbx.weight": (4 * anchors, 256, 1, 1), "conv_bbx.bias": (4 * anchors,)}

    roi = {"fc.fc1.weight": (1024, 12544), "fc.fc2.weight": (1024, 1024)}
    roi |= bn("fc.bn1", 1024, group_norm) | bn("fc.bn2", 1024, group_norm)
    roi |= {"roi_cls.weight": (things + 1, 1024), "roi_cls.bias": (things + 1,)}
    roi |= {"roi_bbx.weight": (4 * things, 1024), "roi_bbx.bias": (4 * things,)}
    for i in (1, 2, 3, 4):
        roi[f"conv.conv{i}.weight"] = (256, 256, 3, 3)
        roi |= bn(f"conv.bn{i}", 256, group_norm)
    roi["conv.conv_up.weight"] = (256, 256, 2, 2)
    roi |= bn("conv.bn_up", 256, group_norm)
    roi |= {"roi_msk.weight": (things, 256, 1, 1), "roi_msk.bias": (things,)}

    sem = {"conv_sem.weight": (stuff + things, 512, 1, 1), "conv_sem.bias": (stuff + things,)}
    for i in range(4):
        sem[f"output.{i}.conv1_3x3.weight"] = sem[f"output.{i}.conv1_dil.weight"] = (128, 256, 3, 3)
        sem[f"output.{i}.conv1_glb.weight"] = (128, 256, 1, 1)
        sem[f"output.{i}.conv2.weight"] = (128, 384, 1, 1)
        sem |= bn(f"output.{i}.bn1", 384) | bn(f"output.{i}.bn2", 128)
    return {"body": body, "rpn_head": rpn, "roi_head": roi, "sem_head": sem}


def random_tensor(name, shape):
    """Activations of the order of 1; norms of both signs."""
    if name.endswith("running_var"):
        return torch.rand(shape) + 0.5
    if len(shape) == 1:
        values = 0.3 * torch.randn(shape)
        return values + values.sign() * 0.7 if re.search(r"bn\w*\.weight$", name) else values
    return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))


def save(path, states):
    """The file as the published code saves it, with the parts that the network has no use for."""
    states = {**states, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}, "loss_meter": {"sum": torch.ones(1)}}
    settings = "[general]\nepochs = 3\n[rpn]\nanchor_scale = 8\n"
    torch.save({"config": settings, "state_dict": states, "training_meta": {"epoch": 3}}, path)
    return path


def cheap_states(**layout):
    """The layout with tensors of one number, expanded: files of some kilobytes."""
    shapes = published_shapes(**layout)
    return {part: {n: torch.zeros(1).expand(s) for n, s in names.items()} for part, names in shapes.items()}


def build(name, *opts, device="meta"):
    cfg = get_cfg()
    cfg.merge_from_file(config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", device, *opts])
    with torch.device(device):
        return build_model(cfg).eval()


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    shapes = published_shapes()
    return {part: {n: random_tensor(n, s) for n, s in names.items()} for part, names in shapes.items()}


@pytest.fixture(scope="module")
def model(published, tmp_path_factory):
    """The Vistas network with the converted weights, loaded as evaluation does it: nothing may be missing."""
    folder = tmp_path_factory.mktemp("seamseg")
    tensors, layout, _ = convert_seamseg(save(folder / "in.tar", published))
    assert (layout.depth, layout.num_things, layout.num_stuff, layout.group_norm) == (50, 37, 28, False)
    assert sum(v.numel() for k, v in tensors.items() if "running" not in k) == 52_206_969
    torch.save({"model": tensors}, folder / "out.pth")
    model = build("vistas/seamless_r50.yaml", device="cpu")
    keys = model.load_state_dict(tensors, strict=False)
    assert keys.missing_keys == [] and keys.unexpected_keys == []
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    incompatible = AtomicCheckpointer(model, require_complete=True).load(str(folder / "out.pth"))
    assert isinstance(incompatible, dict)
    (folder / "in.tar").unlink()
    (folder / "out.pth").unlink()
    return model


@pytest.mark.parametrize(
    "name, opts, layout, count",
    [
        ("vistas/seamless_r50.yaml", [], {}, 415),
        ("cityscapes/seamless_r50.yaml", [], {"stuff": 11, "things": 8, "extra": 1, "anchors": 3}, 410),
        ("vistas/seamless_r50.yaml", GROUP_NORM, {"group_norm": True}, 399),
        (
            "cityscapes/seamless_r101.yaml",
            [],
            {"stuff": 11, "things": 8, "extra": 1, "anchors": 3, "res4_blocks": 23},
            410 + 17 * 3 * 5,
        ),
    ],
)
def test_every_layout_converts_to_exactly_our_tensors(name, opts, layout, count, tmp_path):
    tensors, found, _ = convert_seamseg(save(tmp_path / "in.tar", cheap_states(**layout)))
    ours = build(name, *opts).state_dict()
    assert len(tensors) == count
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in ours.items()}
    # and the printed config is of that network
    text = describe(found).replace('"configs/', f'"{config_file(name).rpartition("/")[0]}/../')
    (tmp_path / "config.yaml").write_text(text)
    assert yaml.safe_load(text)["MODEL"]["RPN"]["NORM"] == ("GN" if opts else "InPlaceABN")
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    expected = get_cfg()
    expected.merge_from_file(config_file(name))
    expected.merge_from_list(opts)
    expected.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS
    assert cfg.MODEL == expected.MODEL and cfg.INPUT == expected.INPUT and cfg.DATASETS == expected.DATASETS


def abn(x, params, name, slope=0.01):
    """gamma = |weight| + eps; LeakyReLU .01."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    mean, var = params[f"{name}.running_mean"].view(shape), params[f"{name}.running_var"].view(shape)
    y = (x - mean) / (var + 1e-5).sqrt() * (params[f"{name}.weight"].abs() + 1e-5).view(shape)
    y = y + params[f"{name}.bias"].view(shape)
    return torch.where(y > 0, y, slope * y)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_half_of_the_random_norm_weights_are_negative(published):
    weights = torch.cat([v for names in published.values() for n, v in names.items() if "bn" in n and "weight" in n])
    assert 0.4 < (weights < 0).float().mean() < 0.6


def test_stem_and_stage_equal_plain_pytorch(published, model):
    torch.manual_seed(1)
    p = published["body"]
    x = torch.randn(1, 3, 64, 96)
    y = abn(F.conv2d(x, p["backbone.mod1.conv1.weight"], stride=2, padding=3), p, "backbone.mod1.bn1")
    y = F.max_pool2d(y, 3, stride=2, padding=1)
    net = model.backbone.bottom_up
    with torch.no_grad():
        close(net.stem(x), y)
        for mod, stride in ((2, 1), (3, 2)):  # one stage without and one with stride
            result = getattr(net, f"res{mod}")(y)
            for block in range(1, 4 if mod == 2 else 5):
                name, step = f"backbone.mod{mod}.block{block}", stride if block == 1 else 1
                z = abn(F.conv2d(y, p[f"{name}.convs.conv1.weight"]), p, f"{name}.convs.bn1")
                z = F.conv2d(z, p[f"{name}.convs.conv2.weight"], stride=step, padding=1)
                z = F.conv2d(abn(z, p, f"{name}.convs.bn2"), p[f"{name}.convs.conv3.weight"])
                z = abn(z, p, f"{name}.convs.bn3", slope=1)
                if block == 1:
                    y = F.conv2d(y, p[f"{name}.proj_conv.weight"], stride=step)
                    y = abn(y, p, f"{name}.proj_bn", slope=1)
                y = F.leaky_relu(y + z, 0.01)
            close(result, y)
            y = y / y.std()


class Given(torch.nn.Module):
    """Returns the same features for any image."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, image):
        return self.features


def test_pyramid_equals_plain_pytorch(published, model):
    torch.manual_seed(2)
    p = published["body"]
    features = [torch.randn(1, 256 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]
    net = model.backbone
    given = dict(zip(("res2", "res3", "res4", "res5"), features, strict=True))
    bottom_up = net.bottom_up
    net.bottom_up = Given(given)
    with torch.no_grad():
        found = net(torch.zeros(1))
    net.bottom_up = bottom_up
    above, expected = None, {}
    for i in (3, 2, 1, 0):
        y = abn(F.conv2d(features[i], p[f"fpn.lateral.{i}.conv.weight"]), p, f"fpn.lateral.{i}.bn")
        above = y if above is None else y + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        y = F.conv2d(above, p[f"fpn.output.{i}.conv.weight"], padding=1)
        expected[f"p{i + 2}"] = abn(y, p, f"fpn.output.{i}.bn")
    y = features[3]
    for i in range(2):
        y = F.conv2d(y, p[f"fpn.extra.{i}.conv.weight"], stride=2, padding=1)
        y = expected[f"p{i + 6}"] = abn(y, p, f"fpn.extra.{i}.bn")
    assert set(found) == set(expected)
    for name, y in expected.items():
        close(found[name], y)


def test_rpn_head_and_decoded_boxes_equal_plain_pytorch(published, model):
    """Published deltas are (dy, dx, dh, dw) in channels a * 4 + k, boxes (y0, x0, y1, x1)."""
    torch.manual_seed(3)
    p, rpn = published["rpn_head"], model.proposal_generator
    x = torch.randn(1, 256, 4, 6)
    y = abn(F.conv2d(x, p["conv1.weight"], padding=1), p, "bn1")
    objectness = F.conv2d(y, p["conv_obj.weight"], p["conv_obj.bias"])
    deltas = F.conv2d(y, p["conv_bbx.weight"], p["conv_bbx.bias"])
    with torch.no_grad():
        (found,), (ours,) = rpn.rpn_head([x])
    close(found, objectness)
    levels = [torch.zeros(1, 256, 4 if i == 1 else 1, 6 if i == 1 else 1) for i in range(6)]
    anchors, stride = rpn.anchor_generator(levels)[1], 8  # those of P3
    decoded = []
    for i in range(4):
        for j in range(6):
            for a, ratio in enumerate((0.2, 0.5, 1.0, 2.0, 5.0)):
                dy, dx, dh, dw = deltas[0, 4 * a : 4 * a + 4, i, j].tolist()
                h, w = stride * 2 * math.sqrt(ratio), stride * 2 / math.sqrt(ratio)
                cy, cx = (i + 0.5) * stride + dy * h, (j + 0.5) * stride + dx * w
                h, w = h * math.exp(min(dh, math.log(1000 / 16))), w * math.exp(min(dw, math.log(1000 / 16)))
                decoded.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    ours = ours.view(1, 5, 4, 4, 6).permute(0, 3, 4, 1, 2).reshape(1, -1, 4)
    boxes = rpn._decode_proposals([anchors], [ours])[0][0]
    torch.testing.assert_close(boxes, torch.tensor(decoded), atol=1e-3, rtol=1e-4)


def test_box_head_equals_plain_pytorch(published, model):
    """Background is row 0 there; deltas (dy, dx, dh, dw) of each class, divided by (10, 10, 5, 5)."""
    torch.manual_seed(4)
    p, heads = published["roi_head"], model.roi_heads
    x = torch.randn(6, 256, 14, 14)
    y = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(1)
    y = abn(y @ p["fc.fc1.weight"].T, p, "fc.bn1")
    y = abn(y @ p["fc.fc2.weight"].T, p, "fc.bn2")
    logits = y @ p["roi_cls.weight"].T + p["roi_cls.bias"]
    deltas = (y @ p["roi_bbx.weight"].T + p["roi_bbx.bias"]).view(6, 37, 4)
    corner = torch.rand(6, 2) * 50
    boxes = torch.cat([corner, corner + 5 + torch.rand(6, 2) * 40], 1)
    with torch.no_grad():
        scores, ours = heads.box_predictor(heads.box_head(x))
    close(scores[:, 37], logits[:, 0])
    close(scores[:, :37], logits[:, 1:])
    decoded = heads.box_predictor.box2box_transform.apply_deltas(ours, boxes).view(6, 37, 4)
    size = (boxes[:, 2:] - boxes[:, :2])[:, None]
    centre = (boxes[:, 2:] + boxes[:, :2])[:, None] / 2 + deltas[..., [1, 0]] / 10 * size
    half = size * (deltas[..., [3, 2]] / 5).clamp(max=math.log(1000 / 16)).exp() / 2
    torch.testing.assert_close(decoded, torch.cat([centre - half, centre + half], 2), atol=1e-3, rtol=1e-4)


def test_mask_head_equals_plain_pytorch(published, model):
    torch.manual_seed(5)
    p = published["roi_head"]
    x = y = torch.randn(2, 256, 14, 14)
    for i in (1, 2, 3, 4):
        y = abn(F.conv2d(y, p[f"conv.conv{i}.weight"], padding=1), p, f"conv.bn{i}")
    y = abn(F.conv_transpose2d(y, p["conv.conv_up.weight"], stride=2), p, "conv.bn_up")
    y = F.conv2d(y, p["roi_msk.weight"], p["roi_msk.bias"])
    with torch.no_grad():
        close(model.roi_heads.mask_head.layers(x), y)


def test_semantic_head_equals_plain_pytorch(published, model):
    torch.manual_seed(6)
    p = published["sem_head"]
    features = {f"p{i}": torch.randn(1, 256, 72 // 2 ** (i - 2), 80 // 2 ** (i - 2)) for i in (2, 3, 4, 5)}
    outputs = []
    for i, x in enumerate(features.values()):
        kh, kw = min(64, x.shape[2]), min(64, x.shape[3])
        pooled = F.avg_pool2d(x, (kh, kw), stride=1)
        top, left = (kh - 1) // 2, (kw - 1) // 2
        pooled = F.pad(pooled, (left, left + (kw + 1) % 2, top, top + (kh + 1) % 2), mode="replicate")
        branches = [
            F.conv2d(x, p[f"output.{i}.conv1_3x3.weight"], padding=1),
            F.conv2d(x, p[f"output.{i}.conv1_dil.weight"], padding=6, dilation=6),
            F.conv2d(pooled, p[f"output.{i}.conv1_glb.weight"]),
        ]
        y = abn(torch.cat(branches, 1), p, f"output.{i}.bn1")
        y = abn(F.conv2d(y, p[f"output.{i}.conv2.weight"]), p, f"output.{i}.bn2")
        outputs.append(F.interpolate(y, (72, 80), mode="bilinear", align_corners=False))
    y = F.conv2d(torch.cat(outputs, 1), p["conv_sem.weight"], p["conv_sem.bias"])
    with torch.no_grad():
        close(model.sem_seg_head(features), y)


def test_errors_name_the_tensor(tmp_path):
    def converted(change):
        states = cheap_states()
        change(states)
        return convert_seamseg(save(tmp_path / "in.tar", states))

    with pytest.raises(UserError, match=r"body::backbone\.mod4\.block2\.convs\.bn3\.running_var is missing"):
        converted(lambda s: s["body"].pop("backbone.mod4.block2.convs.bn3.running_var"))
    with pytest.raises(UserError, match=r"1 tensors are left over, the first is sem_head::output\.4\.extra"):
        converted(lambda s: s["sem_head"].update({"output.4.extra": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"roi_head::fc\.fc1\.weight is \(1024, 12545\); it must be \(1024, 12544\)"):
        converted(lambda s: s["roi_head"].update({"fc.fc1.weight": torch.zeros(1).expand(1024, 12545)}))
    with pytest.raises(UserError, match=r"roi_head::roi_bbx\.bias is \(144,\); it must be \(148,\)"):
        converted(lambda s: s["roi_head"].update({"roi_bbx.bias": torch.zeros(144)}))
    with pytest.raises(UserError, match=r"rpn_head::conv_obj\.weight is missing"):
        converted(lambda s: s["rpn_head"].pop("conv_obj.weight"))
    with pytest.raises(UserError, match=r"rpn_head::conv_obj\.weight is \(5,\); it must have 4 dimensions"):
        converted(lambda s: s["rpn_head"].update({"conv_obj.weight": torch.zeros(5)}))
    with pytest.raises(UserError, match=r"\[3, 4, 7, 3\] blocks; supported: .*ResNet-50"):
        converted(lambda s: s["body"].update({"backbone.mod4.block7.convs.conv1.weight": torch.zeros(1)}))
    with pytest.raises(UserError, match=r"rpn_head::conv_obj\.bias is a list"):
        converted(lambda s: s["rpn_head"].update({"conv_obj.bias": [1.0]}))
    with pytest.raises(UserError, match=r"rpn_head::bn1\.running_mean is missing"):
        converted(lambda s: s["rpn_head"].pop("bn1.running_mean"))


@pytest.mark.parametrize("blocks, depth", DEPTHS.items())
def test_a_resnet_is_named_after_its_layers(blocks, depth):
    """The first convolution, three per block, and the classifier of the original networks."""
    assert 1 + 3 * sum(blocks) + 1 == depth


def test_numbers_that_no_network_can_have(tmp_path):
    def converted(part, name, tensor):
        states = cheap_states(stuff=11, things=8, extra=1, anchors=3)
        states[part][name] = tensor
        return convert_seamseg(save(tmp_path / "in.tar", states))

    with pytest.raises(UserError, match=r"in\.tar: sem_head::conv_sem\.bias holds NaN or infinity"):
        converted("sem_head", "conv_sem.bias", torch.full((19,), math.nan))
    with pytest.raises(UserError, match=r"rpn_head::conv_obj\.bias is a tensor of torch\.int64"):
        converted("rpn_head", "conv_obj.bias", torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError, match=r"body::backbone\.mod1\.bn1\.running_var holds negative numbers"):
        converted("body", "backbone.mod1.bn1.running_var", torch.full((64,), -1.0))
    with pytest.raises(UserError, match=r"sem_head::conv_sem\.weight has 5 rows, which do not fit the 8 thing classes"):
        converted("sem_head", "conv_sem.weight", torch.zeros(1).expand(5, 512, 1, 1))
    with pytest.raises(FileNotFoundError, match="is a folder, not a file of weights"):
        convert_seamseg(tmp_path)


def described(tmp_path, settings):
    """The `MODEL` of the config for a Cityscapes network whose file has this config text."""
    save(tmp_path / "in.tar", cheap_states(stuff=11, things=8, extra=1, anchors=3))
    content = torch.load(tmp_path / "in.tar", weights_only=True)
    torch.save({**content, "config": settings}, tmp_path / "in.tar")
    _, layout, found = convert_seamseg(tmp_path / "in.tar")
    return yaml.safe_load(describe(layout, found))["MODEL"]


def test_the_config_inside_of_the_file_counts(tmp_path):
    model = described(tmp_path, "[general]\nrgb_mean = (0.485, .456, 0.406)\nrgb_std = 0.2, 0.4, 0.6  # x\n")
    assert model["PIXEL_MEAN"] == [123.675, 116.28, 103.53] and model["PIXEL_STD"] == [51.0, 102.0, 153.0]
    assert model["ANCHOR_GENERATOR"]["SIZES"] == [[32], [64], [128], [256], [512]]
    model = described(tmp_path, "rgb_mean = (103.5, 116.25, 123.5)\nanchor_scale = 4\nanchor_ratios = (1., .25, 4.)\n")
    assert model["PIXEL_MEAN"] == [103.5, 116.25, 123.5] and model["PIXEL_STD"] == [65.497, 67.6004, 74.1234]
    assert model["ANCHOR_GENERATOR"] == {"SIZES": [[16], [32], [64], [128], [256]], "ASPECT_RATIOS": [[1.0, 0.25, 4.0]]}
    model = described(tmp_path, "; rgb_mean = 1, 2, 3\nrgb_mean = .41738699, .45732192, .46886091\n")
    assert model["PIXEL_MEAN"] == [106.4337, 116.6171, 119.5595]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("rgb_mean = a, b, c", "mean of .*three numbers"),
        ("rgb_std = (0.2, 0.2)", "std of .*three numbers"),
        ("rgb_std = (0.2, 0.2, 0.0)", "std of .*three numbers"),
        ("rgb_mean = (0.2, nan, 0.1)", "mean of .*three numbers"),
        ("anchor_scale = -8", "scale"),
        ("anchor_ratios = 1, 2", "2 anchor_ratios, its RPN head 3 anchors"),
    ],
)
def test_settings_that_cannot_be(settings, says, tmp_path):
    with pytest.raises(UserError, match=says):
        described(tmp_path, settings)


def test_files_that_are_no_such_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.tar"):
        convert_seamseg(tmp_path / "none.tar")
    for name, content in (("list", [1]), ("plain", {"model": {}}), ("part", {"state_dict": {"body": {}}})):
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match="is not a Seamless checkpoint: it needs"):
            convert_seamseg(tmp_path / name)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        convert_seamseg(tmp_path / "text")


class _Payload:
    def __reduce__(self):
        return open, ("executed", "w")


def test_nothing_in_the_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):  # files of 2019 are of the older format
        torch.save({"state_dict": cheap_states(), "x": _Payload()}, "in.tar", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            convert_seamseg("in.tar")
        assert not (tmp_path / "executed").exists()


def test_files_of_2019_and_counted_batches(tmp_path):
    """The format before zip files; `num_batches_tracked` of later versions is dropped."""
    states = cheap_states(stuff=11, things=8, extra=1, anchors=3)
    states["body"]["backbone.mod1.bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save({"state_dict": states}, tmp_path / "in.tar", _use_new_zipfile_serialization=False)
    tensors, layout, settings = convert_seamseg(tmp_path / "in.tar")
    assert len(tensors) == 410 and layout.num_extra == 1 and settings == ""


def test_command_line(run_script, tmp_path):
    save(tmp_path / "in.tar", cheap_states(stuff=11, things=8, extra=1, anchors=3))
    code, out, err = run_script("convert", "seamseg", tmp_path / "in.tar", tmp_path / "out.pth")
    assert code == 0 and "410 tensors converted" in out and "PIXEL_MEAN: [106.4337, 116.6171, 119.5595]" in out
    assert "11 stuff and 8 thing classes" in out and "ASPECT_RATIOS: [[1.0, 0.5, 2.0]]" in out and "InPlaceABN" in out
    (tmp_path / "out.pth").unlink()
    assert "# the file says:\n#   anchor_scale = 8\n" in out and "epochs" not in out
    arguments = ("seamseg", tmp_path / "in.tar", tmp_path / "out.pth", "--config", tmp_path / "c.yaml")
    code, out, err = run_script("convert", *arguments)
    assert code == 0
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "out.pth") and cfg.DATASETS.TEST == ("cityscapes_fine_val",)
    content = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    assert len(content["model"]) == 410
    assert content["panoptic_fusion"]["categories"] == BUILTIN["cityscapes"].label_space().to_categories()
    (tmp_path / "out.pth").unlink()
    for arguments, message in (
        (("seamseg", tmp_path / "no.tar", tmp_path / "out.pth"), "no.tar does not exist"),
        (("seamseg", tmp_path / "in.tar", tmp_path / "out.tar"), "must end with .pth"),
        (("seamseg", tmp_path / "in.tar", tmp_path / "in.tar" / "out.pth"), "cannot write"),
    ):
        code, _, err = run_script("convert", *arguments)
        assert code == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "out.pth").exists()
