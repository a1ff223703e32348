"""benchmarks/gpu.sh on the CPU: every part leaves a row, and a part that fails or hangs does not stop the others."""

import argparse
import json
import subprocess
import time

import gpu
import pytest
from tiny_training import ROOT


def test_the_whole_report_on_a_cpu(child_env, tmp_path):
    import sys

    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--device", "cpu", "--quick", "--output", str(tmp_path)]
    env = {**child_env, "PYTHON": sys.executable}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    table = (tmp_path / "gpu.md").read_text()
    assert table in done.stdout and "FAILED" not in table and "STOPPED" not in table and "DIFFER" not in table
    words = ("tests that need a GPU", "heuristic", "upsnet", "full tensor", "torchvision", "inference, fp32")
    words += ("training step, fp32", "InPlaceABN", "2 iterations on toy scenes")
    assert all(word in table for word in words), table


def test_a_part_that_fails_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch):
    def fails(args, report):
        report("before", ours="1 ms")
        raise ValueError("broken")

    parts = {
        "a": (fails, 30),
        "b": (lambda args, report: time.sleep(60), 2),
        "c": (lambda args, report: report("c"), 30),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    args = argparse.Namespace(output=str(tmp_path), parts=list(parts), threads=1, device="cpu")
    assert gpu.run_all(args) == ["a", "b"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == ["before", "a: FAILED", "b: STOPPED", "c"]
    assert "ValueError: broken" in rows[1]["note"] and "broken" in (tmp_path / "a.log").read_text()
    text = gpu.table(rows, args)
    assert "| before | 1 ms |" in text and text.count("\n|") == 6


def test_budgets_fit_nine_minutes():
    assert sum(seconds for _, seconds in gpu.PARTS.values()) <= gpu.TOTAL_SECONDS < 540


def test_without_a_gpu_it_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main()
    assert "--device cpu --quick" in capsys.readouterr().err
