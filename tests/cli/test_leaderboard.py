"""Leaderboards: costs against counts by hand, the page from finished trainings, and what it refuses."""

import errno
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from detectron2.data.catalog import Metadata
from detectron2.layers import FrozenBatchNorm2d
from tiny_training import ROOT, as_opts
from torch import nn
from torchvision.ops import DeformConv2d

from panoptic_fusion import files
from panoptic_fusion.cli.experiments import costs, page, pictures
from panoptic_fusion.cli.experiments.spec import read_spec
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import DiskError

QUALITY = {"PQ": 30.0, "PQ_dagger": 31, "SQ": 70, "RQ": 40, "PQ_th": 20, "PQ_st": 45, "mIoU": 50, "images": 3}


# -- costs -----------------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A network that takes a batch of dicts."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, inputs):
        return [self.net(x["image"][None]) for x in inputs]


def test_parameters_count_frozen_norms():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), FrozenBatchNorm2d(8), nn.PReLU(8))
    assert costs.count_parameters(net) == 8 * 3 * 9 + 8 + 16 + 16 + 8


def test_macs_of_convolutions_and_products():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4 * 6, 5))
    macs = costs.count_macs(Wrapped(net), [{"image": torch.randn(3, 8, 12)}])
    assert macs == 4 * 6 * 8 * 3 * 9 + 8 * 4 * 6 * 5


@pytest.mark.parametrize("groups", [1, 4])
def test_macs_of_a_deformable_convolution_are_those_of_the_plain_one(groups):
    class Deformable(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = DeformConv2d(8, 16, 3, padding=1, stride=2, groups=groups)

        def forward(self, x):
            return self.conv(x, torch.zeros(1, 18, 5, 6))

    image = [{"image": torch.randn(8, 10, 12)}]
    plain = costs.count_macs(Wrapped(nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=groups)), image)
    assert costs.count_macs(Wrapped(Deformable()), image) == plain == 5 * 6 * 16 * 8 // groups * 9


def test_peak_of_tensors():
    kept = torch.zeros(1000)

    def two_of_three_at_a_time():
        first = kept.expand(1000, 1000) + 1  # 4 MB
        second = first + 1
        del first
        return second.sum() + (second * 2).sum()

    assert 8_000_000 <= costs.peak_bytes(two_of_three_at_a_time, "cpu") < 8_100_000


def test_a_measurement_in_a_process_of_its_own(trained):
    row = costs._child(1, "memory", str(trained), "96x64")
    model, cfg = costs.prepare(str(trained))
    inputs = costs.inputs_of(cfg, (96, 64))
    assert inputs[0]["image"].shape == (3, 64, 96)
    assert row["parameters"] == sum(p.numel() for p in model.parameters())
    assert row["macs"] == costs.count_macs(model, inputs)
    # the weights and the finest feature map, at least; none of the libraries that building a model imports
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert weights + 32 * 32 * 48 * 4 < row["memory"] < weights + 20 * 2**20


def test_a_measurement_that_fails(tmp_path):
    with pytest.raises(RuntimeError, match="measuring memory .* failed:(.|\n)*config.yaml"):
        costs._child(1, "memory", str(tmp_path), "96x64")


def test_the_table_of_costs_by_hand():
    at = costs.CostsAtSize
    found = {
        "small": costs.Costs(3_456_000, {(96, 64): at(2_500_000_000, 3 * 2**20, 0.25), (9, 7): at(10**9, 2**30, 1.5)}),
        "large": costs.Costs(7_000_000, {(96, 64): at(4 * 10**9, 2**20, 0.0004), (9, 7): at(10**7, 0, 12.0)}),
    }
    assert page.cost_table(found, [(96, 64), (9, 7)]) == [
        ["system", "parameters, M"]
        + ["GMAC, 96×64", "s per image", "peak memory, MiB"]
        + ["GMAC, 9×7", "s per image", "peak memory, MiB"],
        ["small", "3.46", "2.50", "0.250", "3", "1.00", "1.500", "1024"],
        ["large", "7.00", "4.00", "0.000", "1", "0.01", "12.000", "0"],
    ]


# -- the figure ------------------------------------------------------------------------------------------------------


