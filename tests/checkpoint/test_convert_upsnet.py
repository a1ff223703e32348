"""The converter of published UPSNet checkpoints: a random one in their layout, read back, and our modules against a
plain-PyTorch network that uses the published names and conventions."""

import itertools
import math

import pytest
import torch
import torchvision
import yaml
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from torch.nn import functional as F

from panoptic_fusion import config_file, get_cfg
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint import convert_upsnet as converter
from panoptic_fusion.checkpoint.convert_upsnet import (
    class_order,
    convert_upsnet,
    describe,
    detect_layout,
    entries,
)
from panoptic_fusion.data.datasets import BUILTIN
from panoptic_fusion.errors import UserError

COCO = {"things": 80, "stuff": 53, "layers": 3, "context": True}
CITYSCAPES = {"things": 8, "stuff": 11, "layers": 2, "context": False}
R101 = {"res4_blocks": 23}
DCN = {"res4_blocks": 23, "deformable": (3, 4, 5)}


def published_shapes(things=80, stuff=53, layers=3, context=True, res4_blocks=6, deformable=()):
    """{name: shape} of a published checkpoint, written down from its list of keys."""
    shapes = {}

    def bn(name, channels):
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def layer(name, *shape):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    shapes["resnet_backbone.conv1.conv1.weight"] = (64, 3, 7, 7)
    bn("resnet_backbone.conv1.bn1", 64)
    before = 64
    for stage, blocks, inner in ((2, 3, 64), (3, 4, 128), (4, res4_blocks, 256), (5, 3, 512)):
        for k in range(blocks):
            p = f"resnet_backbone.res{stage}.layers.{k}"
            shapes[f"{p}.conv1.weight"] = (inner, before, 1, 1)
            shapes[f"{p}.conv2.weight"] = (inner, inner, 3, 3)
            shapes[f"{p}.conv3.weight"] = (4 * inner, inner, 1, 1)
            bn(f"{p}.bn1", inner)
            bn(f"{p}.bn2", inner)
            bn(f"{p}.bn3", 4 * inner)
            if stage in deformable:
                layer(f"{p}.conv2_offset", 18, inner, 3, 3)
            if k == 0:
                shapes[f"{p}.downsample.0.weight"] = (4 * inner, before, 1, 1)
                bn(f"{p}.downsample.1", 4 * inner)
            before = 4 * inner
    if context:
        layer("fpn.fpn_gap", 256, 2048)
    for level, channels in ((5, 2048), (4, 1024), (3, 512), (2, 256)):
        layer(f"fpn.fpn_p{level}_1x1", 256, channels, 1, 1)
        layer(f"fpn.fpn_p{level}", 256, 256, 3, 3)
    layer("rpn.conv_proposal.0", 256, 256, 3, 3)
    layer("rpn.cls_score", 3, 256, 1, 1)
    layer("rpn.bbox_pred", 12, 256, 1, 1)
    layer("rcnn.fc6.0", 1024, 12544)
    layer("rcnn.fc7.0", 1024, 1024)
    layer("rcnn.cls_score", things + 1, 1024)
    layer("rcnn.bbox_pred", 4 * things + 4, 1024)
    for i in (1, 2, 3, 4):
        layer(f"mask_branch.mask_conv{i}.0", 256, 256, 3, 3)
    layer("mask_branch.mask_deconv1.0", 256, 256, 2, 2)
    layer("mask_branch.mask_score", things + 1, 256, 1, 1)
    for i, (old, new) in enumerate({2: [(256, 128), (128, 128)], 3: [(256, 256), (256, 128), (128, 128)]}[layers]):
        layer(f"fcn_head.fcn_subnet.conv.{i}.0.conv_offset", 18, old, 3, 3)
        layer(f"fcn_head.fcn_subnet.conv.{i}.0.conv", new, old, 3, 3)
    layer("fcn_head.score", stuff + things, 512, 1, 1)
    return shapes


