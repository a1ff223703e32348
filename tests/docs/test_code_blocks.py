"""The code blocks of README and docs: what can run is run, and every command's options, keys and files exist."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doc_blocks import CONFIG_KEY, PAGES, ROOT, Block, blocks, commands, page_name, shell_commands
from model_files import rle_of

from panoptic_fusion.data.annotation import decode_segmentation

DATA = Path(os.environ.get("PANOPTIC_FUSION_DATA", ROOT.parent / "shared" / "data"))

# Blocks that this file runs, by page and first line.
RUN = {
    ("README.md", "import cv2"): "test_python_of_readme",
    ("README.md", "from panoptic_fusion import evaluate_files"): "test_python_of_evaluate_files",
    ("docs/evaluate_any_model.md", "from panoptic_fusion import evaluate_files"): "test_evaluate_any_model",
    ("README.md", '_BASE_: "../Base-PanopticRCNN.yaml"'): "test_own_config",
    ("docs/datasets.md", "from detectron2.data import DatasetCatalog, MetadataCatalog"): "test_python_of_datasets",
    ("docs/report.md", "import panoptic_fusion"): "test_report_of_files",
    **dict.fromkeys(
        [
            ("docs/evaluate_any_model.md", first_line)
            for first_line in (
                "import numpy as np",
                "# result = yolo(image, retina_masks=True)[0]",
                "# semantic = processor.post_process_semantic_segmentation(outputs, target_sizes=[(height, width)])[0]",
                "# (detections,) = mask_rcnn([image])",
                "# outputs = predictor(image)",
                "# regions = mask_generator.generate(image)",
            )
        ],
        "tests/docs/test_fuse_recipes.py",
    ),
    ("docs/backbones.md", '_BASE_: ["tascnet_r18.yaml", "../Base-Lite0.yaml"]'): "test_second_base",
}
# Pages whose code has a test of its own.
RUN_ELSEWHERE = {
    "docs/deploy.md": "tests/runtime/test_without_torch.py",
    "docs/zoo.md": "tests/networks/test_zoo.py",
    "docs/extending.md": "tests/test_extending.py",
}
SHELL = ("git", "cd", "source", "pip", "echo", "ln", "pre-commit")
# Commands that are checked word by word but not run, and why.
NOT_RUN = {
    "train": "trains for minutes to days",
    "evaluate": "needs a model that the page has trained; of files, see test_evaluate_any_model",
    "report": "needs models that were trained; of files, see test_report_of_files",
    "compare": "needs a model that the page has trained",
    "import": "needs the annotations of another tool",
    "prepare": "needs the download of a public dataset",
    "convert": "needs a published checkpoint",
    "fine-tune": "trains for minutes",
    "fuse": "needs the results of two models; tests/evaluation/test_fuse_files.py runs it",
    "oracle": "needs a model that the page has trained",
    "tune": "needs a trained model or the results of two; tests/evaluation/tuning/test_tuning_files.py runs it",
    "ablation": "trains for hours",
    "leaderboard": "trains for hours",
    "make": "installs, trains or runs this very suite",
    "python": "a tool or benchmark that needs a trained model or minutes",
    "KEY VALUE": "options of a command",
    **dict.fromkeys(SHELL, "changes the machine or the shell"),
}
EXECUTED = ("--help", "--version", "check", "demo")

COMMANDS = [command for command in shell_commands() if command[0].page not in RUN_ELSEWHERE]


def kind_of(words: list[str]) -> str:
    """The key of a command in NOT_RUN, or the subcommand of `panoptic-fusion`."""
    program = Path(words[0]).name
    if program == "panoptic-fusion":
        return words[1]
    if CONFIG_KEY.fullmatch(words[0]):
        return "KEY VALUE"
    return "python" if program == "python3" else program


def test_every_block_is_run_or_has_a_reason():
    for page, test in RUN_ELSEWHERE.items():
        assert not (ROOT / page).exists() or (ROOT / test).is_file()
    known = {(page, line) for page, line in RUN}
    for path in PAGES:
        for block in blocks(path):
            if block.language in ("python", "yaml") and block.page not in RUN_ELSEWHERE:
                assert (block.page, block.text.split("\n")[0]) in known, f"{block} is not run by any test"
    assert len({(b.page, b.text) for b, _ in COMMANDS}) > 30
    for block, words in COMMANDS:
        assert kind_of(words) in (*NOT_RUN, *EXECUTED), f"{block}: is {words[0]} run by a test? If not, why not?"


CHECKED = [c for c in COMMANDS if kind_of(c[1]) not in SHELL]


@pytest.mark.parametrize("block, words", CHECKED, ids=[f"{block} {' '.join(words)[:60]}" for block, words in CHECKED])
def test_words_of_a_command(block: Block, words: list[str]):
    """Options, config keys, files and make targets of a command exist."""
    check_command(words)


COMMENTED = [path for path in sorted((ROOT / "configs").rglob("*.yaml")) if "\n#     " in path.read_text()]


@pytest.mark.parametrize("path", COMMENTED, ids=page_name)
def test_commands_in_comments_of_configs(path: Path):
    """The same for the commands that a config's comment shows, indented by four spaces."""
    lines = re.findall(r"^#     (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    found = commands(Block(page_name(path), 1, "bash", "\n".join(lines)))
    assert found
    for words in found:
        check_command(words)


@pytest.mark.parametrize(
    "command, error",
    [
        ("panoptic-fusion train --config-file configs/toy/none.yaml", FileNotFoundError),
        ("panoptic-fusion train --config-file configs/toy/tascnet_r18.yaml MODEL.NO_KEY 1", ValueError),
        ("panoptic-fusion train --config-file configs/toy/tascnet_r18.yaml SOLVER.MAX_ITER many", ValueError),
        ("panoptic-fusion demo --model output/toy --inputs a.jpg --output out", SystemExit),
        ("panoptic-fusion ablation configs/ablations/none.yaml --output out", AssertionError),
        ("panoptic-fusion segment a.jpg", KeyError),
        ("python tools/none.py", AssertionError),
        ("python tools/residual_picture.py --no-option", AssertionError),
        ("make nothing", AssertionError),
        ("TEST.NO_KEY 1", ValueError),
    ],
)
def test_wrong_commands_are_found(command, error):
    with pytest.raises(error):
        check_command(command.split())


def check_command(words: list[str]) -> None:
    program, kind = Path(words[0]).name, kind_of(words)
    if program == "panoptic-fusion":
        check_panoptic_fusion(words[1:])
    elif kind == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(w for w in words[1:] if "=" not in w) <= set(targets)
    elif kind == "KEY VALUE":
        check_keys(None, words)
    elif words[1] != "-m":
        script = ROOT / words[1]
        assert script.is_file(), f"{words[1]} does not exist"
        text = script.read_text(encoding="utf-8") + (ROOT / "panoptic_fusion/cli/arguments.py").read_text()
        for word in words[2:]:
            assert not word.startswith("--") or f'"{word}"' in text, f"{words[1]} has no option {word}"


def check_panoptic_fusion(words: list[str]) -> None:
    import importlib

    from panoptic_fusion.cli import entry

    if words[0].startswith("--"):
        return
    module = importlib.import_module(entry.COMMANDS[words[0]])
    args = entry.parser_of(words[0], module).parse_args(words[1:])  # SystemExit for an unknown option
    check_keys(getattr(args, "config_file", None), getattr(args, "opts", []))
    if words[0] in ("ablation", "leaderboard"):
        assert (ROOT / str(args.spec)).is_file()


def check_keys(config_file: str | None, opts: list[str]) -> None:
    """A config of the repository exists, and the KEY VALUE pairs fit it."""
    from panoptic_fusion.config import read_config

    ours = config_file is not None and config_file.startswith("configs/") and "/mine/" not in config_file
    read_config(ROOT / config_file if ours else None, [word for word in opts if word != "\n"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch, trained, tiny_data) -> Path:
    """The working folder that the pages assume: a trained model, photos, a video, a dataset of one's own."""
    import cv2

    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "toy").symlink_to(trained)
    photos = sorted(Path(tiny_data["val"]["images"]).iterdir())
    for name in ("street.jpg", "photos/a.jpg", "more/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), cv2.imread(str(photos[0])))
    video = cv2.VideoWriter(str(tmp_path / "drive.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (128, 96))
    video.write(cv2.imread(str(photos[1])))
    video.release()
    for split, files in tiny_data.items():
        shutil.copytree(files["images"], tmp_path / "mine" / split)
        shutil.copytree(files["panoptic_root"], tmp_path / "mine" / f"panoptic_{split}")
        shutil.copy(files["panoptic_json"], tmp_path / "mine" / f"panoptic_{split}.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def text_of(page: str, first_line: str) -> str:
    """The text of a block of RUN."""
    return next(b.text for b in blocks(ROOT / page) if b.text.startswith(first_line))


def code_of(test: str) -> str:
    """The text of the block that a test of this file runs."""
    return text_of(*next(block for block, name in RUN.items() if name == test))


def test_python_of_readme(folder):
    names: dict = {}
    exec(compile(code_of("test_python_of_readme"), "README.md", "exec"), names)
    panoptic_seg, segments_info = names["panoptic_seg"], names["segments_info"]
    assert tuple(panoptic_seg.shape) == (96, 128)
    assert {s["id"] for s in segments_info} == set(panoptic_seg.unique().tolist()) - {0}


@pytest.fixture
def predictions(folder, tiny_data) -> Path:
    """The working folder with gt/ and pred/: a ground truth, and predictions that are equal to it."""
    for name in ("gt", "pred"):
        shutil.copytree(tiny_data["val"]["panoptic_root"], folder / name / "panoptic")
        shutil.copy(tiny_data["val"]["panoptic_json"], folder / name / "panoptic.json")
    return folder


def test_python_of_evaluate_files(predictions):
    names: dict = {}
    exec(compile(code_of("test_python_of_evaluate_files"), "README.md", "exec"), names)
    assert names["scores"]["all"]["PQ"] == names["scores"]["all"]["boundary_PQ"] == 100
    assert (predictions / "scores" / "results.md").is_file()


def test_report_of_files(predictions, run_script, tiny_data):
    (predictions / "gt" / "images").symlink_to(tiny_data["val"]["images"])
    names: dict = {}
    exec(compile(code_of("test_report_of_files"), "docs/report.md", "exec"), names)
    assert names["written"]["results"]["mine"]["all"]["PQ"] == 100 and names["written"]["problems"] == []
    [words] = [words for _, words in COMMANDS if words[1:2] == ["report"] and "gt/panoptic.json" in words]
    code, shown, errors = run_script(*words[1:])
    assert code == 0 and shown.splitlines()[-1] == "Report: report/report.html", errors
    assert (predictions / "report" / "report.html").is_file()


def test_evaluate_any_model(predictions, run_script):
    names: dict = {}
    exec(compile(code_of("test_evaluate_any_model"), "docs/evaluate_any_model.md", "exec"), names)
    assert names["worst"][0]["PQ"] == 100
    shutil.rmtree(predictions / "scores")
    (predictions / "images.txt").write_text(names["worst"][0]["file_name"])
    page = [words[1:] for block, words in COMMANDS if block.page == "docs/evaluate_any_model.md"]
    commands = [words for words in page if "gt/panoptic.json" in words]
    for words in commands:
        code, shown, errors = run_script(*words)
        assert code == 0 and "| all" in shown, errors
    assert len(commands) == 2
    for name, images in (("scores", len(names["scores"]["per_image"])), ("some_scores", 1)):
        assert json.loads((predictions / name / "results.json").read_text())["images"] == images


def test_both_steps_of_evaluate_any_model_on_real_files(run_script, tmp_path, monkeypatch):
    """The true masks of two images as results of an instance and a semantic model; then with other scores."""
    pair = DATA / "coco_pair"
    if not pair.exists():
        pytest.skip(f"{pair} is absent")
    truth, masks, images = (
        json.loads((pair / f"{name}.json").read_text())
        for name in ("panoptic_examples", "panoptic_coco_detection_format", "images_info_examples")
    )
    things = {category["id"] for category in truth["categories"] if category["isthing"]}
    keys = ("image_id", "category_id", "segmentation")
    results = [{key: segment[key] for key in keys} for segment in masks["annotations"]]
    instances = [{**result, "score": 1.0} for result in results if result["category_id"] in things]
    semantic = [result for result in results if result["category_id"] not in things]
    files = {"instances": instances, "semantic": semantic, "images": images, "panoptic_val2017": truth}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "panoptic_val2017").symlink_to(pair / "panoptic_examples")
    monkeypatch.chdir(tmp_path)
    commands = [words for block, words in COMMANDS if "panoptic_val2017.json" in words]
    assert [words[1] for words in commands] == ["fuse", "evaluate", "tune"]
    *both, tune = ([word for word in words[1:] if word.strip()] for words in commands)
    for words in both:
        code, _, errors = run_script(*words)
        assert code == 0, errors
    scores = json.loads((tmp_path / "scores" / "results.json").read_text())
    assert scores["images"] == 2 and scores["all"]["PQ"] == scores["all"]["boundary_PQ"] == 100
    crowds = sum(segment["iscrowd"] for segment in masks["annotations"])  # never matched
    assert scores["all"]["TP"] == len(results) - crowds and scores["problems"] == []

    instances = [{**instance, "score": 0.35} for instance in instances]
    for instance in list(instances):
        mask = np.roll(decode_segmentation(instance["segmentation"], *instance["segmentation"]["size"]), 40, axis=1)
        instances.append({**instance, "score": 0.25, "segmentation": rle_of(mask)})
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    code, _, errors = run_script(*tune, "--workers", "1")
    assert code == 0, errors
    tuned = json.loads((tmp_path / "tuned" / "tuning.json").read_text())
    assert tuned["best"] == {
        "rule": "heuristic", "confidence_thresh": 0.3, "overlap_thresh": 0.5, "stuff_area_limit": 4096
    }  # fmt: skip
    assert tuned["choice"]["start"] == 50 and tuned["choice"]["tuned"] == 100


def test_python_of_datasets():
    names: dict = {}
    exec(compile(code_of("test_python_of_datasets"), "docs/datasets.md", "exec"), names)
    assert len(names["MetadataCatalog"].get("vistas_train").thing_classes) == 37


def test_own_config(folder):
    from detectron2.data import DatasetCatalog

    from panoptic_fusion import get_cfg, resolve_config

    file = folder / "configs" / "mine" / "panoptic_fpn_r50.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(code_of("test_own_config"))
    shutil.copy(ROOT / "configs" / "Base-PanopticRCNN.yaml", folder / "configs")
    cfg = get_cfg()
    cfg.merge_from_file(str(file))
    cfg = resolve_config(cfg)
    assert cfg.MODEL.RESNETS.DEPTH == 50 and cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == 12
    assert len(DatasetCatalog.get("mine_train")) == 6


def test_second_base(tmp_path):
    from panoptic_fusion.config import read_config

    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "configs" / "toy" / "mine.yaml").write_text(code_of("test_second_base"))
    cfg = read_config(tmp_path / "configs" / "toy" / "mine.yaml")
    assert cfg.MODEL.BACKBONE.BOTTOM_UP == "build_timm_backbone" and cfg.MODEL.SEM_SEG_HEAD.NAME == "TASCSemSegHead"


def command_of_readme(start: str) -> list[str]:
    """The words after `panoptic-fusion` of the only command of README.md that starts so."""
    found = [words for block, words in COMMANDS if block.page == "README.md"]
    (words,) = [words[1:] for words in found if " ".join(words).startswith(f"panoptic-fusion {start}")]
    return words


@pytest.mark.parametrize("option, expected", [("--help", "fine-tune"), ("--version", "panoptic-fusion ")])
def test_help(option, expected, child_env):
    command = [sys.executable, "-m", "panoptic_fusion", option]
    done = subprocess.run(command, env=child_env, capture_output=True, text=True)
    assert done.returncode == 0 and expected in done.stdout


@pytest.mark.parametrize("start, made", [("demo --model", "segmented/panoptic.json"), ("check --images", None)])
def test_commands_of_readme(start, made, folder, run_script):
    code, _, errors = run_script(*command_of_readme(start))
    assert code == 0, errors
    assert made is None or (folder / made).is_file()