def test_the_figure_shows_mean_and_deviation_at_the_time_of_each_system(tmp_path, monkeypatch):
    figures, save = [], pictures.Figure.savefig
    monkeypatch.setattr(pictures.Figure, "savefig", lambda self, *a, **k: figures.append(self) or save(self, *a, **k))
    quality = {"fast": [30.0, 34.0], "slow": [50.0], "unknown": [None]}
    pictures.draw_figure(tmp_path / "figure.png", quality, {"fast": 0.1, "slow": 0.5, "unknown": 0.2}, (480, 360))
    axes = figures[0].axes[0]
    handles, labels = axes.get_legend_handles_labels()
    assert labels == ["fast", "slow"]
    points = [(*handle.lines[0].get_xdata(), *handle.lines[0].get_ydata()) for handle in handles]
    assert points == [(0.1, 32.0), (0.5, 50.0)]
    low, high = (line.get_ydata()[0] for line in handles[0].lines[1])
    assert (low, high) == pytest.approx((32 - 8**0.5, 32 + 8**0.5)) and not handles[1].lines[1]
    assert axes.get_xlabel() == "seconds per image, 480×360" and axes.get_ylabel() == "PQ"
    assert cv2.imread(str(tmp_path / "figure.png")) is not None


# -- the page --------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished(trained, tmp_path, monkeypatch, toy_config, tiny_settings):
    """A spec of two systems with two seeds whose trainings are there: copies of one. Nothing is started."""
    spec = tmp_path / "leaderboard_tiny.yaml"
    runs = {"baseline": {"config": toy_config}, "other": {"config": toy_config, "opts": ["SOLVER.MAX_ITER", 40]}}
    common = as_opts({key: value for key, value in tiny_settings.items() if key != "SEED"})
    spec.write_text(yaml.safe_dump({"seeds": [1, 2], "common": common, "runs": runs}))
    output = tmp_path / "out"
    for i, name in enumerate(runs):
        for seed in (1, 2):
            folder = output / name / f"seed{seed}"
            shutil.copytree(trained, folder)
            write_results(folder, PQ=30.0 + 10 * i + 2 * seed)
            lines = [{"iteration": 9, "time": 0.5}, {"iteration": 19, "time": 1.5 + 2 * seed}]  # 10 iterations each
            (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (folder / "ablation.json").write_text(json.dumps({"commit": "abc123", "settings": {}}))

    started = []
    monkeypatch.setattr(page, "run_spec", lambda *words, **options: started.append(words) or [])
    monkeypatch.setattr(costs, "_child", lambda threads, *job: costs.run_job(job))
    # It evaluates each system in a process of its own; tests/cli/test_report.py does that.
    monkeypatch.setattr(page, "report_models", lambda models, folder, **options: [{"page": (list(models), folder)}])
    return spec, output, started


def write_results(folder, **changes):
    results = {"panoptic_seg": {**QUALITY, **changes}, "segm": {"AP": 12.0}}
    (folder / "results.json").write_text(json.dumps(results))


def rows_of(page: str) -> dict[str, list[list[str]]]:
    """{first cell: [cells of its row in each table]}."""
    rows = {}
    for line in page.splitlines():
        if line.startswith("|") and not line.startswith("|:"):
            first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows.setdefault(first, []).append(cells)
    return rows


@pytest.mark.parametrize("photos", [False, True])
def test_page_figure_and_gallery(finished, run_script, tmp_path, monkeypatch, tiny_cfg, photos):
    spec, output, started = finished
    docs = tmp_path / "docs"
    monkeypatch.setattr(page, "commit", lambda: "def456+" if list(docs.glob("*.png")) else "def456")
    options = ["--sizes", "96x64", "128x96", "--repeats", "1", *(["--photos"] if photos else [])]
    code, out, err = run_script("leaderboard", spec, "--output", output, "--docs", docs, *options)
    assert code == 0, err
    words = [spec, "--output", output, "--docs", docs, "--sizes", "96x64", "128x96", "--repeats", 1]
    command = " ".join(map(str, ["panoptic-fusion leaderboard", *words, *(["--photos"] if photos else [])]))
    assert started == [(spec, output, 1, command)]
    assert out.splitlines()[-1] == f"Report: {(['baseline', 'other'], output / 'report')}"
    text = (docs / "leaderboard_tiny.md").read_text()
    assert text in out and f"Generated by `{command}`. Training runs: commit abc123. Costs: commit def456, " in text
    rows = rows_of(text)
    assert rows["system"][0] == ["PQ", "PQ_th", "PQ_st", "SQ", "RQ", "PQ†", "mIoU", "mask AP", "training s", "seeds"]
    # 32 and 34; 42 and 44
    assert rows["baseline"][0][:2] == ["33.00 ± 1.41", "20.00 ± 0.00"]
    assert rows["other"][0][0] == "43.00 ± 1.41" and rows["other"][0][7] == "12.00 ± 0.00"
    assert rows["other"][0][8:] == ["50", "2"]  # the mean of 5 + 35 and 5 + 55 seconds, two seeds
    record = json.loads((output / "costs.json").read_text())
    for name in ("baseline", "other"):
        small, large = (record[name]["sizes"][size] for size in ("96x64", "128x96"))
        expected = [f"{record[name]['parameters'] / 1e6:.2f}"]
        for at in (small, large):
            expected += [f"{at['macs'] / 1e9:.2f}", f"{at['seconds']:.3f}", f"{at['memory'] / 2**20:.0f}"]
        assert rows[name][1] == expected
        assert 0 < small["macs"] < large["macs"] and small["seconds"] > 0
    assert record["baseline"]["parameters"] == record["other"]["parameters"]
    assert cv2.imread(str(docs / "leaderboard_tiny.png")).std() > 5
    gallery = cv2.imread(str(docs / f"leaderboard_tiny_gallery.{'jpg' if photos else 'png'}"))
    columns = 4 if photos else 2
    height = pictures.TITLE_HEIGHT + 3 * (round(pictures.CELL_WIDTH * 96 / 128) + pictures.GAP)
    assert gallery.shape == (height, columns * (pictures.CELL_WIDTH + pictures.GAP), 3)


def test_pictures_on_a_full_disk(trained, tmp_path, monkeypatch):
    """OpenCV would write nothing and not say so."""

    class Full(files._Raw):
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "_Raw", Full)
    with pytest.raises(DiskError, match=r"gallery.jpg: No space left"):
        pictures.draw_gallery(tmp_path / "gallery.jpg", {"one": str(trained)}, 1, True)
    with pytest.raises(DiskError, match=r"figure.png: No space left"):
        pictures.draw_figure(tmp_path / "figure.png", {"one": [50.0]}, {"one": 0.1}, (480, 360))
    assert not list(tmp_path.iterdir())


