"""Layouts are recognized, and rows go where their class is."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.checkpoint.class_rows import DETECTRON2, PANOPTIC_FUSION, ClassRows, take_rows
from panoptic_fusion.checkpoint.loaded_weights import load_weights
from panoptic_fusion.checkpoint.model_zoo import ZOO, ZooModel
from panoptic_fusion.data.datasets.cityscapes import CITYSCAPES
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import ConfigError, UserError


def categories(*classes) -> list[dict]:
    """(id, name, isthing) as categories."""
    return [{"id": i, "name": name, "isthing": isthing, "color": [i, i, i]} for i, name, isthing in classes]


CLASSES = categories((1, "car", 1), (4, "dog", 1), (2, "sky", 0), (7, "road", 0), (9, "tree", 0))
SPACE = LabelSpace.from_categories(CLASSES)


class Heads(nn.Module):
    """The heads of a network with T things and C semantic channels, by the names of its tensors."""

    def __init__(self, things: int, channels: int, width: int = 3):
        super().__init__()
        box = nn.ModuleDict({"cls_score": nn.Linear(width, things + 1), "bbox_pred": nn.Linear(width, 4 * things)})
        mask = nn.ModuleDict({"predictor": nn.Conv2d(width, things, 1), "deconv": nn.Linear(width, width)})
        self.roi_heads = nn.ModuleDict({"box_predictor": box, "mask_head": mask})
        self.sem_seg_head = nn.ModuleDict({"predictor": nn.Conv2d(width, channels, 1)})


def checkpointer(model, space=SPACE, ontology="collapsed", layout="", **kwargs):
    return AtomicCheckpointer(model, rows=ClassRows(PANOPTIC_FUSION, space, ontology), weights_layout=layout, **kwargs)


def numbered(things: int, channels: int) -> dict[str, torch.Tensor]:
    """Tensors of `Heads`, each row filled with its number."""
    state = Heads(things, channels).state_dict()
    rows = {k: torch.arange(float(len(v))).view(-1, *[1] * (v.dim() - 1)) for k, v in state.items()}
    return {k: row.expand(state[k].shape).clone() for k, row in rows.items()}


def rows_of(model, name: str) -> list[float]:
    return model.state_dict()[f"{name}.bias"].tolist()


def write_pkl(path, tensors, **other):
    with open(path, "wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in tensors.items()}, **other}, file)
    return str(path)


def test_by_hand(tmp_path):
    """detectron2: [things, sky, road, tree]; ours: sky, road, tree, things. Boxes and masks stay."""
    path = write_pkl(tmp_path / "a.pkl", numbered(2, 4), __author__="detectron2")
    model = Heads(2, 4)
    checkpointer(model, require_complete=True).load(path)
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3, 0]
    assert rows_of(model, "roi_heads.box_predictor.cls_score") == [0, 1, 2]
    assert rows_of(model, "roi_heads.box_predictor.bbox_pred") == list(range(8))
    assert rows_of(model, "roi_heads.mask_head.predictor") == [0, 1]
    model = Heads(2, 3)
    checkpointer(model, ontology="stuff", require_complete=True).load(path)
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3]
    model = Heads(2, 5)
    before = rows_of(model, "sem_seg_head.predictor")
    checkpointer(model, ontology="full").load(path)
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3, *before[3:]]


def test_what_says_the_layout(tmp_path):
    """The mark; else config.yaml; else the key; else `__author__` of a .pkl; else it is refused."""
    order = {PANOPTIC_FUSION: [0, 1, 2, 3], DETECTRON2: [1, 2, 3, 0]}

    def loaded(path, layout=""):
        model = Heads(2, 4)
        checkpointer(model, layout=layout, require_complete=True).load(str(path))
        return rows_of(model, "sem_seg_head.predictor")

    for folder in ("unmarked", "marked", "config"):
        (tmp_path / folder).mkdir()
    torch.save({"model": numbered(2, 4)}, tmp_path / "unmarked/a.pth")
    torch.save(numbered(2, 4), tmp_path / "unmarked/b.pth")
    no_author = write_pkl(tmp_path / "unmarked/c.pkl", numbered(2, 4))  # Caffe2's, by its form
    torch.save({"model": numbered(2, 4)}, tmp_path / "config/a.pth")
    settings = {"MODEL": {"CATEGORIES": CLASSES, "SEM_SEG_HEAD": {"ONTOLOGY": "collapsed"}}}
    (tmp_path / "config/config.yaml").write_text(yaml.safe_dump(settings))
    saving = checkpointer(Heads(2, 4), save_dir=str(tmp_path / "marked"))
    saving.model.load_state_dict(numbered(2, 4))
    saving.save("a")
    author = write_pkl(tmp_path / "unmarked/d.pkl", numbered(2, 4), __author__="x")

    assert loaded(tmp_path / "marked/a.pth") == order[PANOPTIC_FUSION]
    assert loaded(tmp_path / "marked/a.pth", DETECTRON2) == order[PANOPTIC_FUSION]  # as when it is resumed
    assert loaded(tmp_path / "config/a.pth") == order[PANOPTIC_FUSION]
    with pytest.raises(ConfigError, match=r"WEIGHTS_LAYOUT is 'detectron2', but .*a.pth is a checkpoint of"):
        loaded(tmp_path / "config/a.pth", DETECTRON2)
    assert loaded(author) == order[DETECTRON2]
    assert loaded(author, PANOPTIC_FUSION) == order[PANOPTIC_FUSION]
    for path in (tmp_path / "unmarked/a.pth", tmp_path / "unmarked/b.pth"):
        for layout, expected in order.items():
            assert loaded(path, layout) == expected
    for path in (tmp_path / "unmarked/a.pth", tmp_path / "unmarked/b.pth", no_author):
        with pytest.raises(UserError, match=r"LAYOUT to panoptic_fusion or detectron2|tensors of a model"):
            loaded(path)
    # A config of another program beside the file, or a broken one, says nothing.
    for text in ("MODEL: {META_ARCHITECTURE: PanopticFPN}", "[1", "x", "MODEL: {CATEGORIES: [], SEM_SEG_HEAD: {}}"):
        (tmp_path / "unmarked/config.yaml").write_text(text)
        with pytest.raises(UserError, match="MODEL.WEIGHTS_LAYOUT"):
            loaded(tmp_path / "unmarked/a.pth")


def test_without_a_semantic_predictor_nothing_is_asked(tmp_path):
    """Both layouts are the same then."""
    only_boxes = {k: v for k, v in numbered(2, 4).items() if not k.startswith("sem_seg_head")}
    torch.save({"model": only_boxes}, tmp_path / "a.pth")
    model = Heads(2, 4)
    checkpointer(model).load(str(tmp_path / "a.pth"))
    assert rows_of(model, "roi_heads.mask_head.predictor") == [0, 1]
    torch.save({"model": numbered(2, 9)}, tmp_path / "b.pth")
    model = Heads(2, 4)
    del model.sem_seg_head
    checkpointer(model).load(str(tmp_path / "b.pth"))


def test_the_mark(tmp_path):
    """Plain values that weights_only=True reads; a file with other values is refused in one line."""
    model = Heads(2, 4)
    checkpointer(model, save_dir=str(tmp_path)).save("a", iteration=3)
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    assert content["panoptic_fusion"] == {
        "format": 1,
        "categories": SPACE.to_categories(),
        "ontology": "collapsed",
    }
    weights = load_weights(str(tmp_path / "a.pth"))
    assert weights.rows == ClassRows(PANOPTIC_FUSION, SPACE, "collapsed") and weights.rest == {"iteration": 3}
    for change, message in (
        ({"format": 2}, "later version"),
        ({"format": "new"}, "later version"),
        ({"categories": [{"id": 1}]}, "has no name"),
        ({"categories": 5}, "no categories"),
        ({"ontology": "other"}, "unknown ontology"),
        ({"ontology": []}, "unknown ontology"),
    ):
        changed = {**content, "panoptic_fusion": content["panoptic_fusion"] | change}
        torch.save(changed, tmp_path / "b.pth")
        with pytest.raises(UserError, match=message) as error:
            load_weights(str(tmp_path / "b.pth"))
        assert "b.pth" in str(error.value) and "\n" not in str(error.value)
    torch.save({**content, "panoptic_fusion": [1]}, tmp_path / "b.pth")
    with pytest.raises(UserError, match="later version"):
        load_weights(str(tmp_path / "b.pth"))


def test_classes_of_a_zoo_file_are_known_for_any_target(tmp_path, monkeypatch):
    """Also under another name; a class is taken if name, id and kind agree, the others start new."""
    path = write_pkl(tmp_path / "renamed.pkl", numbered(2, 4), __author__="Detectron2 Model Zoo")
    import panoptic_fusion.checkpoint.model_zoo as zoo

    url = f"https://x/model_final_{zoo.md5_of(path)[:6]}.pkl"
    monkeypatch.setitem(ZOO, "test", ZooModel("", url, lambda: SPACE))
    target = LabelSpace.from_categories(
        categories((1, "car", 1), (3, "cat", 1), (5, "dog", 1), (6, "tram", 1), (2, "sky", 0), (9, "fence", 0))
    )
    model = Heads(4, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    saving = checkpointer(model, target)
    saving.load(path)
    name = "roi_heads.box_predictor.cls_score"
    assert rows_of(model, name) == [0, *before[f"{name}.bias"][1:4].tolist(), 2]
    name = "roi_heads.box_predictor.bbox_pred"
    assert rows_of(model, name) == [0, 1, 2, 3, *before[f"{name}.bias"][4:].tolist()]
    assert rows_of(model, "sem_seg_head.predictor") == [1, float(before["sem_seg_head.predictor.bias"][1]), 0]
    assert saving._new_rows["roi_heads.mask_head.predictor"] == ["cat", "dog", "tram"]
    with pytest.raises(UserError, match="no rows of roi_heads.box_predictor.cls_score for cat, dog, tram. Train"):
        checkpointer(Heads(4, 3), target, require_complete=True).load(path)


def test_unknown_classes_are_not_taken_by_their_shapes(tmp_path):
    """A file of detectron2 with other counts: its 5 channels would fit the 5 of the ontology full."""
    path = write_pkl(tmp_path / "a.pkl", numbered(2, 5), __author__="x")
    model = Heads(2, 5)
    before = rows_of(model, "sem_seg_head.predictor")
    checkpointer(model, ontology="full").load(path)
    assert rows_of(model, "sem_seg_head.predictor") == before
    assert load_weights(path, expected=SPACE).rows == ClassRows(DETECTRON2, None)


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_against_brute_force(ontology):
    """Random label spaces: each row of the model is looked up by its class in the file's list of classes."""
    random = np.random.default_rng(5)
    for _ in range(50):
        pool = [(int(i), f"c{i}", int(random.integers(2))) for i in random.permutation(30)[:16]]
        pool += [(40, "thing", 1), (41, "stuff", 0)]
        source, target = (
            LabelSpace.from_categories(categories(*[c for c in pool if c[0] >= 40 or random.random() < 0.7]))
            for _ in range(2)
        )
        T, S = source.num_things, source.num_stuff
        file = numbered(T, S + 1)
        model = {k: -1 - v for k, v in numbered(target.num_things, target.num_channels(ontology)).items()}
        taken, new = take_rows(file, ClassRows(DETECTRON2, source), model, ClassRows(PANOPTIC_FUSION, target, ontology))

        their_things, their_stuff = list(source.thing_ids), list(source.stuff_ids)
        expected, fresh = [], []
        for s, i in enumerate(target.stuff_ids):
            known = i in their_stuff
            expected.append(1 + their_stuff.index(i) if known else -1 - s)
            fresh += [] if known else [target.stuff_classes[s]]
        if ontology == "full":
            expected += [-1 - target.num_stuff - t for t in range(target.num_things)]
            fresh += target.thing_classes
        elif ontology == "collapsed":
            expected.append(0)
        assert taken["sem_seg_head.predictor.bias"].tolist() == expected
        assert taken["sem_seg_head.predictor.weight"][:, 0, 0, 0].tolist() == expected
        assert new.get("sem_seg_head.predictor", []) == fresh
        expected = [their_things.index(i) if i in their_things else -1 - t for t, i in enumerate(target.thing_ids)]
        assert taken["roi_heads.mask_head.predictor.bias"].tolist() == expected
        assert taken["roi_heads.box_predictor.cls_score.bias"].tolist() == [*expected, T]
        deltas = [4 * row + k if row >= 0 else -1 - 4 * t - k for t, row in enumerate(expected) for k in range(4)]
        assert taken["roi_heads.box_predictor.bbox_pred.bias"].tolist() == deltas
        assert torch.equal(taken["roi_heads.mask_head.deconv.bias"], file["roi_heads.mask_head.deconv.bias"])


