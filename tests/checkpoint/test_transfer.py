"""MODEL.TRANSFER "names": rows of the heads by the names of their classes, from a model of other classes."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from small_networks import CATEGORIES, small_cfg
from tiny_training import TINY_NETWORK, as_opts

from panoptic_fusion import resolve_config
from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.class_rows import DETECTRON2, PANOPTIC_FUSION, ClassRows
from panoptic_fusion.checkpoint.model_zoo import ZOO, ZooModel, md5_of
from panoptic_fusion.checkpoint.transfer import NameMatch, fold, new_parts, read_synonyms, transfer
from panoptic_fusion.cli import child
from panoptic_fusion.config import read_config, with_values
from panoptic_fusion.data.datasets.cityscapes import CITYSCAPES
from panoptic_fusion.data.datasets.coco import COCO
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.engine.initial_weights import name_match_of, training_checkpointer
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.networks.trained import build_predictor

CLS, BOX = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
MASK, SEM = "roi_heads.mask_head.predictor", "sem_seg_head.predictor"


def space(things: str, stuff: str, first_id: int = 1) -> LabelSpace:
    """Names separated by commas; ids ascend from `first_id`, things first."""
    names = [(name, 1) for name in things.split(",")] + [(name, 0) for name in stuff.split(",")]
    return LabelSpace.from_categories(
        [{"id": first_id + i, "name": name, "isthing": thing} for i, (name, thing) in enumerate(names)]
    )


def heads(things: int, channels: int, start: float, width: int = 2) -> dict[str, torch.Tensor]:
    """Tensors whose row r is filled with start + r."""
    sizes = {
        CLS: (things + 1, width),
        BOX: (4 * things, width),
        MASK: (things, width, 1, 1),
        SEM: (channels, width, 1, 1),
    }
    state = {}
    for head, shape in sizes.items():
        rows = start + torch.arange(float(shape[0]))
        state[f"{head}.weight"] = rows.view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
        state[f"{head}.bias"] = rows.clone()
    return state


def cells(table: str) -> dict[str, list[str]]:
    """The table's rows by class: [from, class score, box, mask, semantic]."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