def test_without_photos_nothing_of_them_is_seen(trained, tmp_path, tiny_cfg):
    """Another photo under the same prediction gives the same gallery."""
    drawn = []
    original = cv2.imread
    for brightness in (0, 90):

        def read(path, *args, brightness=brightness):
            image = original(path, *args)
            return image if image is None else cv2.add(image, brightness)

        class Predictor:
            metadata = LabelSpace.from_categories(tiny_cfg.MODEL.CATEGORIES).apply_to_metadata(Metadata())

            def __call__(self, image):
                ids = torch.zeros(image.shape[:2], dtype=torch.int32)
                ids[: len(ids) // 2] = 1
                return {"panoptic_seg": (ids, [{"id": 1, "isthing": False, "category_id": 0}])}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pictures.cv2, "imread", read)
            patch.setattr(pictures, "build_predictor", lambda cfg: Predictor())
            pictures.draw_gallery(tmp_path / "gallery.png", {"one": str(trained)}, 2, False)
        drawn.append(original(str(tmp_path / "gallery.png")))
    assert np.array_equal(*drawn) and drawn[0].std() > 5


@pytest.mark.parametrize("flag", [[], ["--allow-download"]], ids=["without", "with"])
def test_the_measurements_may_download_if_the_trainings_may(finished, run_script, tmp_path, monkeypatch, flag):
    spec, output, _ = finished
    allowed = {costs: set(), pictures: set()}
    for module, seen in allowed.items():

        def load(*args, allow_download=False, whole=module.load_trained, seen=seen, **options):
            seen.add(allow_download)
            return whole(*args, allow_download=allow_download, **options)

        monkeypatch.setattr(module, "load_trained", load)
    options = ["--output", output, "--docs", tmp_path / "docs", "--sizes", "96x64", "--repeats", "1"]
    code, _, err = run_script("leaderboard", spec, *options, *flag)
    assert code == 0, err
    assert allowed == {costs: {bool(flag)}, pictures: {bool(flag)}}


