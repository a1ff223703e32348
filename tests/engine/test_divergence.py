"""Runs that diverge: they stop with their reason, leave only good checkpoints, and continue with a lower rate."""

import math
import re
from pathlib import Path

import pytest
import torch
from tiny_training import ROOT, as_opts

from panoptic_fusion import load_trained
from panoptic_fusion.checkpoint import AtomicCheckpointer, check_finite_weights, last_checkpoint
from panoptic_fusion.checkpoint.finite import non_finite_tensors
from panoptic_fusion.engine.loss_metrics import LossRecord
from panoptic_fusion.errors import UserError

SYSTEMS = ["panoptic_fpn", "tascnet", "seamless", "upsnet", "oanet"]
DIVERGE = {"SOLVER.BASE_LR": 1e8, "SOLVER.WARMUP_ITERS": 0, "SOLVER.CLIP_GRADIENTS.ENABLED": False}


def train(run_script, config, settings, folder, *flags, **changes):
    """Runs `panoptic-fusion train`: exit code, and what it says on stderr."""
    settings = {**settings, "OUTPUT_DIR": str(folder), "TEST.EVAL_PERIOD": 0, **changes}
    code, _, err = run_script("train", "--config-file", config, *flags, *as_opts(settings))
    return code, err


def all_finite(folder):
    """Checks every checkpoint in a folder by its tensors; returns their names."""
    paths = sorted(Path(folder).glob("*.pth"))
    for path in paths:
        assert non_finite_tensors(torch.load(path, weights_only=True)) == [], path
    return [path.name for path in paths]


def check_diverging_run(run_script, config, settings, folder, **changes):
    """4 good iterations, a diverging continuation, a good one from the last good checkpoint."""
    settings = {**settings, "SOLVER.CHECKPOINT_PERIOD": 2, **changes}
    short = {"SOLVER.MAX_ITER": 4}
    assert train(run_script, config, settings, folder, **short)[0] == 0
    assert last_checkpoint(folder) == ("model_final.pth", 3)
    code, err = train(run_script, config, settings, folder, "--resume", **{"SOLVER.MAX_ITER": 40}, **DIVERGE)
    assert code == 2 and "Traceback" not in err
    line = err.strip().splitlines()[-1]
    found = re.search(r"training diverged at iteration (\d+): (.+) not finite", line)
    assert found and 4 <= int(found[1]) < 20, line
    assert "SOLVER.BASE_LR (now 100000000.0)" in line and "SOLVER.CLIP_GRADIENTS.ENABLED True" in line
    name, iteration = last_checkpoint(folder)
    assert f"{folder}/{name} (iteration {iteration}). Continue from it with --resume" in line
    assert iteration < int(found[1])
    assert name in all_finite(folder)
    good = {"SOLVER.MAX_ITER": iteration + 3, "SOLVER.BASE_LR": 1e-4}
    code, err = train(run_script, config, settings, folder, "--resume", **good)
    assert code == 0, err
    assert last_checkpoint(folder) == ("model_final.pth", iteration + 2)
    assert not (Path(folder) / "results.json").exists() or "NaN" not in (Path(folder) / "results.json").read_text()


def test_a_diverging_run_stops_and_continues_with_a_lower_rate(run_script, toy_config, tiny_settings, tmp_path):
    check_diverging_run(run_script, toy_config, tiny_settings, tmp_path / "run")


def test_with_mixed_precision_and_a_checkpoint_in_every_iteration(run_script, toy_config, tiny_settings, tmp_path):
    """The checkpoint whose weights gave the loss that is not finite is written before that is known: it is unnamed."""
    amp = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16", "SOLVER.CHECKPOINT_PERIOD": 1}
    check_diverging_run(run_script, toy_config, tiny_settings, tmp_path / "run", **amp)


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system(run_script, tiny_settings, tmp_path, system):
    config = str(ROOT / "configs" / "toy" / f"{system}_r18.yaml")
    changes = {"MODEL.SEM_SEG_HEAD.CONVS_DIM": 32} if system == "upsnet" else {}  # its norm has 32 groups
    check_diverging_run(run_script, config, tiny_settings, tmp_path / "run", **changes)


def test_a_run_that_diverges_from_its_start(run_script, toy_config, tiny_settings, tmp_path):
    """No good checkpoint: none is named, and the run can be started again without --resume."""
    folder = tmp_path / "run"
    settings = {**tiny_settings, "SOLVER.CHECKPOINT_PERIOD": 1}
    code, err = train(run_script, toy_config, settings, folder, **{"SOLVER.MAX_ITER": 9}, **DIVERGE)
    assert code == 2 and "No good checkpoint was written. Start again with a lower SOLVER.BASE_LR" in err
    assert last_checkpoint(folder) is None
    all_finite(folder)
    assert train(run_script, toy_config, settings, folder, **{"SOLVER.MAX_ITER": 1})[0] == 0