def random_tensor(name, shape):
    """Activations of the order of 1."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(5)
    if name.endswith("running_var"):
        return torch.rand(shape) + 0.5
    if len(shape) == 1:
        return 0.3 * torch.randn(shape) + (1 if name.endswith("weight") else 0)
    return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))


def cheap_state(**layout):
    """The layout with tensors of one number, expanded: files of some kilobytes."""
    shapes = published_shapes(**layout)
    return {name: torch.zeros(1).expand(shape) if shape else torch.tensor(5) for name, shape in shapes.items()}


def save(path, state):
    torch.save(state, path)
    return path


def build(name, *opts, device="meta"):
    cfg = get_cfg()
    cfg.merge_from_file(config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", device, *opts])
    with torch.device(device):
        return build_model(cfg).eval()


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return {name: random_tensor(name, shape) for name, shape in published_shapes().items()}


@pytest.fixture(scope="module")
def model(published, tmp_path_factory):
    """The COCO network with the converted weights, loaded as evaluation does it: nothing may be missing."""
    folder = tmp_path_factory.mktemp("upsnet")
    tensors, layout = convert_upsnet(save(folder / "in.pth", published))
    assert (layout.depth, layout.num_things, layout.num_stuff, layout.num_layers) == (50, 80, 53, 3)
    torch.save({"model": tensors}, folder / "out.pth")
    model = build("coco/upsnet_r50.yaml", device="cpu")
    keys = model.load_state_dict(tensors, strict=False)
    assert keys.missing_keys == [] and keys.unexpected_keys == []
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
    assert isinstance(AtomicCheckpointer(model, require_complete=True).load(str(folder / "out.pth")), dict)
    (folder / "in.pth").unlink()
    (folder / "out.pth").unlink()
    return model


LAYOUTS = [
    ("coco/upsnet_r50.yaml", COCO, 376, 53),
    ("cityscapes/upsnet_r50.yaml", CITYSCAPES, 370, 53),
    ("coco/upsnet_r101_dcn.yaml", {**COCO, **DCN}, 742, 104),
    ("cityscapes/upsnet_r101.yaml", {**CITYSCAPES, **R101}, 370 + 17 * 18, 104),
]


@pytest.mark.parametrize("name, layout, count, num_norms", LAYOUTS)
def test_every_layout_converts_to_exactly_our_tensors(name, layout, count, num_norms, tmp_path):
    state = cheap_state(**layout)
    assert len(state) == count  # those of the facts, for the first three
    if "cityscapes" in name:  # as a model of several GPUs is saved
        state = {f"module.{key}": value for key, value in state.items()}
    tensors, found = convert_upsnet(save(tmp_path / "in.pth", state))
    ours = build(name).state_dict()
    assert len(tensors) == count - num_norms  # without num_batches_tracked
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in ours.items()}
    # and the printed config is of that network
    text = describe(found).replace('"configs/', f'"{config_file(name).rpartition("/")[0]}/../')
    (tmp_path / "config.yaml").write_text(text)
    assert yaml.safe_load(text)["MODEL"]["SEM_SEG_HEAD"]["NUM_CONVS"] == layout["layers"]
    cfg, expected = get_cfg(), get_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    expected.merge_from_file(config_file(name))
    expected.MODEL.ALLOW_SHAPE_MISMATCH = False
    assert expected.MODEL.BOX_CONVENTION == "exclusive"
    expected.MODEL.BOX_CONVENTION = "inclusive"  # the convention with which the file was trained
    assert cfg == expected
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.proposal_generator.inclusive
    assert model.fusion.test_sizes == (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)


OTHERS = [{**CITYSCAPES, **DCN}, {**CITYSCAPES, **DCN, "context": True}, {**COCO, "context": False}]


@pytest.mark.parametrize("layout", OTHERS)
def test_the_printed_config_of_other_mixtures_builds_their_network(layout, tmp_path):
    """Deformable stages without context, and the other way round: no config of ours has them."""
    tensors, found = convert_upsnet(save(tmp_path / "in.pth", cheap_state(**layout)))
    text = describe(found).replace('"configs/', f'"{config_file("coco/upsnet_r50.yaml").rpartition("/")[0]}/../')
    (tmp_path / "config.yaml").write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "config.yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        ours = build_model(cfg).state_dict()
    assert {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in ours.items()}


# -- classes ---------------------------------------------------------------------------------------------------------

CITYSCAPES_NAMES = (
    "road sidewalk building wall fence pole traffic-light traffic-sign vegetation terrain sky "
    "person rider car truck bus train motorcycle bicycle"
).split()


def numbered_rows(things, stuff, **layout):
    """A checkpoint in which each row holds the semantic channel of its class, -1 for background; box deltas of 4."""
    state = cheap_state(things=things, stuff=stuff, **layout)
    seg = torch.arange(stuff + things).float()  # that of detection class c is c + stuff - 1
    det = torch.cat([torch.tensor([-1.0]), stuff + torch.arange(things).float()])
    for key, values in (
        ("fcn_head.score", seg),
        ("rcnn.cls_score", det),
        ("mask_branch.mask_score", det),
        ("rcnn.bbox_pred", det.repeat_interleave(4) + torch.tensor([0, 0.1, 0.2, 0.3]).repeat(things + 1)),
    ):
        shape = state[f"{key}.weight"].shape
        state[f"{key}.weight"] = values.view(-1, *[1] * (len(shape) - 1)).expand(shape)
        state[f"{key}.bias"] = values
    return state


def check_rows(tensors, stuff_seg, thing_seg):
    deltas = [seg_id + k / 10 for seg_id in thing_seg for k in range(4)]
    for key, expected in (
        ("sem_seg_head.predictor", stuff_seg + thing_seg),
        ("roi_heads.box_predictor.cls_score", [*thing_seg, -1]),
        ("roi_heads.mask_head.predictor", thing_seg),
        ("roi_heads.box_predictor.bbox_pred", deltas),
    ):
        torch.testing.assert_close(tensors[f"{key}.bias"], torch.tensor(expected, dtype=torch.float32))
        rows = tensors[f"{key}.weight"].flatten(1)
        assert (rows == tensors[f"{key}.bias"][:, None]).all()


@pytest.mark.parametrize("dataset, layout", [("coco", COCO), ("cityscapes", CITYSCAPES)])
def test_rows_are_those_of_the_same_class(dataset, layout, tmp_path):
    """The name of the class that a row of the file stands for is that of our row."""
    things, stuff = layout["things"], layout["stuff"]
    if dataset == "coco":  # detectron2's names: things by json id, then the stuff of panoptic_coco_categories.json
        names = MetadataCatalog.get("coco_2017_val_panoptic").stuff_classes
        names = names[80:] + names[:80]
    else:
        names = [name.replace("-", " ") for name in CITYSCAPES_NAMES]
    tensors, _ = convert_upsnet(save(tmp_path / "in.pth", numbered_rows(**layout)))
    space = BUILTIN[dataset].label_space()
    thing_seg = [names.index(name) for name in space.thing_classes]
    stuff_seg = [names.index(name) for name in space.stuff_classes]
    assert sorted(stuff_seg) == list(range(stuff)) and sorted(thing_seg) == list(range(stuff, stuff + things))
    check_rows(tensors, stuff_seg, thing_seg)


def test_rows_in_another_order(tmp_path, monkeypatch):
    """Both published orders are ours already. Here ours begins with the third stuff class and the last thing class."""
    stuff, things = [2, 0, 1, *range(3, 11)], [7, 0, 1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(converter, "class_order", lambda categories, key: (stuff, things))
    tensors, _ = convert_upsnet(save(tmp_path / "in.pth", numbered_rows(**CITYSCAPES)))
    check_rows(tensors, stuff, [11 + c for c in things])


def test_order_where_ours_is_another():
    """Our classes ascend by id; here those of the file do so by `place`."""
    kinds = [(9, 0, 1), (4, 0, 3), (6, 0, 2), (5, 1, 20), (3, 1, 30), (8, 1, 10)]
    categories = [{"id": i, "isthing": isthing, "place": place} for i, isthing, place in kinds]
    # ours: stuff 4, 6, 9 and things 3, 5, 8; the file's: stuff 9, 6, 4 and things 8, 5, 3
    for permuted in itertools.permutations(categories):
        assert class_order(list(permuted), "place") == ([2, 1, 0], [2, 1, 0])
    assert class_order(categories, "id") == ([0, 1, 2], [0, 1, 2])
    # a cycle, so that the order and its inverse differ: the file's is 6, 9, 4
    cycle = [{"id": i, "isthing": 0, "place": place} for i, place in ((4, 3), (6, 1), (9, 2))]
    assert class_order(cycle, "place") == ([2, 0, 1], [])


# -- the modules -----------------------------------------------------------------------------------------------------


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def conv(p, name, x, **kwargs):
    return F.conv2d(x, p[f"{name}.weight"], p.get(f"{name}.bias"), **kwargs)


def bn(p, name, x):
    mean, var, weight, bias = (
        p[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def test_stem_and_stages_equal_plain_pytorch(published, model):
    """The stride of a stage is in the 1x1 convolution of its first block."""
    torch.manual_seed(1)
    p = published
    x = torch.randn(1, 3, 64, 96)
    y = bn(p, "resnet_backbone.conv1.bn1", conv(p, "resnet_backbone.conv1.conv1", x, stride=2, padding=3)).relu()
    y = F.max_pool2d(y, 3, stride=2, padding=1)
    net = model.backbone.bottom_up
    with torch.no_grad():
        close(net.stem(x), y)
        for stage, blocks in ((2, 3), (3, 4), (4, 6), (5, 3)):
            result = getattr(net, f"res{stage}")(y)
            for k in range(blocks):
                name, stride = f"resnet_backbone.res{stage}.layers.{k}", 2 if stage > 2 and k == 0 else 1
                z = bn(p, f"{name}.bn1", conv(p, f"{name}.conv1", y, stride=stride)).relu()
                z = bn(p, f"{name}.bn2", conv(p, f"{name}.conv2", z, padding=1)).relu()
                z = bn(p, f"{name}.bn3", conv(p, f"{name}.conv3", z))
                if k == 0:
                    y = bn(p, f"{name}.downsample.1", conv(p, f"{name}.downsample.0", y, stride=stride))
                y = (y + z).relu()
            close(result, y)
            y = y / y.std()


def test_pyramid_with_context_equals_plain_pytorch(published, model, monkeypatch):
    torch.manual_seed(2)
    p = published
    features = [torch.randn(1, 256 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]
    given = dict(zip(("res2", "res3", "res4", "res5"), features, strict=True))
    monkeypatch.setattr(model.backbone.bottom_up, "forward", lambda image: given)
    with torch.no_grad():
        found = model.backbone(torch.zeros(1))
    mean = features[3].sum((2, 3)) / (2 * 3)
    context = mean @ p["fpn.fpn_gap.weight"].T + p["fpn.fpn_gap.bias"]
    above, expected = None, {}
    for level in (5, 4, 3, 2):
        y = conv(p, f"fpn.fpn_p{level}_1x1", features[level - 2])
        if above is None:
            above = y + context[:, :, None, None]
        else:
            above = y + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected[f"p{level}"] = conv(p, f"fpn.fpn_p{level}", above, padding=1)
    expected["p6"] = expected["p5"][:, :, ::2, ::2]
    assert set(found) == set(expected)
    for name, y in expected.items():
        close(found[name], y)


# Sides (width, height) in pixels, by stride; their centres are at half a stride.
ANCHORS = {
    4: [(48, 24), (32, 32), (24, 48)],
    8: [(88, 48), (64, 64), (48, 96)],
    16: [(184, 96), (128, 128), (88, 176)],
    32: [(360, 176), (256, 256), (184, 368)],
    64: [(728, 368), (512, 512), (360, 720)],
}


def legacy_decode(box, deltas, weights):
    """Boxes that name their first and last pixel: width x2 - x1 + 1."""
    x1, y1, x2, y2 = box
    dx, dy, dw, dh = (float(d) / w for d, w in zip(deltas, weights, strict=True))
    width, height = x2 - x1 + 1, y2 - y1 + 1
    cx, cy = x1 + width / 2 + dx * width, y1 + height / 2 + dy * height
    width, height = (v * math.exp(min(d, math.log(1000 / 16))) for v, d in ((width, dw), (height, dh)))
    return [cx - width / 2, cy - height / 2, cx + width / 2 - 1, cy + height / 2 - 1]


def test_rpn_and_its_boxes_equal_plain_pytorch(published, model):
    """Channels a * 4 + (dx, dy, dw, dh). Ours are the legacy boxes with the end behind the last pixel."""
    torch.manual_seed(3)
    p, rpn = published, model.proposal_generator
    maps = [torch.randn(1, 256, 2, 3) for _ in ANCHORS]
    with torch.no_grad():
        objectness, deltas = rpn.rpn_head(maps)
    anchors = rpn.anchor_generator(maps)
    for x, scores, ours, boxes, (stride, sides) in zip(maps, objectness, deltas, anchors, ANCHORS.items(), strict=True):
        y = conv(p, "rpn.conv_proposal.0", x, padding=1).relu()
        close(scores, conv(p, "rpn.cls_score", y))
        published_deltas = conv(p, "rpn.bbox_pred", y)
        decoded = []
        for i, j, (a, (w, h)) in itertools.product(range(2), range(3), enumerate(sides)):
            cx, cy = (j + 0.5) * stride, (i + 0.5) * stride
            inclusive = (cx - w / 2, cy - h / 2, cx + w / 2 - 1, cy + h / 2 - 1)
            box = legacy_decode(inclusive, published_deltas[0, 4 * a : 4 * a + 4, i, j], (1, 1, 1, 1))
            decoded.append([box[0], box[1], box[2] + 1, box[3] + 1])
        ours = ours.view(1, 3, 4, 2, 3).permute(0, 3, 4, 1, 2).reshape(1, -1, 4)
        found = rpn._decode_proposals([boxes], [ours])[0][0]
        torch.testing.assert_close(found, torch.tensor(decoded), atol=1e-3, rtol=1e-4)


def random_boxes(count, size=(256, 384)):
    corner = torch.rand(count, 2) * torch.tensor([size[1] * 0.5, size[0] * 0.5])
    side = torch.exp(torch.rand(count, 2) * math.log(40)) * torch.tensor([size[1], size[0]]) / 80
    return torch.cat([corner, corner + side], 1)


def test_pooling_equals_plain_pytorch(model):
    """RoIAlign that is not aligned, two samples a bin; the level by the box, which has no pixel more here."""
    torch.manual_seed(4)
    maps = {f"p{i}": torch.randn(1, 256, 256 // 2**i, 384 // 2**i) for i in (2, 3, 4, 5)}
    boxes = torch.cat([random_boxes(30), torch.tensor([[0, 0, 383, 255], [3, 4, 3.2, 4.1], [10, 20, 233.9, 244]])])
    for pooler, size in ((model.roi_heads.box_pooler, 7), (model.roi_heads.mask_pooler, 14)):
        found = pooler([maps[f"p{i}"] for i in (2, 3, 4, 5)], [Boxes(boxes)])
        levels = set()
        for box, pooled in zip(boxes, found, strict=True):
            area = float((box[2] - box[0]) * (box[3] - box[1]))
            level = min(max(math.floor(2 + math.log2(math.sqrt(area) / 224 + 1e-6)), 0), 3) + 2
            levels.add(level)
            expected = torchvision.ops.roi_align(
                maps[f"p{level}"], [box[None]], size, 1 / 2**level, sampling_ratio=2, aligned=False
            )[0]
            close(pooled, expected)
        assert len(levels) >= 3


def test_box_head_equals_plain_pytorch(published, model):
    """Background is row 0 there; deltas of each class, divided by (10, 10, 5, 5)."""
    torch.manual_seed(5)
    p, heads = published, model.roi_heads
    x = torch.randn(6, 256, 7, 7)
    y = x.flatten(1)
    for name in ("rcnn.fc6.0", "rcnn.fc7.0"):
        y = (y @ p[f"{name}.weight"].T + p[f"{name}.bias"]).relu()
    logits = y @ p["rcnn.cls_score.weight"].T + p["rcnn.cls_score.bias"]
    deltas = (y @ p["rcnn.bbox_pred.weight"].T + p["rcnn.bbox_pred.bias"]).view(6, 81, 4)
    boxes = random_boxes(6)
    with torch.no_grad():
        scores, ours = heads.box_predictor(heads.box_head(x))
    close(scores[:, 80], logits[:, 0])
    close(scores[:, :80], logits[:, 1:])
    decoded = heads.box_predictor.box2box_transform.apply_deltas(ours, boxes).view(6, 80, 4)
    for i, c in itertools.product(range(6), (0, 1, 40, 79)):
        x1, y1, x2, y2 = boxes[i].tolist()
        expected = legacy_decode((x1, y1, x2 - 1, y2 - 1), deltas[i, c + 1], (10, 10, 5, 5))
        expected[2:] = [expected[2] + 1, expected[3] + 1]
        torch.testing.assert_close(decoded[i, c], torch.tensor(expected), atol=1e-3, rtol=1e-4)


def test_mask_head_equals_plain_pytorch(published, model):
    torch.manual_seed(6)
    p = published
    x = y = torch.randn(2, 256, 14, 14)
    for i in (1, 2, 3, 4):
        y = conv(p, f"mask_branch.mask_conv{i}.0", y, padding=1).relu()
    name = "mask_branch.mask_deconv1.0"
    y = F.conv_transpose2d(y, p[f"{name}.weight"], p[f"{name}.bias"], stride=2).relu()
    y = conv(p, "mask_branch.mask_score", y)
    with torch.no_grad():
        close(model.roi_heads.mask_head.layers(x), y[:, 1:])


def deformable(p, name, x):
    """3x3 deformable convolution by sampling: channel 2k of the offsets is dy of tap k, 2k + 1 is dx, taps row by row;
    bilinear, zero outside of the map."""
    offsets = conv(p, f"{name}.conv_offset", x, padding=1)
    _, channels, height, width = x.shape
    padded = F.pad(x, (1, 1, 1, 1))  # a ring of zeros; further out it is zero as well
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    result = 0
    for tap in range(9):
        row = (i + tap // 3 - 1 + offsets[0, 2 * tap]).clamp(-1, height)
        column = (j + tap % 3 - 1 + offsets[0, 2 * tap + 1]).clamp(-1, width)
        top, left = row.floor().clamp(max=height - 1), column.floor().clamp(max=width - 1)
        sample = 0
        for dy, dx in itertools.product((0, 1), (0, 1)):
            weight = (1 - (row - top - dy).abs()) * (1 - (column - left - dx).abs())
            sample = sample + weight * padded[0, :, (top + dy).long() + 1, (left + dx).long() + 1]
        weight = p[f"{name}.conv.weight"][:, :, tap // 3, tap % 3]
        result = result + (weight @ sample.flatten(1)).view(1, -1, height, width)
    return result + p[f"{name}.conv.bias"].view(1, -1, 1, 1)


def test_semantic_head_equals_plain_pytorch(published, model):
    torch.manual_seed(7)
    p = published
    features = {f"p{i}": torch.randn(1, 256, 128 // 2**i, 160 // 2**i) for i in (2, 3, 4, 5)}
    outputs, moved = [], []
    for x in features.values():
        for i in range(3):
            name = f"fcn_head.fcn_subnet.conv.{i}.0"
            moved.append(conv(p, f"{name}.conv_offset", x, padding=1).abs().mean())
            x = deformable(p, name, x).relu()
        outputs.append(F.interpolate(x, (32, 40), mode="bilinear", align_corners=False))
    y = conv(p, "fcn_head.score", torch.cat(outputs, 1))
    assert min(moved) > 0.1  # the offsets are not negligible
    with torch.no_grad():
        close(model.sem_seg_head(features), y)


def test_deformable_block_equals_plain_pytorch(tmp_path):
    """conv2 of a block of res3 to res5 in the DCN model: offsets with bias, convolution without, then the norm."""
    torch.manual_seed(8)
    state = cheap_state(**COCO, **DCN)
    name = "resnet_backbone.res4.layers.7"
    for key, value in state.items():
        if key.startswith(f"{name}."):
            state[key] = random_tensor(key, value.shape)
    tensors, _ = convert_upsnet(save(tmp_path / "in.pth", state))
    net = build("coco/upsnet_r101_dcn.yaml").backbone.bottom_up.res4[7]
    net.to_empty(device="cpu")
    prefix = "backbone.bottom_up.res4.7."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    x = torch.randn(1, 1024, 10, 12)
    p = {
        **state,
        "block.conv.weight": state[f"{name}.conv2.weight"],
        "block.conv.bias": torch.zeros(256),
        "block.conv_offset.weight": state[f"{name}.conv2_offset.weight"],
        "block.conv_offset.bias": state[f"{name}.conv2_offset.bias"],
    }
    y = bn(p, f"{name}.bn1", conv(p, f"{name}.conv1", x)).relu()
    y = bn(p, f"{name}.bn2", deformable(p, "block", y)).relu()
    y = bn(p, f"{name}.bn3", conv(p, f"{name}.conv3", y))
    with torch.no_grad():
        close(net(x), (x + y).relu())


# -- errors ----------------------------------------------------------------------------------------------------------


def test_errors_name_the_tensor(tmp_path):
    original = cheap_state()

    def converted(**changes):
        state = {k: v for k, v in original.items() if changes.get(k, v) is not None} | {
            k: torch.zeros(1).expand(v) if isinstance(v, tuple) else v for k, v in changes.items() if v is not None
        }
        return convert_upsnet(save(tmp_path / "in.pth", state))

    def check(message, **changes):
        with pytest.raises(UserError, match=message):
            converted(**{key.replace("__", "."): value for key, value in changes.items()})

    converted()
    # each single tensor, one after the other
    for name in ("resnet_backbone.res4.layers.5.bn3.running_var", "fpn.fpn_gap.bias", "fcn_head.score.bias"):
        check(rf"{name} is missing".replace(".", r"\."), **{name: None})
    check(
        r"fcn_subnet\.conv\.2\.0\.conv_offset\.bias is missing",
        fcn_head__fcn_subnet__conv__2__0__conv_offset__bias=None,
    )
    check(r"1 tensors are left over, the first is fpn\.fpn_p6\.weight", fpn__fpn_p6__weight=(256, 256, 3, 3))
    check(r"rcnn\.fc6\.0\.weight is \(1024, 12545\); it must be \(1024, 12544\)", rcnn__fc6__0__weight=(1024, 12545))
    check(r"rcnn\.bbox_pred\.bias is \(320,\); it must be \(324,\)", rcnn__bbox_pred__bias=(320,))
    check(r"mask_branch\.mask_score\.weight is missing", mask_branch__mask_score__weight=None)
    check(r"fcn_head\.score\.weight is \(133,\); it must have 4 dimensions", fcn_head__score__weight=(133,))
    check(r"54 stuff and 80 thing classes; supported: 53 and 80 \(coco\)", fcn_head__score__weight=(134, 512, 1, 1))
    check(r"\[3, 4, 7, 3\] blocks; supported: .*ResNet-50", resnet_backbone__res4__layers__6__conv1__weight=(1,))
    check(r"res3 have conv2_offset; it must be", resnet_backbone__res3__layers__0__conv2_offset__weight=(1,))
    check(r"rpn\.cls_score\.bias is a list", rpn__cls_score__bias=[1.0])


BAD_NUMBERS = [
    ("rcnn.fc7.0.bias", torch.full((1024,), math.nan), "fc7.0.bias holds NaN"),
    (
        "fcn_head.score.weight",
        torch.full((1, 1, 1, 1), -math.inf).expand(19, 512, 1, 1),
        "score.weight holds NaN or inf",
    ),
    ("rpn.bbox_pred.bias", torch.zeros(12, dtype=torch.int64), "bbox_pred.bias is a tensor of torch.int64"),
    ("rpn.bbox_pred.bias", torch.zeros(12, dtype=torch.complex64), "torch.complex64"),
    ("rpn.bbox_pred.bias", torch.zeros(12).to_sparse(), "it must hold floating-point numbers"),
    ("resnet_backbone.conv1.bn1.running_var", torch.full((64,), -0.1), "running_var holds negative"),
]


@pytest.mark.parametrize(("name", "tensor", "says"), BAD_NUMBERS, ids=[says for *_, says in BAD_NUMBERS])
def test_numbers_that_no_network_can_have(name, tensor, says, tmp_path):
    state = {**cheap_state(**CITYSCAPES), name: tensor}
    with pytest.raises(UserError, match=says) as error:
        convert_upsnet(save(tmp_path / "in.pth", state))
    assert name in str(error.value) and "in.pth" in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_are_accepted(dtype, tmp_path):
    state = cheap_state(**CITYSCAPES)
    state["rpn.bbox_pred.bias"] = torch.ones(12, dtype=dtype)
    tensors, _ = convert_upsnet(save(tmp_path / "in.pth", state))
    assert tensors["proposal_generator.rpn_head.anchor_deltas.bias"].tolist() == [1.0] * 12


def test_fewer_semantic_rows_than_things(tmp_path):
    state = {**cheap_state(), "fcn_head.score.weight": torch.zeros(1).expand(77, 512, 1, 1)}
    with pytest.raises(UserError, match=r"fcn_head\.score\.weight has 77 rows, which do not fit the 80 thing classes"):
        convert_upsnet(save(tmp_path / "in.pth", state))
    state["mask_branch.mask_score.weight"] = torch.zeros(1).expand(1, 256, 1, 1)
    with pytest.raises(UserError, match="do not fit the 0 thing classes"):
        convert_upsnet(save(tmp_path / "in.pth", state))


def test_a_folder_is_called_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder, not a file of weights"):
        convert_upsnet(tmp_path)


def test_no_tensor_decides_what_is_needed(tmp_path):
    """Whichever one is missing, the layout that is found asks for it, or no layout is found."""
    state = {k: v for k, v in cheap_state(**CITYSCAPES).items() if not k.endswith("num_batches_tracked")}
    assert {entry.theirs for entry in entries(detect_layout(state))} == state.keys()
    for name in state:
        rest = {k: v for k, v in state.items() if k != name}
        try:
            needed = {entry.theirs for entry in entries(detect_layout(rest))}
        except UserError:
            continue
        assert needed != rest.keys(), name


def test_head_without_layers_is_noticed(tmp_path):
    state = {k: v for k, v in cheap_state(**CITYSCAPES).items() if not k.startswith("fcn_head.fcn_subnet")}
    with pytest.raises(UserError, match=r"fcn_head\.fcn_subnet\.conv\.0\.0\.conv_offset\.weight is missing"):
        convert_upsnet(save(tmp_path / "in.pth", state))


def test_files_that_are_no_such_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.pth"):
        convert_upsnet(tmp_path / "none.pth")
    for name, content in (("list", [1]), ("wrapped", {"model": {}}), ("numbers", {1: torch.zeros(1)}), ("empty", {})):
        with pytest.raises(UserError, match="is not a UPSNet checkpoint: it"):
            convert_upsnet(save(tmp_path / name, content))
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        convert_upsnet(tmp_path / "text")


class _Payload:
    def __reduce__(self):
        return open, ("executed", "w")


def test_nothing_in_the_file_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):  # files of 2019 are of the older format
        torch.save({**cheap_state(), "x": _Payload()}, "in.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            convert_upsnet("in.pth")
        assert not (tmp_path / "executed").exists()


def test_files_of_2019(tmp_path):
    """The format before zip files."""
    torch.save(cheap_state(**CITYSCAPES), tmp_path / "in.pth", _use_new_zipfile_serialization=False)
    tensors, layout = convert_upsnet(tmp_path / "in.pth")
    assert len(tensors) == 317 and (layout.dataset, layout.context) == ("cityscapes", False)


def test_command_line(run_script, tmp_path):
    save(tmp_path / "in.pth", cheap_state(**CITYSCAPES))
    arguments = ("upsnet", tmp_path / "in.pth", tmp_path / "out.pth", "--config", tmp_path / "c.yaml")
    code, out, err = run_script("convert", *arguments)
    assert code == 0 and "317 tensors converted" in out, err
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "c.yaml"))
    assert cfg.MODEL.WEIGHTS == str(tmp_path / "out.pth") and cfg.DATASETS.TEST == ("cityscapes_fine_val",)
    content = torch.load(cfg.MODEL.WEIGHTS, weights_only=True)
    assert len(content["model"]) == 317
    assert content["panoptic_fusion"]["categories"] == BUILTIN["cityscapes"].label_space().to_categories()
    (tmp_path / "out.pth").unlink()
    code, out, err = run_script("convert", *arguments[:3])
    assert code == 0 and "11 stuff and 8 thing classes" in out and "NUM_CONVS: 2" in out
    (tmp_path / "out.pth").unlink()
    code, _, err = run_script("convert", "upsnet", tmp_path / "c.yaml", tmp_path / "out.pth")
    assert code == 2 and "not a readable checkpoint" in err and "Traceback" not in err
