"""tools/kill_and_resume.py: its --quick mode runs, and what it must not miss counts as a violation."""

import re
import subprocess
import sys

import pytest
import torch
from tiny_training import ROOT, import_script

kill_and_resume = import_script("tools/kill_and_resume")


@pytest.mark.slow
def test_quick_mode(child_env, tmp_path):
    output = tmp_path / "kept"
    command = [sys.executable, "-W", "ignore", str(ROOT / "tools" / "kill_and_resume.py"), "--quick"]
    done = subprocess.run([*command, "--output", output], env=child_env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line[:1] == "|"]
    assert [row[:2] for row in rows[2:]] == [["1", "writing"], ["2", "evaluation"], ["-", "(not killed)"]]
    # Evaluation starts after the last of 15 iterations; the last start has nothing left to train.
    assert [row[4] for row in rows[3:]] == ["14", "14"] and rows[4][3] == "15"
    first_kill = rows[2][4]
    assert rows[3][3] == ("0" if first_kill == "none" else str(int(first_kill) + 1))
    assert re.search(r"2 kills, .* ended at iteration 14, PQ \d+\.\d\d", done.stdout, re.DOTALL)
    assert (output / "output" / "model_final.pth").is_file()


def test_files_that_are_violations(tmp_path):
    assert kill_and_resume.check_files(tmp_path) is None
    for iteration in (2, 5):
        torch.save({"iteration": iteration}, tmp_path / f"model_{iteration}.pth")
    (tmp_path / "last_checkpoint").write_text("model_8.pth")
    with pytest.raises(kill_and_resume.CheckFailed, match="names 'model_8.pth'"):
        kill_and_resume.check_files(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_2.pth")
    assert kill_and_resume.check_files(tmp_path) == 2
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_2.pth"]
    whole = (tmp_path / "model_2.pth").read_bytes()
    (tmp_path / "model_5.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(kill_and_resume.CheckFailed, match="model_5.pth cannot be read"):
        kill_and_resume.check_files(tmp_path)