def test_an_empty_cell_is_reported(finished, run_script, tmp_path):
    spec, output, _ = finished
    for seed in (1, 2):
        write_results(output / "other" / f"seed{seed}", mIoU=None)
    options = ["--output", output, "--docs", tmp_path / "docs", "--sizes", "96x64", "--repeats", "1"]
    code, _, err = run_script("leaderboard", spec, *options)
    assert code == 1 and "a cell is empty" in err
    assert (tmp_path / "docs" / "leaderboard_tiny.md").is_file()


def test_failed_trainings(finished, run_script, tmp_path, monkeypatch):
    spec, output, _ = finished
    monkeypatch.setattr(page, "run_spec", lambda *words, **options: ["other, seed 1"])
    code, _, err = run_script("leaderboard", spec, "--output", output, "--docs", tmp_path / "docs")
    assert code == 2 and "some training runs of" in err and not (tmp_path / "docs" / "leaderboard_tiny.md").exists()


def test_evaluations_have_no_cost(finished, run_script, tmp_path, toy_config):
    spec, output, started = finished
    runs = {"baseline": {"config": toy_config}, "strict": {"eval_of": "baseline"}}
    spec.write_text(yaml.safe_dump({"seeds": [1], "runs": runs}))
    code, _, err = run_script("leaderboard", spec, "--output", output, "--docs", tmp_path / "docs")
    assert code == 2 and "'strict'" in err and started == []


def test_a_system_without_a_panoptic_output(finished, run_script, tmp_path, toy_config):
    spec, output, started = finished
    content = yaml.safe_load(spec.read_text())
    content["runs"]["boxes"] = {"config": toy_config, "opts": ["MODEL.META_ARCHITECTURE", "InstanceNetwork"]}
    spec.write_text(yaml.safe_dump(content))
    code, _, err = run_script("leaderboard", spec, "--output", output, "--docs", tmp_path / "docs")
    assert code == 2 and "run 'boxes': MODEL.META_ARCHITECTURE is InstanceNetwork" in err and started == []


def test_several_data_sets(finished, run_script, tmp_path, toy_config, tiny_data):
    spec, output, started = finished
    entries = [{"name": f"board_{split}", **tiny_data[split]} for split in ("train", "val")]
    opts = ["DATASETS.REGISTER", str(entries), "DATASETS.TRAIN", "('board_train',)"]
    opts += ["DATASETS.TEST", "('board_train', 'board_val')"]
    spec.write_text(yaml.safe_dump({"base": toy_config, "seeds": [1], "runs": {"baseline": opts}}))
    code, _, err = run_script("leaderboard", spec, "--output", output, "--docs", tmp_path / "docs")
    assert code == 2 and "board_train, board_val" in err and started == []


@pytest.mark.parametrize("size", ["480", "480x", "16x640", "axb"])
def test_wrong_sizes(finished, run_script, tmp_path, size):
    spec, output, started = finished
    code, _, err = run_script("leaderboard", spec, "--output", output, "--docs", tmp_path, "--sizes", size)
    assert code == 2 and "WIDTHxHEIGHT" in err and started == []


@pytest.mark.parametrize("dataset", ["toy", "camvid"])
def test_the_specs(dataset, monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = read_spec(ROOT / "configs" / "ablations" / f"leaderboard_{dataset}.yaml")
    systems = {run.name: run.base for run in spec.runs}
    light = {"baseline": "panoptic_fpn"} | {name: name.lower() for name in ("TASCNet", "Seamless", "UPSNet", "OANet")}
    expected = {name: ROOT / "configs" / dataset / f"{system}_lite0.yaml" for name, system in light.items()}
    expected["baseline from scratch"] = ROOT / "configs" / dataset / "panoptic_fpn_r18.yaml"
    assert {name: path.resolve() for name, path in systems.items()} == expected
    assert all(path.is_file() for path in expected.values())
