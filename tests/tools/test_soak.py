"""tools/soak: what counts as lost, one line and left over; the results resume; --quick runs."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from soak import __main__ as tool
from soak.attempts import Attempt
from soak.complete_files import check_complete, leftovers, names_of
from soak.forks import fork
from soak.fuzzes import damage
from soak.processes import AttackFailed, Outcome, session
from tiny_training import ROOT

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""


@pytest.mark.slow
def test_quick_mode(child_env, tmp_path):
    paths = (ROOT / "tools", ROOT / "tests" / "helpers", ROOT)
    env = {**child_env, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-W", "ignore", "-m", "soak", "--quick", "--output", str(tmp_path / "soak")]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = (tmp_path / "soak" / "results.jsonl").read_text().split("\n")
    assert len(list(filter(None, lines))) >= 4
    again = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0 and "[1/" not in again.stdout  # nothing is left to do
    assert (tmp_path / "soak" / "table.md").read_text().strip() in again.stdout


def test_results_resume(tmp_path, monkeypatch):
    """Attempts that held are kept, those that failed are repeated, also after a line that a kill cut off."""
    monkeypatch.setattr(tool, "make_material", lambda folder: None)
    calls = []

    def attempt(name, fails=False):
        def run(place):
            assert list(place.folder.iterdir()) == []
            (place.folder / "x").touch()
            calls.append(name)
            if fails:
                raise AttackFailed(f"{name} is lost")
            return 3, f"figure of {name}"

        return Attempt("row", name, run)

    results = tool.run_all([attempt("a"), attempt("b", fails=True)], tmp_path, 0)
    assert calls == ["a", "b"] and results["row", "b"]["fault"] == "b is lost"
    text = tool.table(list(results.values()))
    assert [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]] == ["row", "4", "1", "figure of a"]
    journal = tmp_path / "results.jsonl"
    journal.write_bytes(journal.read_bytes() + b'\n{"row": "row", "case": "c", "ti')
    results = tool.run_all([attempt("a"), attempt("b"), attempt("c")], tmp_path, 0)
    assert calls == ["a", "b", "b", "c"] and not any(result["fault"] for result in results.values())
    assert tool.read_results(journal).keys() == results.keys()


def test_files_that_are_incomplete(tmp_path):
    good = {"a.json": b"{}", "b.png": None, "c.pth": None, "log.txt": b"half", ".x.json.7.partial": b"{", "d.avi": b""}
    for name, data in good.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
    Image.new("RGB", (40, 40)).save(tmp_path / "b.png")
    torch.save({"x": torch.zeros(99)}, tmp_path / "c.pth")
    assert check_complete(tmp_path) == 3
    assert leftovers(tmp_path) == [str(tmp_path / ".x.json.7.partial")]
    assert names_of(tmp_path) == {"a.json", "b.png", "c.pth", "d.avi"}
    for name in ("a.json", "b.png", "c.pth"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(AttackFailed, match=f"{name} is incomplete"):
            check_complete(tmp_path)
        (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("code", "err"),
    [(0, "x: error: y"), (2, ""), (2, "x: error: y\nmore"), (2, "Traceback\nx: error: y"), (1, "x: error: y")],
)
def test_one_line(code, err):
    assert Outcome(2, "", "warning\nx: error: y\n", 1).one_line() == "x: error: y"
    with pytest.raises(AttackFailed):
        Outcome(code, "", err, 1).one_line()


def test_a_fork_that_fails_and_one_that_hangs(tmp_path):
    outcome = fork(lambda: 1 / 0, tmp_path, 30, "a division")
    assert outcome.code == 70 and "ZeroDivisionError" in outcome.err
    assert fork(lambda: sys.exit(3), tmp_path, 30, "an exit").code == 3
    with pytest.raises(AttackFailed, match="no end after 0 s: a pause"):
        fork(signal.pause, tmp_path, 0.2, "a pause")


def test_processes_that_outlive_a_command():
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    try:
        while len(session(process.pid)) < 2 and process.poll() is None:
            pass
        process.kill()
        process.wait()
        assert len(session(process.pid)) == 1
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)


def test_damages(tmp_path):
    path, content = tmp_path / "a.json", {"images": [{"id": 1, "file_name": "x"}], "other": [0.5]}
    kinds, changed = set(), 0
    for seed in range(100):
        path.write_text(json.dumps(content))
        what = damage(tmp_path, random.Random(seed))
        kinds.add("bytes" if "bytes" in what else "removed" if ", no " in what else "value")
        changed += path.read_text(errors="replace") != json.dumps(content)
    assert kinds == {"bytes", "removed", "value"} and changed > 90
