"""The zoo: downloaded from a local server, checked, in this project's layout; and a file in place of the download."""

import http.server
import json
import logging
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2_zoo import SMALL, THIN, random_images, random_network, write_zoo_pkl

from panoptic_fusion import config_file, get_cfg, load_zoo
from panoptic_fusion.checkpoint.model_zoo import URL, ZOO, ZooModel, md5_of
from panoptic_fusion.checkpoint.weights_file import read_weights_file
from panoptic_fusion.config import read_config
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.modeling.fusion import fill_in_thresholds
from panoptic_fusion.networks import build_predictor

NAME = "thin"
OPTS = [*SMALL, *THIN, "MODEL.DEVICE", "cpu"]
PANOPTIC = "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml"


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; counts the requests; cuts every file whose name has "cut" short."""

    requests: list[str] = []

    def do_GET(self):
        self.requests.append(self.path)
        if "cut" not in self.path:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def theirs(one_thread):
    return random_network(PANOPTIC, 0, THIN)


@pytest.fixture(scope="module")
def files(theirs, tmp_path_factory) -> Path:
    """The folder that is served."""
    folder = tmp_path_factory.mktemp("server")
    path = write_zoo_pkl(folder / "model.pkl", theirs)
    path.rename(folder / f"model_final_{md5_of(path)[:6]}.pkl")
    return folder


@pytest.fixture
def server(files, monkeypatch, tmp_path):
    """Its URL; downloads are cached in an empty folder, without a proxy."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(Handler, "requests", [])
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(files)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def zoo(server, files, monkeypatch) -> str:
    """A model of the table that is on the server; the name of its file."""
    file = next(files.glob("model_final_*.pkl")).name
    model = ZooModel("zoo/panoptic_fpn_r50_coco.yaml", server + file, ZOO["panoptic_fpn_r50_coco"].label_space)
    monkeypatch.setitem(ZOO, NAME, model)
    return file


