"""The two networks of "Ours Independent", alone and fused: contracts, trainings of some iterations, errors."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from panoptic_fusion import config_file, get_cfg, load_trained, resolve_config
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY, HeuristicFusion, build_panoptic_fusion
from panoptic_fusion.networks import IndependentPanoptic
from panoptic_fusion.networks.single_task import one_segment_per_class
from panoptic_fusion.networks.trained import build_predictor

CATEGORIES = [
    {"id": 7, "name": "sky", "isthing": 0, "color": [0, 0, 200]},
    {"id": 3, "name": "car", "isthing": 1, "color": [200, 0, 0]},
    {"id": 9, "name": "road", "isthing": 0, "color": [90, 0, 90]},
    {"id": 1, "name": "person", "isthing": 1, "color": [0, 200, 0]},
]


def small_cfg(name="", *opts):
    """toy/seamless_r18<name>.yaml without data, 8 channels wide."""
    cfg = get_cfg()
    cfg.merge_from_file(config_file(f"toy/seamless_r18{name}.yaml"))
    cfg.DATASETS.REGISTER, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], [], ["independent_test"]
    cfg.MODEL.CATEGORIES = CATEGORIES
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH = 0.0
    cfg.MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT = 1
    cfg.merge_from_list(opts)
    return cfg


def example(seed, size=(64, 96), num_things=2):
    torch.manual_seed(seed)
    masks = torch.zeros(num_things, *size, dtype=torch.bool)
    for i in range(num_things):
        masks[i, 5 + 10 * i : 35 + 10 * i, 8 + 20 * i : 40 + 20 * i] = True
    instances = Instances(size, gt_classes=torch.arange(num_things) % 2, gt_masks=BitMasks(masks))
    instances.gt_boxes = instances.gt_masks.get_bounding_boxes() if num_things else Boxes(torch.zeros(0, 4))
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
        "sem_seg": torch.randint(0, 4, size),
        "instances": instances,
        "height": size[0] * 2,
        "width": size[1] + 7,
    }


def build(cfg, seed=0):
    torch.manual_seed(seed)
    return build_model(cfg)


def run(model, inputs):
    model.eval()
    with torch.no_grad():
        return model(copy.deepcopy(inputs))


@pytest.mark.parametrize("name", ["", "_instances", "_semantic"])
def test_train_and_backward(name):
    """Every parameter of every network learns; also from a batch without any thing."""
    model = build(small_cfg(name)).train()
    for batch in ([example(0), example(1, (50, 70))], [example(0, num_things=0)]):
        with EventStorage():
            losses = model(copy.deepcopy(batch))
        expected = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_sem_seg"}
        if name:
            expected = {k for k in expected if (k == "loss_sem_seg") == (name == "_semantic")}
        assert set(losses) == expected
        model.zero_grad()
        sum(losses.values()).backward()
        for parameter_name, p in model.named_parameters():
            assert p.grad is not None and p.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("fusion", sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
def test_the_same_network_twice_is_that_network(fusion):
    """IndependentPanoptic of one PanopticRCNN as both parts gives its outputs, with any fusion."""
    at_input = ["MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION", "True"]
    cfg = resolve_config(small_cfg("", "MODEL.PANOPTIC_FUSION.NAME", fusion, *at_input))
    single = build(cfg).eval()
    pair = IndependentPanoptic(
        instance_network=single,
        semantic_network=single,
        fusion=single.fusion,
        fuse_at_input_resolution=single.fuse_at_input_resolution,
    )
    inputs = [example(0), example(1, (50, 70))]
    for a, b in zip(run(single, inputs), run(pair, inputs), strict=True):
        assert set(a) == set(b) == {"sem_seg", "instances", "panoptic_seg"}
        assert torch.equal(a["sem_seg"], b["sem_seg"])
        assert torch.equal(a["panoptic_seg"][0], b["panoptic_seg"][0])
        assert a["panoptic_seg"][1] == b["panoptic_seg"][1]
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks) and len(a["instances"])


def test_each_part_comes_from_its_own_network():
    first, second = build(small_cfg(), seed=1).eval(), build(small_cfg(), seed=2).eval()
    second.pixel_mean += 20  # each network has its own normalisation
    fusion = build_panoptic_fusion(resolve_config(small_cfg()))
    pair = IndependentPanoptic(instance_network=first, semantic_network=second, fusion=fusion)
    inputs = [example(3)]
    (result,), (a,), (b,) = run(pair, inputs), run(first, inputs), run(second, inputs)
    assert torch.equal(result["sem_seg"], b["sem_seg"]) and not torch.equal(result["sem_seg"], a["sem_seg"])
    assert torch.equal(result["instances"].scores, a["instances"].scores)
    assert torch.equal(result["instances"].pred_masks, a["instances"].pred_masks)


def test_outputs_are_those_that_a_network_can_return():
    """Else evaluators and pictures ask for more, after all of the training."""
    everything = ("MODEL.PANOPTIC_FUSION.OUTPUTS", ["sem_seg", "instances", "panoptic_seg"])
    for name, outputs in (("_instances", ["instances"]), ("_semantic", ["sem_seg", "panoptic_seg"])):
        assert resolve_config(small_cfg(name, *everything)).MODEL.PANOPTIC_FUSION.OUTPUTS == outputs
    assert resolve_config(small_cfg("", *everything)).MODEL.PANOPTIC_FUSION.OUTPUTS == everything[1]


def test_outputs_of_the_networks_alone():
    both = build(small_cfg()).eval()
    inputs = [example(0), example(1, (50, 70))]
    networks = {name: build(small_cfg(name)).eval() for name in ("_instances", "_semantic")}
    for network in networks.values():
        missing = network.load_state_dict(both.state_dict(), strict=False).missing_keys
        assert missing == []
    for expected, a, b in zip(run(both, inputs), *(run(n, inputs) for n in networks.values()), strict=True):
        assert set(a) == {"instances"} and set(b) == {"sem_seg", "panoptic_seg"}
        for field in ("scores", "pred_classes", "pred_masks"):
            assert torch.equal(a["instances"].get(field), expected["instances"].get(field))
        assert torch.equal(a["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
        assert torch.equal(b["sem_seg"], expected["sem_seg"])
        labels = b["sem_seg"].argmax(0)
        panoptic_map, info = b["panoptic_seg"]
        assert panoptic_map.shape == labels.shape and sum(s["area"] for s in info) == labels.numel()
        for s in info:
            channel = s["category_id"] + (2 if s["isthing"] else 0)
            # a float's rounding apart: argmax does not make the whole map first
            assert ((panoptic_map == s["id"]) == (labels == channel)).float().mean() > 0.999


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_one_segment_per_class_equals_slow_loops(ontology):
    rng = random.Random(0)
    for _ in range(100):
        num_things, num_stuff = rng.choice([(1, 1), (2, 3), (1, 4)])
        space = LabelSpace.from_categories(
            [
                {"id": i + 1, "name": f"c{i}", "isthing": int(i < num_things), "color": [i, i, i]}
                for i in range(num_things + num_stuff)
            ]
        )
        channels = space.num_channels(ontology)
        labels = torch.tensor([[rng.choice(range(channels)) for _ in range(4)] for _ in range(rng.randint(1, 5))])
        panoptic_map, info = one_segment_per_class(labels, space, ontology)
        assert panoptic_map.dtype == torch.int32 and [s["id"] for s in info] == list(range(1, len(info) + 1))
        named = {s["id"]: ("thing" if s["isthing"] else "stuff", s["category_id"]) for s in info}
        for found, channel in zip(panoptic_map.flatten().tolist(), labels.flatten().tolist(), strict=True):
            expected = ("stuff", channel) if channel < num_stuff else ("thing", channel - num_stuff)
            if ontology == "collapsed" and channel == num_stuff:
                assert found == 0
            else:
                assert named[found] == expected
        for s in info:
            assert s["area"] == int((panoptic_map == s["id"]).sum()) > 0


def independent_cfg(instances, semantic, *opts):
    pair = ["MODEL.INDEPENDENT.INSTANCES", str(instances), "MODEL.INDEPENDENT.SEMANTIC", str(semantic)]
    return small_cfg("_independent", *pair, *opts)


@pytest.fixture
def config_files(tmp_path):
    """Config files of both networks, as a training writes them."""
    paths = []
    for name in ("_instances", "_semantic"):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(resolve_config(small_cfg(name)).dump())
    return paths


def test_from_config_files(config_files):
    """Without weights of their own: MODEL.WEIGHTS has those of both."""
    model = build(independent_cfg(*config_files))
    assert not hasattr(model.semantic_network, "roi_heads") and not hasattr(model.instance_network, "sem_seg_head")
    assert {name.partition(".")[0] for name in model.state_dict()} == {"instance_network", "semantic_network"}
    assert set(run(model, [example(0)])[0]) == {"sem_seg", "instances", "panoptic_seg"}


def test_the_ontology_is_that_of_the_semantic_network(config_files, tmp_path):
    cfg = resolve_config(small_cfg("_semantic", "MODEL.SEM_SEG_HEAD.ONTOLOGY", "stuff"))
    (tmp_path / "stuff.yaml").write_text(cfg.dump())
    model = build(
        independent_cfg(config_files[0], tmp_path / "stuff.yaml", "MODEL.PANOPTIC_FUSION.NAME", "HeuristicFusion")
    )
    assert isinstance(model.fusion, HeuristicFusion) and model.fusion.ontology == "stuff"
    assert run(model, [example(0)])[0]["sem_seg"].shape[0] == 2


def test_errors_name_the_key(config_files, tmp_path):
    instances, semantic = config_files
    other = small_cfg("_semantic")
    other.MODEL.CATEGORIES = CATEGORIES[1:]
    (tmp_path / "other.yaml").write_text(resolve_config(other).dump())
    (tmp_path / "bgr.yaml").write_text(resolve_config(small_cfg("_semantic", "INPUT.FORMAT", "RGB")).dump())
    for pair, error, message in (
        (("", semantic), ConfigError, "INDEPENDENT.INSTANCES is empty"),
        ((instances, ""), ConfigError, "INDEPENDENT.SEMANTIC is empty"),
        ((instances, tmp_path / "no"), FileNotFoundError, "INDEPENDENT.SEMANTIC: .*no does not exist"),
        ((tmp_path, semantic), FileNotFoundError, "has no config.yaml"),
        ((semantic, semantic), ConfigError, "INDEPENDENT.INSTANCES: .* is a SemanticNetwork, which has no roi_heads"),
        ((instances, instances), ConfigError, "INDEPENDENT.SEMANTIC: .* is a InstanceNetwork, which has no sem_seg"),
        ((instances, tmp_path / "other.yaml"), ConfigError, "INDEPENDENT.SEMANTIC: the classes of .*other.yaml"),
        ((instances, tmp_path / "bgr.yaml"), ConfigError, "INDEPENDENT.SEMANTIC: the INPUT.FORMAT of .*bgr.yaml"),
    ):
        with pytest.raises(error, match=message):
            build(independent_cfg(*pair))
    with pytest.raises(ConfigError, match="IndependentPanoptic is not trained itself"):
        build(independent_cfg(instances, semantic)).train()([example(0)])


def test_a_pair_with_a_fusion_that_learned_elsewhere(run_script, tiny_opts, tmp_path):
    """Evaluated and shown with SpatialRankingFusion's weights from the checkpoint of a third network."""
    state = {}
    for seed, (name, system) in enumerate({"first": "seamless", "second": "seamless", "oanet": "oanet"}.items()):
        cfg = get_cfg()
        cfg.merge_from_file(config_file(f"toy/{system}_r18.yaml"))
        cfg.merge_from_list([*tiny_opts, "MODEL.DEVICE", "cpu"])
        cfg = resolve_config(cfg)
        network, folder = build(cfg, seed), tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(cfg.dump())
        AtomicCheckpointer(network, str(folder)).save("model_final")
        state[name] = network.state_dict()
    expected = {
        **{f"instance_network.{name}": value for name, value in state["first"].items()},
        **{f"semantic_network.{name}": value for name, value in state["second"].items()},
        **{name: value for name, value in state["oanet"].items() if name.startswith("fusion.")},
    }
    assert any(name.startswith("fusion.") for name in expected)
    pair, weights = tmp_path / "pair", tmp_path / "oanet" / "model_final.pth"
    opts = ["MODEL.INDEPENDENT.INSTANCES", tmp_path / "first", "MODEL.INDEPENDENT.SEMANTIC", tmp_path / "second"]
    opts += ["MODEL.PANOPTIC_FUSION.NAME", "SpatialRankingFusion", "OUTPUT_DIR", pair, "MODEL.WEIGHTS"]
    evaluation = ["train", "--eval-only", "--config-file", config_file("toy/seamless_r18_independent.yaml")]
    code, _, err = run_script(*evaluation, *tiny_opts, *opts, "")
    assert code == 2 and "MODEL.WEIGHTS is empty: name a checkpoint that has fusion." in err
    code, _, err = run_script(*evaluation, *tiny_opts, *opts, tmp_path / "first" / "model_final.pth")
    assert code == 2 and "it lacks" in err and "the first is fusion." in err
    code, _, err = run_script(*evaluation, *tiny_opts, *opts, weights)
    assert code == 0, err
    # its folder is a model: the same weights, and pictures
    cfg = load_trained(pair, ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.WEIGHTS == str(weights)
    found = build_predictor(cfg).model.state_dict()
    assert set(found) == set(expected) and all(torch.equal(value, expected[name]) for name, value in found.items())
    images = Path(next(e["images"] for e in cfg.DATASETS.REGISTER if e["name"] == "tiny_val"))
    code, _, err = run_script("demo", "--model", pair, "--input", images, "--output", tmp_path / "pictures")
    assert code == 0 and len(list((tmp_path / "pictures").glob("*.jpg"))) == 3, err


def test_weights_for_a_fusion_without_parameters_are_refused(tmp_path):
    """Nothing of the file would be used."""
    cfg = resolve_config(small_cfg())
    (tmp_path / "config.yaml").write_text(cfg.dump())
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model_final")
    pair = build(independent_cfg(tmp_path, tmp_path))
    with pytest.raises(UserError, match="holds no tensor of the model. Check MODEL.WEIGHTS"):
        AtomicCheckpointer(pair, require_complete=True).load(str(tmp_path / "model_final.pth"))


def test_a_config_file_beside_a_folder_needs_its_weights(config_files, tmp_path):
    cfg = resolve_config(small_cfg())
    (tmp_path / "config.yaml").write_text(cfg.dump())
    AtomicCheckpointer(build(cfg), str(tmp_path)).save("model_final")
    pair = build(independent_cfg(tmp_path, config_files[1]))
    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty: name a checkpoint that has semantic_network"):
        AtomicCheckpointer(pair, require_complete=True).load("")
    weights = {name: value for name, value in pair.state_dict().items() if name.startswith("semantic_network.")}
    torch.save({"model": weights}, tmp_path / "semantic.pth")
    AtomicCheckpointer(pair, require_complete=True).load(str(tmp_path / "semantic.pth"))
    weights.pop("semantic_network.sem_seg_head.predictor.weight")
    torch.save({"model": weights}, tmp_path / "part.pth")
    with pytest.raises(UserError, match="lacks 1 tensors of the model, the first is semantic_network.sem_seg_head"):
        AtomicCheckpointer(pair, require_complete=True).load(str(tmp_path / "part.pth"))


def test_train_both_and_evaluate_the_pair(run_script, tiny_opts, tmp_path):
    """The commands of docs/seamless.md: two trainings of 4 iterations, each evaluated, then the pair of them."""
    results = {}
    for name in ("instances", "semantic"):
        config = config_file(f"toy/seamless_r18_{name}.yaml")
        folder = tmp_path / name
        code, _, err = run_script("train", "--config-file", config, *tiny_opts, "OUTPUT_DIR", folder)
        assert code == 0, err
        results[name] = (folder / "results.json").read_text()
    assert "segm" in results["instances"] and "mIoU" in results["semantic"]
    opts = ["MODEL.INDEPENDENT.INSTANCES", tmp_path / "instances", "MODEL.INDEPENDENT.SEMANTIC", tmp_path / "semantic"]
    cfg = get_cfg()
    cfg.merge_from_file(config_file("toy/seamless_r18_independent.yaml"))
    cfg.merge_from_list([str(x) for x in (*tiny_opts, *opts, "MODEL.DEVICE", "cpu")])
    model = build(cfg)
    for part, folder in ((model.instance_network, "instances"), (model.semantic_network, "semantic")):
        trained = torch.load(tmp_path / folder / "model_final.pth", weights_only=True)["model"]
        assert all(torch.equal(v, trained[k]) for k, v in part.state_dict().items())
    assert Path(cfg.MODEL.INDEPENDENT.SEMANTIC) == tmp_path / "semantic"
    code, _, err = run_script(
        "train",
        "--eval-only",
        "--config-file",
        config_file("toy/seamless_r18_independent.yaml"),
        *tiny_opts,
        *opts,
        "OUTPUT_DIR",
        tmp_path / "pair",
    )
    assert code == 0, err
    assert "PQ_dagger" in (tmp_path / "pair" / "results.json").read_text()
    images = Path(next(e["images"] for e in cfg.DATASETS.REGISTER if e["name"] == "tiny_val"))
    config = config_file("toy/seamless_r18_independent.yaml")
    arguments = ["--config-file", config, "--dataset", "tiny_val", "--output", tmp_path / "oracle"]
    code, out, err = run_script("oracle", *arguments, *tiny_opts, *opts)
    assert code == 0 and "GT box" in out, err
    rows = json.loads((tmp_path / "oracle" / "oracle.json").read_text())["replaced"]
    evaluated = json.loads((tmp_path / "pair" / "results.json").read_text())["panoptic_seg"]["PQ"]
    assert rows["model"]["PQ"] == pytest.approx(evaluated) and rows["seg"]["PQ_st"] > rows["model"]["PQ_st"]
    # the evaluated pair's own folder is a model, too
    by_config = ["--config-file", config, "--input", images, "--output", tmp_path / "by_config"]
    by_folder = ["--model", tmp_path / "pair", "--input", images, "--output", tmp_path / "by_folder"]
    for arguments in ([*by_config, "--opts", *tiny_opts, *opts], by_folder):
        code, _, err = run_script("demo", *arguments)
        assert code == 0, err
    assert all(len(list((tmp_path / name).glob("*.jpg"))) == 3 for name in ("by_config", "by_folder"))
