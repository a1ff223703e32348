"""`panoptic-fusion fine-tune` from a folder to a table and pictures; the training itself in this process."""

import json
import shutil
from pathlib import Path

import pytest
from annotation_writers import labelme
from polygon_scenes import make_scene
from report_data import read_report
from tiny_training import TINY_NETWORK, as_opts

from panoptic_fusion.cli import child, fine_tune, main
from panoptic_fusion.config import find_config, read_config
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.errors import UserError

SHORT = as_opts({**TINY_NETWORK, "SOLVER.MAX_ITER": 2})


@pytest.fixture
def in_this_process(monkeypatch):
    """The commands that the tool starts run here; what was started."""
    started = []

    def run(*words: str) -> int:
        started.append(words[0])
        with pytest.raises(SystemExit) as exit_info:
            main(words)
        return exit_info.value.code

    monkeypatch.setattr(child, "run", run)
    return started


def data_folder(tiny_data, root: Path) -> Path:
    """`<root>/<split>/{images, panoptic, panoptic.json}`: links to the tiny scenes."""
    for split, files in tiny_data.items():
        (root / split).mkdir(parents=True)
        for key, name in (("images", "images"), ("panoptic_root", "panoptic"), ("panoptic_json", "panoptic.json")):
            (root / split / name).symlink_to(files[key])
    return root


def test_from_a_folder_to_pictures(tiny_data, tmp_path, run_script, toy_config, in_this_process):
    data, output = data_folder(tiny_data, tmp_path / "mine"), tmp_path / "out"
    code, out, err = run_script("fine-tune", "--data", data, "--output", output, "--config-file", toy_config, *SHORT)
    assert code == 0, err
    assert in_this_process == ["train", "evaluate"]
    assert out.splitlines()[-1] == f"Report: {output}/report/report.html"
    shown = read_report(output / "report" / "report.html")["predictions"][0]["summary"]["All"]
    results = json.loads((output / "results.json").read_text())["panoptic_seg"]
    assert shown["pq"] == pytest.approx(results["PQ"]) and shown["tp"] == results["TP"]
    assert "== 4/4 results" in out and "| all " in out and "6 images" in out
    assert "median image: 128 x 96; short side in training (INPUT.MIN_SIZE_TRAIN): (64,)" in out
    assert "in evaluation (INPUT.MIN_SIZE_TEST): 64" in out
    assert len(list((output / "pictures").glob("*.jpg"))) == 3 + 1
    assert (output / "overview/train/overview.md").is_file() and list(output.glob("overview/train/pictures/*.jpg"))
    assert json.loads((output / "results.json").read_text())["panoptic_seg"]["images"] == 3
    cfg = read_config(output / "config.yaml")
    assert [entry["panoptic_json"] for entry in cfg.DATASETS.REGISTER] == [
        str(data / split / "panoptic.json") for split in ("train", "val")
    ]


def test_annotations_of_other_tools_are_imported(tmp_path, capsys):
    labelme("polygon")(tmp_path / "mine", [make_scene(seed) for seed in range(3)])
    for _ in range(2):  # a second call finds the import finished
        found = fine_tune.find_or_import(str(tmp_path / "mine"), str(tmp_path / "out"))
        assert list(found) == ["train"]
        assert found["train"].panoptic_json == str(tmp_path / "out" / "imported" / "panoptic.json")
        assert check_dataset(found["train"], 0).faults == []
    assert "format: labelme" in capsys.readouterr().out
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "file.bin").touch()
    with pytest.raises(UserError, match="has none of these: images, PNGs .* of no known format"):
        fine_tune.find_or_import(str(tmp_path / "nothing"), str(tmp_path / "out2"))