def test_weights_that_break_in_the_iteration_of_a_checkpoint(
    run_script, toy_config, tiny_settings, tmp_path, monkeypatch
):
    """All losses are finite and the last step makes the weights NaN: nothing is saved, nothing is evaluated."""
    step = torch.optim.SGD.step

    def breaking(self, *args, **kwargs):
        result = step(self, *args, **kwargs)
        if self.param_groups[0]["params"][0].dim() < 2:
            return result  # the optimizer that the schedule is tried with, not the network's
        if breaking.steps == 1:
            with torch.no_grad():
                self.param_groups[0]["params"][0].view(-1)[0] = math.nan
        breaking.steps += 1
        return result

    breaking.steps = 0
    monkeypatch.setattr(torch.optim.SGD, "step", breaking)
    settings = {"SOLVER.MAX_ITER": 2, "SOLVER.CHECKPOINT_PERIOD": 1}
    code, err = train(run_script, toy_config, tiny_settings, tmp_path / "run", **settings)
    assert code == 2 and re.search(r"diverged at iteration 2: \d+ tensors of the model and the optimizer", err), err
    assert last_checkpoint(tmp_path / "run") == ("model_0000000.pth", 0)
    assert all_finite(tmp_path / "run") == ["model_0000000.pth"]
    assert not (tmp_path / "run" / "results.json").exists()


@pytest.mark.slow
def test_all_processes_stop(run_script, toy_config, tiny_settings, tmp_path, child_env, monkeypatch):
    for key in ("PYTHONPATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(key, child_env[key])
    settings = {**tiny_settings, "SOLVER.MAX_ITER": 40, "SOLVER.CHECKPOINT_PERIOD": 100, **DIVERGE}
    code, err = train(run_script, toy_config, settings, tmp_path / "run", "--num-gpus", "2")
    assert code == 2 and "training diverged at iteration" in err.strip().splitlines()[-1]
    assert all_finite(tmp_path / "run") == []


def test_the_record_of_losses():
    record = LossRecord()
    assert record.first_broken() is None
    one, nan, inf = torch.tensor(1.0), torch.tensor(math.nan), torch.tensor(math.inf)
    record.add(3, {"a": one, "b": one})
    record.add(4, {"a": one})
    assert record.first_broken() is None
    record.add(5, {"a": one, "b": inf})
    record.add(6, {"a": nan, "b": one})
    record.add(5, {"c": nan.half()})
    record.add(7, {})
    assert record.first_broken() == (5, ["b", "c"]) and record.first_exploded() == 5
    record = LossRecord()
    for iteration, total in ((7, 2.0), (8, 2000.0), (9, 1.0), (10, 2001.0), (11, 1e9), (12, math.nan)):
        assert record.first_exploded() is None or iteration > 10
        record.add(iteration, {"a": torch.tensor(total - 0.5), "b": torch.tensor(0.5)})
    assert record.first_exploded() == 10 and record.first_broken() == (12, ["a"])


def test_names_of_tensors_that_are_not_finite():
    bad, good = torch.tensor([1.0, math.inf]), torch.ones(2)
    content = {"model": {"w": bad, "b": good}, "steps": [{"m": bad.half()}, (good, bad.numpy())], "n": math.nan}
    content |= {"ids": torch.ones(2, dtype=torch.int64), "empty": torch.zeros(0), 3: None}
    assert non_finite_tensors(content) == ["model.w", "steps.0.m", "steps.1.1"]
    assert non_finite_tensors({}) == non_finite_tensors(None) == []


def test_such_a_checkpoint_is_not_saved(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("good", iteration=0)
    torch.nn.init.constant_(model.bias, math.nan)
    with pytest.raises(UserError, match="bad.pth is not saved: 1 tensors are not finite, the first is model.bias"):
        checkpointer.save("bad", iteration=1)
    assert last_checkpoint(tmp_path) == ("good.pth", 0) and not (tmp_path / "bad.pth").exists()


def test_a_file_is_checked_by_its_model_only(tmp_path):
    path, bad = tmp_path / "model.pth", torch.tensor([1.0, math.inf])
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": [bad]}, path)
    check_finite_weights(path)
    torch.save({"model": {"v": torch.ones(2), "w": bad}}, path)
    with pytest.raises(UserError, match=r"model\.pth: the checkpoint holds NaN .* in 1 tensors, the first is w:"):
        check_finite_weights(path)


@pytest.fixture
def broken(trained, tmp_path):
    """A trained folder whose last checkpoint has NaN in two tensors."""
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("inference", "events*"))
    path = folder / last_checkpoint(folder)[0]
    content = torch.load(path, weights_only=True)
    names = [name for name, tensor in content["model"].items() if tensor.is_floating_point()][3:5]
    for name in names:
        content["model"][name].view(-1)[-1] = math.nan
    torch.save(content, path)
    return folder, path, names[0]


def test_loading_such_weights_is_refused_everywhere(run_script, toy_config, tiny_settings, broken, tmp_path, tiny_data):
    folder, path, name = broken
    message = f"{path}: the checkpoint holds NaN or infinity in 2 tensors, the first is {name}"
    with pytest.raises(UserError, match=re.escape(message)):
        load_trained(folder)
    with pytest.raises(UserError, match=re.escape(message)):
        check_finite_weights(path)
    image = next(Path(tiny_data["val"]["images"]).iterdir())
    code, _, err = run_script("demo", "--model", folder, "--input", image, "--output", tmp_path / "out")
    assert code == 2 and message in err
    for flags, changes in (
        (["--eval-only"], {"MODEL.WEIGHTS": str(path)}),
        (["--eval-only", "--resume"], {}),
        (["--resume"], {}),
        ([], {"MODEL.WEIGHTS": str(path), "OUTPUT_DIR": str(tmp_path / "new")}),
    ):
        changes = {"OUTPUT_DIR": str(folder), **changes}
        settings = {**tiny_settings, "SOLVER.MAX_ITER": 50, **changes}
        code, _, err = run_script("train", "--config-file", toy_config, *flags, *as_opts(settings))
        assert code == 2 and message in err and "Traceback" not in err, (flags, err)