@torch.no_grad()
def test_two_lines_to_a_predictor(zoo, theirs, tmp_path, caplog):
    """detectron2's own DefaultPredictor, whose reader knows no layouts, gives what detectron2's network gives."""
    predictor = DefaultPredictor(load_zoo(NAME, OPTS))
    x = random_images(1, seed=3)[0]
    ours, expected = predictor.model([dict(x)])[0], theirs([dict(x)])[0]
    assert torch.allclose(ours["sem_seg"], expected["sem_seg"][[*range(1, 54), 0]], atol=1e-5, rtol=1e-5)
    assert torch.equal(ours["panoptic_seg"][0], expected["panoptic_seg"][0])
    assert predictor.metadata.thing_classes[0] == "person" and predictor.metadata.stuff_classes[0] == "banner"
    build_predictor(load_zoo(NAME, OPTS))
    assert len(Handler.requests) == 1  # then from the cache
    cached = {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert zoo in cached and len(cached) == 2 and not any("partial" in name or "tmp" in name for name in cached)


def test_the_copy_is_of_this_config(zoo, theirs):
    """Another ontology is another copy; a fusion alone is not."""
    first = load_zoo(NAME, OPTS).MODEL.WEIGHTS
    assert load_zoo(NAME, [*OPTS, "MODEL.PANOPTIC_FUSION.NAME", "MaskGuidedFusion"]).MODEL.WEIGHTS == first
    stuff = load_zoo(NAME, [*OPTS, "MODEL.SEM_SEG_HEAD.ONTOLOGY", "stuff"]).MODEL.WEIGHTS
    assert stuff != first
    rows = read_weights_file(stuff)["model"]["sem_seg_head.predictor.bias"]
    assert torch.equal(rows, theirs.state_dict()["sem_seg_head.predictor.bias"][1:])
    assert read_weights_file(first)["panoptic_fusion"]["ontology"] == "collapsed"
    with pytest.raises(UserError, match=r"no rows of sem_seg_head.predictor for person"):
        load_zoo(NAME, [*OPTS, "MODEL.SEM_SEG_HEAD.ONTOLOGY", "full"])
    with pytest.raises(UserError, match="lacks .* tensors of the model, the first is fusion"):
        untrained = [
            "MODEL.PANOPTIC_FUSION.NAME",
            "SpatialRankingFusion",
            "MODEL.PANOPTIC_FUSION.SRM.LOSS_WEIGHT",
            "0.0",
        ]
        load_zoo(NAME, [*OPTS, *untrained])


def test_a_file_in_place_of_the_download(zoo, files, tmp_path):
    elsewhere = shutil.copy(files / zoo, tmp_path / "mine.pkl")
    cfg = load_zoo(NAME, OPTS, weights=elsewhere)
    assert Path(cfg.MODEL.WEIGHTS).is_file() and not Handler.requests
    # Its own copy is a checkpoint of this project: given again, it is taken as it is.
    again = load_zoo(NAME, OPTS, weights=shutil.copy(cfg.MODEL.WEIGHTS, tmp_path / "ours.pth"))
    first, second = (read_weights_file(c.MODEL.WEIGHTS)["model"] for c in (cfg, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(FileNotFoundError, match="nothing.pkl"):
        load_zoo(NAME, OPTS, weights="nothing.pkl")


def test_files_of_other_networks(zoo, theirs, tmp_path):
    """Names and shapes are compared: nothing is missing, left over or of another shape."""
    for change, message in (
        (lambda state: state.pop("backbone.fpn_output3.weight"), "lacks 1 tensors.*fpn_output3.weight"),
        (
            lambda state: state.update({"backbone.more": torch.zeros(1)}),
            r"1 of its tensors are left over.*backbone.more",
        ),
        (lambda state: state.update({"backbone.fpn_output3.bias": torch.zeros(5)}), r"another shape.*fpn_output3.bias"),
    ):
        state = dict(theirs.state_dict())
        change(state)
        path = tmp_path / "other.pkl"
        write_zoo_pkl(path, _State(state))
        with pytest.raises(UserError, match=message) as error:
            load_zoo(NAME, OPTS, weights=path)
        assert "other.pkl" in str(error.value) and "\n" not in str(error.value)


class _State:
    def __init__(self, state):
        self.state = state

    def state_dict(self):
        return self.state


def test_unmarked_files_need_the_key(zoo, theirs, tmp_path):
    torch.save({"model": theirs.state_dict()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="a.pth.*MODEL.WEIGHTS_LAYOUT"):
        load_zoo(NAME, OPTS, weights=tmp_path / "a.pth")
    load_zoo(NAME, [*OPTS, "MODEL.WEIGHTS_LAYOUT", "detectron2"], weights=tmp_path / "a.pth")


@pytest.mark.parametrize("file", ["nothing_abcdef.pkl", "cut_abcdef.pkl"])
def test_a_download_that_fails(file, server, files, zoo, monkeypatch, tmp_path, caplog):
    """Not there, or ended early: one line says what to do; nothing is left that a later call would take."""
    shutil.copy(files / zoo, files / "cut_abcdef.pkl")
    monkeypatch.setitem(ZOO, "other", ZooModel("zoo/panoptic_fpn_r50_coco.yaml", server + file, None))
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(UserError, match=rf"{file} cannot be downloaded \(.*--weights FILE") as error:
        load_zoo("other", OPTS)
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_without_a_network(zoo, monkeypatch):
    monkeypatch.setitem(ZOO, "other", ZooModel("zoo/panoptic_fpn_r50_coco.yaml", "http://127.0.0.1:9/a_1.pkl", None))
    with pytest.raises(UserError, match="cannot be downloaded.*Connection refused.*--weights FILE"):
        load_zoo("other", OPTS)


def test_a_damaged_download(server, files, zoo, monkeypatch, tmp_path):
    """As the login page of a network: its checksum is not the one in its name; it is not kept."""
    (files / "model_final_abcdef.pkl").write_text("<html>log in first</html>")
    url = server + "model_final_abcdef.pkl"
    monkeypatch.setitem(ZOO, "other", ZooModel("zoo/panoptic_fpn_r50_coco.yaml", url, None))
    for _ in range(2):
        with pytest.raises(UserError, match="damaged.*try again"):
            load_zoo("other", OPTS)
    assert len(Handler.requests) == 2


def test_unknown_names_and_options():
    with pytest.raises(UserError, match="model 'resnet' is not in the zoo.*panoptic_fpn_r50_coco"):
        load_zoo("resnet")
    with pytest.raises(ConfigError, match="MODEL.NOTHING"):
        load_zoo("panoptic_fpn_r50_coco", ["MODEL.NOTHING", "1"])


@pytest.mark.parametrize("name", ZOO)
def test_table_and_configs_name_the_same_files(name):
    """And detectron2 has the model by this name and address: read from its source, whose import needs pkg_resources."""
    import detectron2

    source = Path(detectron2.__file__).with_name("model_zoo").joinpath("model_zoo.py").read_text()
    cfg, model = read_config(config_file(ZOO[name].config)), ZOO[name]
    assert cfg.MODEL.WEIGHTS == model.url.replace(URL, "detectron2://")
    folder, number, file = model.url.removeprefix(URL).rsplit("/", 2)
    assert f'"{folder}": "{number}/{file}"' in source and URL in source


@pytest.mark.parametrize("name", ZOO)
def test_settings_of_inference_are_detectron2s(name):
    """What decides the result beside the weights has the values of detectron2's config."""
    from detectron2.config import get_cfg as get_detectron2_cfg
    from detectron2_zoo import CONFIGS

    folder = ZOO[name].url.removeprefix(URL).rsplit("/", 2)[0]
    theirs, ours = get_detectron2_cfg(), get_cfg()
    theirs.merge_from_file(str(CONFIGS / f"{folder}.yaml"))
    ours.merge_from_file(config_file(ZOO[name].config))
    for key in ("MIN_SIZE_TEST", "MAX_SIZE_TEST", "FORMAT"):
        assert ours.INPUT[key] == theirs.INPUT[key], key
    assert ours.TEST.DETECTIONS_PER_IMAGE == theirs.TEST.DETECTIONS_PER_IMAGE
    for section in ("RESNETS", "FPN", "ANCHOR_GENERATOR", "ROI_BOX_HEAD"):
        assert {k: v for k, v in ours.MODEL[section].items() if theirs.MODEL[section].get(k) != v} == {}, section
    for section, added in (
        ("RPN", {"NORM"}),
        ("ROI_MASK_HEAD", {"RUN_ON_ALL_REGIONS"}),
        ("ROI_HEADS", {"NAME", "NUM_CLASSES"}),
    ):
        changed = {k for k, v in ours.MODEL[section].items() if theirs.MODEL[section].get(k) != v}
        assert changed <= added, section
    for key in ("PIXEL_MEAN", "PIXEL_STD", "MASK_ON"):
        assert ours.MODEL[key] == theirs.MODEL[key], key
    for key in ("IN_FEATURES", "CONVS_DIM", "COMMON_STRIDE", "NORM"):
        assert ours.MODEL.SEM_SEG_HEAD[key] == theirs.MODEL.SEM_SEG_HEAD[key], key
    combine, fusion = theirs.MODEL.PANOPTIC_FPN.COMBINE, fill_in_thresholds(ours).MODEL.PANOPTIC_FUSION
    for key in ("OVERLAP_THRESH", "STUFF_AREA_LIMIT", "INSTANCES_CONFIDENCE_THRESH"):
        assert fusion[key] == combine[key], key
    assert fusion.NAME == "HeuristicFusion"
    assert ours.SOLVER.MAX_ITER == theirs.SOLVER.MAX_ITER and ours.SOLVER.STEPS == theirs.SOLVER.STEPS
    assert ours.INPUT.MIN_SIZE_TRAIN == theirs.INPUT.MIN_SIZE_TRAIN


def test_demo_of_the_zoo(zoo, run_script, tmp_path):
    image = random_images(1, seed=4)[0]["image"].permute(1, 2, 0).numpy()
    assert cv2.imwrite(str(tmp_path / "a.png"), image)
    words = ["--input", tmp_path / "a.png", "--output", tmp_path / "out"]
    code, out, err = run_script("demo", "--zoo", NAME, *words, "--opts", *OPTS)
    assert code == 0, err
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert "1 image:" in out and len(content["annotations"]) == 1 and len(content["categories"]) == 80 + 53


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--zoo", "nothing"], "model 'nothing' is not in the zoo; available: panoptic_fpn_r50_coco"),
        (["--zoo", NAME, "--model", "x"], "--zoo is a model of its own"),
        (["--weights", "x.pkl", "--model", "x"], "--weights needs --zoo NAME"),
        (["--zoo", NAME, "--weights", "gone.pkl"], "the weights gone.pkl do not exist"),
    ],
)
def test_what_the_demo_refuses(zoo, run_script, photo_file, options, text):
    code, _, err = run_script("demo", *options, "--input", photo_file, "--output", photo_file.parent / "out")
    assert code == 2 and text in err.splitlines()[-1]


@pytest.fixture
def photo_file(tmp_path) -> Path:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((40, 40, 3), np.uint8))
    return path