def test_class_agnostic_heads_and_other_widths_stay(tmp_path):
    file = numbered(2, 4)
    file["roi_heads.box_predictor.bbox_pred.weight"] = torch.ones(4, 3)
    file["roi_heads.box_predictor.bbox_pred.bias"] = torch.ones(4)
    model = Heads(2, 4)
    model.roi_heads["box_predictor"]["bbox_pred"] = nn.Linear(3, 4)
    path = write_pkl(tmp_path / "a.pkl", file, __author__="x")
    checkpointer(model, require_complete=True).load(path)
    assert rows_of(model, "roi_heads.box_predictor.bbox_pred") == [1] * 4
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3, 0]
    with pytest.raises(UserError, match="tensors have another shape"):
        checkpointer(Heads(2, 4, width=5)).load(path)


def test_tensors_saved_by_several_processes_have_a_prefix(tmp_path):
    torch.save({"model": {f"module.{k}": v for k, v in numbered(2, 4).items()}}, tmp_path / "a.pth")
    model = Heads(2, 4)
    checkpointer(model, layout=DETECTRON2, require_complete=True).load(str(tmp_path / "a.pth"))
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3, 0]


def test_order_of_bytes_and_of_memory(tmp_path):
    """Arrays of the other byte order, and in Fortran order."""
    state = {k: np.asfortranarray(v.numpy().astype(">f4")) for k, v in numbered(2, 4).items()}
    with open(tmp_path / "a.pkl", "wb") as file:
        pickle.dump({"model": state, "__author__": "x"}, file)
    model = Heads(2, 4)
    checkpointer(model, require_complete=True).load(str(tmp_path / "a.pkl"))
    assert rows_of(model, "sem_seg_head.predictor") == [1, 2, 3, 0]