def test_by_hand():
    """From car, person | sky, road to Person, tram | sky, wall: the model's own rows are numbered from 100."""
    source = ClassRows(PANOPTIC_FUSION, space("car,person", "sky,road"), "full")
    target = ClassRows(PANOPTIC_FUSION, space("Person,tram", "wall,SKY_", 50), "full")
    file, model = heads(2, 4, 0), heads(2, 4, 100)
    taken, table = transfer(file, source, model, target, NameMatch())
    assert taken[f"{CLS}.bias"].tolist() == [1, 101, 2]  # person, tram, background
    assert taken[f"{BOX}.bias"].tolist() == [4, 5, 6, 7, 104, 105, 106, 107]
    assert taken[f"{MASK}.weight"][:, 0, 0, 0].tolist() == [1, 101]
    assert taken[f"{SEM}.bias"].tolist() == [100, 0, 3, 103]  # wall, sky | person, tram
    assert cells(table) == {
        "Person": ["person", "copied", "copied", "copied", "copied"],
        "tram": ["", "new", "new", "new", "new"],
        "(background)": ["background", "copied", "", "", ""],
        "wall": ["", "", "", "", "new"],
        "SKY\\_": ["sky", "", "", "", "copied"],
    }
    assert model[f"{CLS}.bias"].tolist() == [100, 101, 102] and file[f"{CLS}.bias"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("theirs", ["full", "collapsed", "stuff", DETECTRON2])
@pytest.mark.parametrize("ours", ["full", "collapsed", "stuff"])
def test_random_classes_against_brute_force(ours, theirs):
    """Every row of the model is looked up in the file by its class's name, one at a time."""
    rng = np.random.default_rng(7)

    def random_space() -> LabelSpace:
        names = [str(n) for n in rng.permutation([f"c {i}" for i in range(12)])[: rng.integers(2, 12)]]
        split = int(rng.integers(1, len(names)))
        return space(",".join(names[:split]), ",".join(n.upper().replace(" ", "_-") for n in names[split:]))

    for _ in range(30):
        a, b = random_space(), random_space()

        def semantic(s, ontology):  # names of the channels
            things = {"full": s.thing_classes, "collapsed": ("*",), "stuff": ()}
            return ["*", *s.stuff_classes] if ontology == DETECTRON2 else [*s.stuff_classes, *things[ontology]]

        def plain(name):
            return name.lower().replace("_-", " ")

        source = ClassRows(DETECTRON2, a) if theirs == DETECTRON2 else ClassRows(PANOPTIC_FUSION, a, theirs)
        file = heads(a.num_things, len(semantic(a, theirs)), 0)
        model = heads(b.num_things, len(semantic(b, ours)), 100)
        taken, _ = transfer(file, source, model, ClassRows(PANOPTIC_FUSION, b, ours), NameMatch())
        a_things, a_channels = [plain(n) for n in a.thing_classes], [plain(n) for n in semantic(a, theirs)]
        for row, name in enumerate(b.thing_classes):
            found = a_things.index(plain(name)) if plain(name) in a_things else None
            assert taken[f"{CLS}.bias"][row] == (100 + row if found is None else found)
            assert taken[f"{MASK}.bias"][row] == (100 + row if found is None else found)
            for d in range(4):
                assert taken[f"{BOX}.weight"][4 * row + d, 0] == (100 + 4 * row + d if found is None else 4 * found + d)
        assert taken[f"{CLS}.bias"][-1] == a.num_things
        for row, name in enumerate(semantic(b, ours)):
            found = a_channels.index(plain(name)) if plain(name) in a_channels else None
            assert taken[f"{SEM}.bias"][row] == (100 + row if found is None else found)


def test_class_agnostic_heads():
    """As a whole into an agnostic head; to each class of a head per class; a head per class becomes none."""
    source = ClassRows(PANOPTIC_FUSION, space("car,person", "sky"))
    target = ClassRows(PANOPTIC_FUSION, space("tram,bus,person", "sky"))
    agnostic = {f"{BOX}.weight": torch.ones(4, 2), f"{BOX}.bias": torch.arange(4.0)}
    mask = {f"{MASK}.weight": torch.full((1, 2, 1, 1), 7.0), f"{MASK}.bias": torch.full((1,), 7.0)}
    new = {k: v - 9 for k, v in {**agnostic, **mask}.items()}
    unknown = ClassRows(PANOPTIC_FUSION, None)
    for known in (source, unknown):
        taken, table = transfer({**agnostic, **mask}, known, {**heads(3, 4, 100), **new}, target, NameMatch())
        assert torch.equal(taken[f"{BOX}.bias"], torch.arange(4.0)) and taken[f"{MASK}.bias"].tolist() == [7]
        assert cells(table)["tram"] == ["", "new", "copied", "copied", "new"]
    taken, table = transfer({**agnostic, **mask}, source, heads(3, 4, 100), target, NameMatch())
    assert taken[f"{BOX}.bias"].tolist() == [0, 1, 2, 3] * 3 and taken[f"{MASK}.bias"].tolist() == [7] * 3
    taken, table = transfer({**agnostic, **mask}, unknown, heads(3, 4, 100), target, NameMatch())
    assert taken[f"{MASK}.bias"].tolist() == [100, 101, 102] and "copied" not in table
    taken, table = transfer(heads(2, 3, 0), source, {**heads(3, 4, 100), **new}, target, NameMatch())
    assert taken.keys().isdisjoint(new)
    assert cells(table)["person"] == ["person", "copied", "new", "new", "copied"]


def test_other_widths_and_unknown_classes_start_new():
    """A predictor of another width, a tensor of another shape outside the backbone; in the backbone it stays."""
    source = ClassRows(PANOPTIC_FUSION, space("car", "sky"))
    file = {**heads(1, 2, 0, width=3), "backbone.a": torch.zeros(3), "sem_seg_head.p2": torch.zeros(3)}
    model = {**heads(1, 2, 9), "backbone.a": torch.zeros(4), "sem_seg_head.p2": torch.zeros(4)}
    taken, table = transfer(file, source, model, source, NameMatch())
    assert set(taken) == {"backbone.a"}
    assert all(cell == "new" for row in cells(table).values() for cell in row[1:] if cell)
    taken, table = transfer(heads(1, 2, 0), ClassRows(PANOPTIC_FUSION, None), heads(1, 2, 9), source, NameMatch())
    assert all(torch.equal(value, heads(1, 2, 9)[name]) for name, value in taken.items()) and "copied" not in table
    # Rows that contradict the file's own classes are of unknown classes, also where the shapes agree.
    source, wrong = (ClassRows(PANOPTIC_FUSION, space(things, "sky")) for things in ("car,bus", "car,bus,tram"))
    taken, table = transfer(heads(2, 3, 0), wrong, heads(2, 3, 9), source, NameMatch())
    assert taken == {} and "copied" not in table


def test_names_and_synonyms(tmp_path):
    assert fold("Traffic_Light") == fold("traffic - light") == "traffic light" != fold("trafficlight")
    path = tmp_path / "synonyms.yaml"
    path.write_text("person: [Pedestrian, human_being]\nsky: sky-other-merged\n")
    match = NameMatch(read_synonyms(str(path)))

    def found(wanted: list[str], given: list[str]) -> list[int | None]:
        return match([(name, 1, True) for name in wanted], [(name, 2, True) for name in given])

    assert found(["HUMAN-being", "sky"], ["car", "pedestrian", "Sky other-merged"]) == [1, 2]
    assert found(["person"], ["human being", "pedestrian"]) == [1]  # the order of the group
    assert found(["person", "pedestrian"], ["pedestrian", "person"]) == [1, 0]  # its own name first
    assert found(["Car"], ["car", "CAR", "Car"]) == [2] and found(["cAr"], ["car", "CAR"]) == [0]
    assert found(["background", "things"], ["car"]) == [None, None]
    assert match(["background", ("background", 1, True)], ["background"]) == [0, None]
    for text, message in (
        ("[a, b]", "must map names"),
        ("a: [1]", "must have a name"),
        ("a: ", "must have a name"),
        ("1: [a]", "must have a name"),
        ("a: [b]\nc: [B]", "'b' is in two groups, 'a' and 'c'"),
        ("a: [", "not valid yaml"),
        ("a: !!python/object/apply:os.system ['touch x']", "not valid yaml"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message) as error:
            read_synonyms(str(path))
        assert str(error.value).startswith(f"MODEL.TRANSFER_SYNONYMS: {path}") and "\n" not in str(error.value)
    cfg = small_cfg(MODEL__TRANSFER="names", MODEL__TRANSFER_SYNONYMS=str(tmp_path / "no.yaml"))
    with pytest.raises(FileNotFoundError, match=r"MODEL.TRANSFER_SYNONYMS: .*no.yaml"):
        name_match_of(cfg)
    with pytest.raises(ConfigError, match="MODEL.TRANSFER is 'ids'"):
        resolve_config(small_cfg(MODEL__TRANSFER="ids"))


def test_new_parts():
    missing = ["sem_seg_head.a.weight", "fusion.srm.x", "roi_heads.box_head.a", "sem_seg_head.b"]
    assert new_parts(missing) == "sem_seg_head (2 tensors), fusion.srm (1 tensor), roi_heads.box_head (1 tensor)"


# -- whole networks ----------------------------------------------------------------------------------------------------

SYSTEMS = {
    "baseline": {},
    "collapsed": {"MODEL__SEM_SEG_HEAD__ONTOLOGY": "collapsed"},
    "agnostic": {"MODEL__ROI_BOX_HEAD__CLS_AGNOSTIC_BBOX_REG": True},
    "oanet": {"MODEL__PANOPTIC_FUSION__NAME": "SpatialRankingFusion"},
    "upsnet": {"MODEL__PANOPTIC_FUSION__NAME": "UPSNetFusion"},
    "seamless": {"MODEL__PANOPTIC_FUSION__NAME": "SeamlessFusion"},
}
REORDERED = [{**c, "id": {"sky": 2, "car": 8, "road": 1, "person": 9}[c["name"]]} for c in CATEGORIES]


def network(seed: int, categories=CATEGORIES, **keys):
    cfg = resolve_config(small_cfg(MODEL__CATEGORIES=categories, **keys))
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for name, value in model.named_parameters():  # so that several classes win
        if "predictor" in name:
            torch.nn.init.normal_(value, std=0.0 if name.endswith("bias") else 1.0)
    return cfg, model


def named_map(cfg, model, image) -> tuple[np.ndarray, list]:
    """Each pixel's class by name, and the scores of the things by name."""
    categories = LabelSpace.from_categories(cfg.MODEL.CATEGORIES)
    names = {True: categories.thing_classes, False: categories.stuff_classes}
    with torch.no_grad():
        output = model([{"image": image, "height": image.shape[1], "width": image.shape[2]}])[0]
    segment_map, segments = output["panoptic_seg"]
    of_id = {0: "void", **{s["id"]: names[s["isthing"]][s["category_id"]] for s in segments}}
    scores = sorted((of_id[s["id"]], round(s["score"], 4)) for s in segments if s["isthing"])
    return np.vectorize(of_id.get)(segment_map.cpu().numpy()), scores


@pytest.mark.parametrize("system", SYSTEMS)
def test_reordered_classes_give_the_same_map(system, tmp_path):
    """At iteration 0, through a file, for each system with heads of classes."""
    keys = SYSTEMS[system]
    cfg, model = network(2, **keys)
    AtomicCheckpointer.from_config(cfg, model, str(tmp_path)).save("a")
    other_cfg, other = network(1, REORDERED, MODEL__TRANSFER="names", **keys)
    training_checkpointer(other_cfg, other).load(str(tmp_path / "a.pth"))
    images = torch.randint(0, 256, (3, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    seen = set()
    for image in images:
        expected, scores = named_map(cfg, model, image)
        found, other_scores = named_map(other_cfg, other, image)
        assert (expected == found).all() and scores == other_scores
        seen.update(np.unique(expected))
    assert len(seen - {"void"}) >= 2
    fresh_cfg, fresh = network(1, REORDERED, **keys)
    assert any((named_map(cfg, model, i)[0] != named_map(fresh_cfg, fresh, i)[0]).any() for i in images)


def test_renamed_classes_start_new(tmp_path, caplog):
    """A thing and a stuff class renamed: their rows are the model's own, the others' the source's; the log says so."""
    cfg, model = network(1)
    AtomicCheckpointer.from_config(cfg, model, str(tmp_path)).save("a")
    renamed = [{**c, "name": {"car": "tram", "road": "rail"}.get(c["name"], c["name"])} for c in CATEGORIES]
    other_cfg, other = network(2, renamed, MODEL__TRANSFER="names")
    own = {k: v.clone() for k, v in other.state_dict().items()}
    with caplog.at_level(logging.INFO):
        training_checkpointer(other_cfg, other).load(str(tmp_path / "a.pth"))
    before, after = model.state_dict(), other.state_dict()
    kept = {CLS: [0, 2], BOX: range(4), MASK: [0], SEM: [0, 2]}  # person, background; person; person; sky, person
    new = {CLS: [1], BOX: range(4, 8), MASK: [1], SEM: [1, 3]}  # tram; tram; tram; rail, tram
    order = LabelSpace.from_categories(renamed)
    assert (order.thing_classes, order.stuff_classes) == (("person", "tram"), ("sky", "rail"))
    for name in after:
        head = name.rpartition(".")[0]
        if head not in kept:
            assert torch.equal(after[name], before[name])
            continue
        assert torch.equal(after[name][list(kept[head])], before[name][list(kept[head])])
        assert torch.equal(after[name][list(new[head])], own[name][list(new[head])])
    table = next(r.getMessage() for r in caplog.records if "MODEL.TRANSFER" in r.getMessage())
    rows = cells(table.partition("\n")[2])
    assert rows["tram"] == ["", "new", "new", "new", "new"] and rows["rail"] == ["", "", "", "", "new"]
    assert rows["person"] == ["person", "copied", "copied", "copied", "copied"]
    assert rows["sky"] == ["sky", "", "", "", "copied"]


def test_heads_that_the_file_lacks_start_new(tmp_path, caplog):
    """From the baseline to OANet's ranking module and another stuff head; another backbone is refused."""
    cfg, model = network(1)
    AtomicCheckpointer.from_config(cfg, model, str(tmp_path)).save("a")
    keys = {"MODEL__PANOPTIC_FUSION__NAME": "SpatialRankingFusion", "MODEL__SEM_SEG_HEAD__NAME": "DeformableSemSegHead",
            "MODEL__ROI_BOX_HEAD__FC_DIM": 20}  # fmt: skip
    other_cfg, other = network(2, MODEL__TRANSFER="names", **keys)
    with caplog.at_level(logging.INFO):
        training_checkpointer(other_cfg, other).load(str(tmp_path / "a.pth"))
    text = next(r.getMessage() for r in caplog.records if "so new" in r.getMessage())
    assert all(part in text for part in ("sem_seg_head (", "fusion.srm (", "roi_heads.box_head (", "box_predictor ("))
    assert "backbone" not in text and "mask_head" not in text
    wide_cfg, wide = network(2, MODEL__TRANSFER="names", MODEL__RESNETS__RES2_OUT_CHANNELS=16)
    with pytest.raises(UserError, match=r"another shape, the first is backbone"):
        training_checkpointer(wide_cfg, wide).load(str(tmp_path / "a.pth"))


def test_a_resumed_run_and_an_evaluation_take_the_file_as_it_is(tmp_path, caplog):
    cfg, model = network(1, MODEL__TRANSFER="names")
    checkpointer = training_checkpointer(cfg, model, str(tmp_path))
    checkpointer.save("a")
    with caplog.at_level(logging.INFO):
        checkpointer.resume_or_load("", resume=True)
    assert not any("MODEL.TRANSFER" in record.getMessage() for record in caplog.records)
    more = [*CATEGORIES, {"id": 20, "name": "bus", "isthing": 1}]
    other_cfg, other = network(2, more, MODEL__TRANSFER="names")
    with pytest.raises(UserError, match=r"thing class 2 is None in the file, 'bus' in the model\. Check that"):
        AtomicCheckpointer.from_config(other_cfg, other, require_complete=True).load(str(tmp_path / "a.pth"))


@pytest.mark.parametrize("complete", [False, True])
def test_other_classes_of_equal_number_are_never_loaded_by_position(complete, tmp_path):
    """MODEL.TRANSFER none: reordered or renamed classes have the same shapes; other ids in the same order load."""
    cfg, model = network(1)
    AtomicCheckpointer.from_config(cfg, model, str(tmp_path)).save("a")
    renamed = [{**c, "name": {"car": "tram"}.get(c["name"], c["name"])} for c in CATEGORIES]
    for categories, difference in ((REORDERED, "stuff class 0 is 'sky'"), (renamed, "thing class 1 is 'car'")):
        other_cfg, other = network(2, categories)
        before = {k: v.clone() for k, v in other.state_dict().items()}
        if complete:
            checkpointer = AtomicCheckpointer.from_config(other_cfg, other, require_complete=True)
        else:
            checkpointer = training_checkpointer(other_cfg, other)
        with pytest.raises(UserError, match=difference) as error:
            checkpointer.load(str(tmp_path / "a.pth"))
        assert ("MODEL.TRANSFER" in str(error.value)) != complete
        assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())
    other_cfg, other = network(2, [{**c, "id": c["id"] + 50} for c in CATEGORIES])
    AtomicCheckpointer.from_config(other_cfg, other, require_complete=complete).load(str(tmp_path / "a.pth"))
    assert torch.equal(other.state_dict()[f"{CLS}.weight"], model.state_dict()[f"{CLS}.weight"])


def test_allowed_to_differ_only_the_same_classes_keep_their_rows(tmp_path, caplog):
    """MODEL.ALLOW_SHAPE_MISMATCH: a class of the same name, id and kind, at another place; the rest starts new."""
    cfg, model = network(1)
    AtomicCheckpointer.from_config(cfg, model, str(tmp_path)).save("a")
    other_cfg, other = network(
        2, [{"id": 0, "name": "bus", "isthing": 1}, *CATEGORIES], MODEL__ALLOW_SHAPE_MISMATCH=True
    )
    own = other.state_dict()[f"{CLS}.weight"].clone()
    with caplog.at_level(logging.WARNING):
        training_checkpointer(other_cfg, other).load(str(tmp_path / "a.pth"))
    ours, theirs = other.state_dict()[f"{CLS}.weight"], model.state_dict()[f"{CLS}.weight"]
    assert torch.equal(ours[1:], theirs) and torch.equal(ours[0], own[0])
    assert any("rows that" in r.getMessage() and r.getMessage().endswith("start new: bus") for r in caplog.records)


def test_the_configs_that_transfer():
    """Only the published UPSNet that was trained on COCO first, and `own/`; fine-tune sets it itself."""
    assert read_config("own/panoptic_fpn_r50_coco.yaml").MODEL.TRANSFER == "names"
    for name in ("cityscapes/upsnet_r50.yaml", "cityscapes/tascnet_r50.yaml", "vistas/tascnet_r50.yaml"):
        assert read_config(name).MODEL.TRANSFER == "none"


def test_from_coco_to_cityscapes_as_the_published_upsnet():
    """Its table (/facts/upsnet.md): COCO's detection and semantic channels for each of Cityscapes; None: new."""
    cfg = read_config("cityscapes/upsnet_r101.yaml")
    source, target = (ClassRows(PANOPTIC_FUSION, d.label_space(), "full") for d in (COCO, CITYSCAPES))
    match = name_match_of(cfg)
    boxes = dict(
        zip(target.label_space.thing_classes, match(*(x.row_keys(MASK) for x in (target, source))), strict=True)
    )
    assert boxes == {
        "person": 0, "rider": None, "car": 2, "truck": 7, "bus": 5, "train": 6, "motorcycle": 3, "bicycle": 1,
    }  # fmt: skip
    names = target.label_space.stuff_classes + target.label_space.thing_classes
    channels = dict(zip(names, match(*(x.row_keys(SEM) for x in (target, source))), strict=True))
    assert channels == {
        "road": 20, "sidewalk": 43, "building": 49, "wall": 51, "fence": 37, "traffic light": 62, "vegetation": 36,
        "sky": 39, "person": 53, "car": 55, "truck": 60, "bus": 58, "train": 59, "motorcycle": 56, "bicycle": 54,
        "pole": None, "traffic sign": None, "terrain": None, "rider": None,
    }  # fmt: skip


def test_a_trained_model_on_reordered_classes(trained, tiny_cfg, tiny_data, tmp_path):
    """Show 3 of the issue: the network of 40 iterations on toy scenes, for their classes in reverse order."""
    categories = tiny_cfg.MODEL.CATEGORIES
    ids = [c["id"] for c in categories]
    reverse = [{**c, "id": new} for c, new in zip(categories, reversed(ids), strict=True)]
    cfg = with_values(tiny_cfg, {"MODEL.WEIGHTS": str(trained / "model_final.pth")})
    model = build_predictor(cfg).model
    other_cfg = tiny_cfg.clone()
    other_cfg.defrost()
    other_cfg.DATASETS.TRAIN, other_cfg.DATASETS.TEST, other_cfg.DATASETS.REGISTER = (), (), []
    other_cfg.MODEL.CATEGORIES, other_cfg.MODEL.TRANSFER = reverse, "names"
    other_cfg = resolve_config(other_cfg)
    torch.manual_seed(0)
    other = build_model(other_cfg).eval()
    training_checkpointer(other_cfg, other).load(cfg.MODEL.WEIGHTS)
    classes = [LabelSpace.from_categories(c).thing_classes for c in (categories, reverse)]
    assert classes[0] == classes[1][::-1] and len(classes[0]) > 1
    seen = set()
    for path in sorted(Path(tiny_data["val"]["images"]).iterdir()):
        image = torch.as_tensor(read_image(str(path), "BGR").transpose(2, 0, 1).copy())
        expected, scores = named_map(cfg, model, image)
        found, other_scores = named_map(other_cfg, other, image)
        assert (expected == found).all() and scores == other_scores
        seen.update(np.unique(expected))
    assert len(seen - {"void"}) >= 2


def test_fine_tuning_from_a_file_of_the_zoo(tiny_data, tmp_path, monkeypatch, run_script):
    """A file in detectron2's layout with COCO's classes, under another name; the log has a table of the toy classes."""
    opts = as_opts({**TINY_NETWORK, "SOLVER.MAX_ITER": 1, "MODEL.SEM_SEG_HEAD.CONVS_DIM": 32})
    opts += ["MODEL.BACKBONE.BOTTOM_UP", "build_narrow_resnet_backbone", "MODEL.BACKBONE.FREEZE_AT", "0"]
    monkeypatch.setattr(child, "run", lambda *words: run_script(*words)[0])
    coco = read_config("own/panoptic_fpn_r50_coco.yaml", [*opts, "MODEL.DEVICE", "cpu"])
    coco.MODEL.CATEGORIES = COCO.label_space().to_categories()
    torch.manual_seed(1)
    state = build_model(resolve_config(coco)).state_dict()
    state = {k: torch.cat([v[-1:], v[:-1]]) if k.startswith(SEM) else v for k, v in state.items()}  # things first
    weights = tmp_path / "mine.pkl"
    weights.write_bytes(pickle.dumps({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "x"}))
    url = f"https://x/model_final_{md5_of(weights)[:6]}.pkl"
    monkeypatch.setitem(ZOO, "test", ZooModel("", url, COCO.label_space))
    for split, files in tiny_data.items():
        (tmp_path / "data" / split).mkdir(parents=True)
        for key, name in (("images", "images"), ("panoptic_root", "panoptic"), ("panoptic_json", "panoptic.json")):
            (tmp_path / "data" / split / name).symlink_to(files[key])
    words = [
        "--data",
        tmp_path / "data",
        "--config-file",
        "own/panoptic_fpn_r50_coco.yaml",
        "--output",
        tmp_path / "out",
    ]
    code, out, err = run_script("fine-tune", *words, "--weights", weights, *opts)
    assert code == 0, err
    log = (tmp_path / "out" / "log.txt").read_text()
    table = cells(log.partition("by class name\n")[2].partition("\n[")[0])
    assert table["car"] == ["car", "copied", "copied", "copied", ""]
    assert table["sky"] == ["sky-other-merged", "", "", "", "copied"]
    assert table["(things)"] == ["things", "", "", "", "copied"]
    assert read_config(tmp_path / "out" / "config.yaml").TEST.BEST_METRIC == "panoptic_seg/PQ"
    assert (tmp_path / "out" / "model_best.pth").is_file()
    words[-1] = tmp_path / "refused"
    for options, message in (
        (["--weights", tmp_path / "no.pkl", *opts], "no.pkl does not exist"),
        (["--allow-download", *opts, "MODEL.WEIGHTS", "http://127.0.0.1:9/x.pkl"], "--weights FILE"),
        (["--weights", weights, *opts, "MODEL.TRANSFER_SYNONYMS", "no.yaml"], "MODEL.TRANSFER_SYNONYMS: "),
    ):
        code, out, err = run_script("fine-tune", *words, *options)
        assert code == 2 and message in err and "Traceback" not in err, err
        assert not (tmp_path / "refused" / "log.txt").exists()