def test_without_a_validation_part(tiny_data, tmp_path, run_script, toy_config, in_this_process):
    data, output = data_folder(tiny_data, tmp_path / "mine"), tmp_path / "out"
    shutil.rmtree(data / "val")
    words = ["fine-tune", "--data", data, "--output", output, "--config-file", toy_config]
    code, out, err = run_script(
        *words, "--val-share", "0.3", "--iterations", "9",
        *as_opts({k: v for k, v in TINY_NETWORK.items() if k.partition(".")[0] != "SOLVER"}),
        "SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.001",
    )  # fmt: skip
    assert code == 0, err
    assert "no validation split" in out
    content = json.loads((output / "data" / "panoptic_val.json").read_text())
    assert json.loads((output / "results.json").read_text())["panoptic_seg"]["images"] == len(content["images"])
    cfg = read_config(output / "config.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD) == (9, 2)  # four checkpoints besides the last
    assert [Path(entry["panoptic_json"]).parent for entry in cfg.DATASETS.REGISTER] == [output / "data"] * 2
    code, _, err = run_script(*words, "--val-share", "0.5")
    assert code == 2 and f"{output} holds a model of --val-share 0.3, not 0.5" in err


def test_the_output_of_another_training_is_refused(tiny_data, tmp_path, run_script, toy_config, in_this_process):
    """Once trained; then other data, classes, images, share, network or input are refused, more iterations are not."""
    data, output = data_folder(tiny_data, tmp_path / "mine"), tmp_path / "out"
    short = [*SHORT, "TEST.EVALUATORS", "['panoptic']"]

    def call(*options, folder=data):
        words = ["--data", folder, "--output", output, "--config-file", toy_config, *options]
        return run_script("fine-tune", *words)

    code, _, err = call(*short)
    assert code == 0, err
    kept = {name: (output / name).read_bytes() for name in ("config.yaml", "model_final.pth", "results.json")}
    started = len(in_this_process)

    def refused(message, *options, **where):
        code, _, err = call(*options, **where)
        assert code == 2 and message in err and "choose another OUT" in err and "Traceback" not in err, err
        assert len(in_this_process) == started
        assert {name: (output / name).read_bytes() for name in kept} == kept

    other = data_folder(tiny_data, tmp_path / "other")
    refused(f"the dataset in {data}/train/images, not {other}/train/images", *short, folder=other)
    refused("INPUT.MIN_SIZE_TRAIN", *short, "INPUT.MIN_SIZE_TRAIN", "(80,)")
    refused("MODEL.FPN.OUT_CHANNELS 16, not 24", *short, "MODEL.FPN.OUT_CHANNELS", "24")
    refused("SEM_SEG_HEAD.IN_FEATURES", *short, "MODEL.SHARING", "none")

    path = data / "train" / "panoptic.json"
    original = json.loads(path.read_text())
    path.unlink()  # it is a link
    fewer = {**original, "images": original["images"][1:]}
    gone = original["images"][0]["id"]
    fewer["annotations"] = [a for a in original["annotations"] if a["image_id"] != gone]
    path.write_text(json.dumps(fewer))
    refused("other images", *short)
    renamed = [{**c, "name": f"{c['name']}_b"} for c in original["categories"]]
    path.write_text(json.dumps({**original, "categories": renamed}))
    refused("other classes", *short)
    path.write_text(json.dumps(original))
    (data / "val").rename(tmp_path / "away")
    refused("other images", *short)
    (tmp_path / "away").rename(data / "val")

    # A run of before MODEL.TRANSFER has "none"; the key only matters at the start.
    code, _, err = call(*short, "SOLVER.MAX_ITER", "3", "MODEL.TRANSFER", "none", "INPUT.PIXEL_BUDGET", "9")
    assert code == 0 and len(in_this_process) == started + 1, err
    assert read_config(output / "config.yaml").SOLVER.MAX_ITER == 3

    (output / "last_checkpoint").unlink()  # as if killed before the first checkpoint: there is nothing to go on with
    code, _, err = call(*short, "INPUT.MIN_SIZE_TRAIN", "(80,)")
    assert code == 0 and read_config(output / "config.yaml").INPUT.MIN_SIZE_TRAIN == (80,), err


def test_faults_stop_it(tiny_data, tmp_path, run_script, in_this_process):
    data = data_folder(tiny_data, tmp_path / "mine")
    content = json.loads((data / "val" / "panoptic.json").read_text())
    content["annotations"][0]["file_name"] = "gone.png"
    (data / "val" / "panoptic.json").unlink()
    (data / "val" / "panoptic.json").write_text(json.dumps(content))
    code, out, _ = run_script("fine-tune", "--data", data, "--output", tmp_path / "out")
    assert code == 1 and "gone.png" in out and "nothing was trained" in out and in_this_process == []


def test_minor_faults_do_not_stop_it(tiny_data, tmp_path, run_script, toy_config, in_this_process):
    """Of each kind that training and evaluation can live with one; each is counted."""
    data, output = data_folder(tiny_data, tmp_path / "mine"), tmp_path / "out"
    for split in ("train", "val"):
        path = data / split / "panoptic.json"
        content = json.loads(path.read_text())
        stuff = {c["id"] for c in content["categories"] if not c["isthing"]}
        segments = content["annotations"][0]["segments_info"]
        first, second = [s for s in segments if s["category_id"] in stuff][:2]
        second["category_id"] = first["category_id"]  # several stuff segments of a class
        first["area"] += 7
        second["bbox"][2] += 9
        content["annotations"].pop()  # an image without annotation
        path.unlink()
        path.write_text(json.dumps(content))
    code, out, err = run_script("fine-tune", "--data", data, "--output", output, "--config-file", toy_config, *SHORT)
    assert code == 0, err
    kinds = ("image without annotation", "several stuff segments of a class", "area mismatch", "bbox mismatch")
    assert all(out.count(f"warning: 1 x {kind}, the first: {data}") == 2 for kind in kinds), out
    assert out.count("no serious problems in") == 2
    assert json.loads((output / "results.json").read_text())["panoptic_seg"]["images"] == 2


def test_wrong_arguments(tmp_path, run_script, in_this_process):
    for options, message in (
        (["--data", tmp_path / "nothing"], "nothing does not exist"),
        (["--data", tmp_path, "SOLVER.NO_KEY", "1"], "SOLVER.NO_KEY"),
        (["--data", tmp_path, "--config-file", "no.yaml"], "no.yaml"),
        (["--data", tmp_path, "--iterations", "0"], "--iterations is 0"),
    ):
        code, _, err = run_script("fine-tune", "--output", tmp_path / "out", *options)
        assert code == 2 and message in err and "Traceback" not in err
    assert in_this_process == []


def test_the_default_config_is_one_of_the_projects():
    assert Path(find_config(fine_tune.CONFIG)).is_file()