def test_odd_contents_are_refused_in_one_line(tmp_path):
    for number, content in enumerate(
        [
            [1],
            {"model": [1], "__author__": "x"},
            {"model": {"a": "text"}, "__author__": "x"},
            {"model": {3: np.zeros(2)}, "__author__": "x"},
            {"blobs": [1]},
            {"a": None},
            {"model": {"sem_seg_head.predictor.bias": np.zeros(())}, "__author__": "x"},
            {"model": {"sem_seg_head.predictor.weight": np.zeros((4, 9, 1, 1), "f4")}, "__author__": "x"},
        ]
    ):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError) as error:
            checkpointer(Heads(2, 4), require_complete=True).load(str(path))
        assert "\n" not in str(error.value)


def test_the_list_of_cityscapes_is_in_detectron2s_order():
    """Its registration lists the thing classes in this order (detectron2/data/datasets/builtin_meta.py)."""
    from detectron2.data import MetadataCatalog

    theirs = MetadataCatalog.get("cityscapes_fine_instance_seg_val").thing_classes
    assert list(CITYSCAPES.label_space().thing_classes) == list(theirs)


def test_the_lists_of_coco_are_in_detectron2s_order():
    from detectron2.data import MetadataCatalog

    theirs = MetadataCatalog.get("coco_2017_val_panoptic_separated")
    space = ZOO["panoptic_fpn_r50_coco"].label_space()
    assert list(space.thing_classes) == theirs.thing_classes
    contiguous = SimpleNamespace(**theirs.as_dict()).stuff_dataset_id_to_contiguous_id
    assert [contiguous[i] for i in space.stuff_ids] == list(range(1, 54))
    assert [theirs.thing_dataset_id_to_contiguous_id[i] for i in space.thing_ids] == list(range(80))
