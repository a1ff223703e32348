"""tools/mixtures_table.py: which cells it runs and what it writes, with a stand-in for `panoptic-fusion train`."""

import sys
from pathlib import Path

import pytest
import yaml
from tiny_training import import_script

from panoptic_fusion.cli import child
from panoptic_fusion.cli.experiments import runs as ablation_runs

mixtures_table = import_script("tools/mixtures_table")

# PQ of a cell: the lengths of its two names; nothing for the heads named in "fail".
STAND_IN = """
import json, sys
from pathlib import Path
words = sys.argv[1:]
start = words.index("MODEL.WEIGHTS")
opts = dict(zip(words[start::2], words[start + 1 :: 2]))
with open(Path(__file__).with_name("calls.txt"), "a") as file:
    file.write(json.dumps(opts) + "\\n")
head, fusion = opts["MODEL.SEM_SEG_HEAD.NAME"], opts["MODEL.PANOPTIC_FUSION.NAME"]
if Path(__file__).with_name("fail").read_text() == head:
    sys.exit(3)
results = {"panoptic_seg": {"PQ": len(head) + len(fusion) / 10}}
(Path(opts["OUTPUT_DIR"]) / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch, run_script):
    stand_in = str(tmp_path / "stand_in.py")
    monkeypatch.setattr(child, "command_line", lambda command, *words: [sys.executable, stand_in, *words])
    Path(stand_in).write_text(STAND_IN)
    monkeypatch.setattr(mixtures_table, "registered", lambda: (["HeadA", "HeadBc"], ["One", "Three"]))
    for check in ("check_runs", "check_initial_weights", "changed_since"):  # there are no such heads and fusions
        monkeypatch.setattr(ablation_runs, check, lambda *args, **options: ())
    (tmp_path / "base.yaml").write_text("VERSION: 2\n")
    (tmp_path / "fail").write_text("")
    (tmp_path / "weights.pth").write_text("")

    def run(*arguments: str) -> tuple[int, str, str]:
        files = ["--config-file", tmp_path / "base.yaml", "--weights", tmp_path / "weights.pth"]
        return run_script("tools/mixtures_table", *files, "--output", tmp_path / "out", *arguments)

    return run


def rows(folder: Path) -> list[list[str]]:
    lines = [line for line in (folder / "mixtures.md").read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if not line.startswith("|:")]


def test_one_cell_for_each_pair(run, tmp_path):
    code, out, err = run("--iterations", "12", "SOLVER.BASE_LR", "0.005")
    assert code == 0, err
    assert rows(tmp_path / "out") == [["PQ", "One", "Three"], ["HeadA", "5.3", "5.5"], ["HeadBc", "6.3", "6.5"]]
    text = (tmp_path / "out" / "mixtures.md").read_text()
    assert text in out
    assert "ontology full, 12 iterations of 16 images from" in text and "base.yaml" in text and "weights.pth" in text
    calls = [yaml.safe_load(line) for line in (tmp_path / "calls.txt").read_text().splitlines()]
    assert len(calls) == 4
    for call in calls:
        assert call["MODEL.WEIGHTS"] == str(tmp_path / "weights.pth")
        assert (call["SOLVER.MAX_ITER"], call["SOLVER.WARMUP_ITERS"], call["SOLVER.BASE_LR"]) == ("12", "3", "0.005")
    assert run("--iterations", "12", "SOLVER.BASE_LR", "0.005")[0] == 0
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 4  # nothing is run again


def test_a_failed_cell_is_shown_and_tried_again(run, tmp_path):
    (tmp_path / "fail").write_text("HeadA")
    assert run()[0] == 1
    assert rows(tmp_path / "out")[1:] == [["HeadA", "failed", "failed"], ["HeadBc", "6.3", "6.5"]]
    (tmp_path / "fail").write_text("")
    assert run()[0] == 0
    assert rows(tmp_path / "out")[1] == ["HeadA", "5.3", "5.5"]


def test_wrong_input_is_named(run, tmp_path):
    (tmp_path / "weights.pth").unlink()
    code, _, err = run()
    assert code == 2 and "weights.pth does not exist: train a baseline first" in err
    (tmp_path / "weights.pth").write_text("")
    code, _, err = run("SOLVER.NONSENSE", "1")
    assert code == 2 and "NONSENSE" in err


def test_what_is_registered():
    script = Path(sys.modules["mixtures_table"].__file__)
    assert script.name == "mixtures_table.py"
    heads, fusions = mixtures_table.registered()
    assert {"MiniDLSemSegHead", "OANetSemSegHead", "PanopticFPNHead", "TASCSemSegHead"} <= set(heads)
    assert not any(name.startswith("SemSegFPN") for name in heads)  # detectron2's own
    assert {"HeuristicFusion", "MaskGuidedFusion", "SeamlessFusion", "SpatialRankingFusion"} <= set(fusions)
