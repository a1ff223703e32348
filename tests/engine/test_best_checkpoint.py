"""TEST.BEST_METRIC: the checkpoint with the best evaluation is kept, and is what inference uses."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from panoptic_fusion.checkpoint import named_checkpoint
from panoptic_fusion.checkpoint.checkpointer import read_best
from panoptic_fusion.config import with_values
from panoptic_fusion.engine import PanopticTrainer, best_checkpoint
from panoptic_fusion.engine.setup import write_config
from panoptic_fusion.networks.trained import load_trained


@pytest.fixture
def run(tiny_cfg, tmp_path, monkeypatch, one_thread):
    """Trains with an evaluation after each iteration whose PQ is given; returns (results, the weights at each)."""

    def train(scores, resume=False, metric="panoptic_seg/PQ", **keys):
        states, left = [], list(scores)

        def test(cls, cfg, model, evaluators=None):
            states.append({k: v.clone() for k, v in model.state_dict().items()})
            return {"panoptic_seg": {"PQ": left.pop(0), "images": 3.0}}

        monkeypatch.setattr(PanopticTrainer, "test", classmethod(test))
        cfg = with_values(tiny_cfg, {
            "OUTPUT_DIR": str(tmp_path), "TEST.BEST_METRIC": metric, "TEST.EVAL_PERIOD": 1, "VIS_PERIOD": 0,
            "SOLVER.MAX_ITER": len(scores) + (2 if resume else 0), **keys,
        })  # fmt: skip
        trainer = PanopticTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        write_config(cfg, eval_only=False)
        return trainer.train(), states

    return train


def same(path: Path, state: dict) -> bool:
    weights = torch.load(path, weights_only=True)["model"]
    return all(torch.equal(weights[k], v) for k, v in state.items())


def test_the_best_of_four(run, tmp_path, caplog):
    """A tie keeps the first; NaN is never the best; last_checkpoint stays the last one."""
    results, states = run([float("nan"), 9.0, 9.0, 7.0])
    assert results["panoptic_seg"]["PQ"] == 9.0
    best = read_best(tmp_path)
    assert (best["value"], best["iteration"], best["metric"]) == (9.0, 1, "panoptic_seg/PQ")
    assert same(tmp_path / "model_best.pth", states[1]) and not same(tmp_path / "model_best.pth", states[2])
    assert named_checkpoint(tmp_path).name == "model_final.pth" and same(tmp_path / "model_final.pth", states[3])
    assert load_trained(tmp_path).MODEL.WEIGHTS == str(tmp_path / "model_best.pth")
    assert load_trained(tmp_path, ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]).MODEL.WEIGHTS.endswith(
        "final.pth"
    )
    content = torch.load(tmp_path / "model_best.pth", weights_only=True)
    assert content["panoptic_fusion"]["format"] == 1 and "optimizer" not in content
    json.dumps(content["best"])


def test_a_resumed_run_knows_the_best_so_far(run, tmp_path, caplog):
    _, states = run([8.0, 3.0])
    kept = (tmp_path / "model_best.pth").read_bytes()
    results, _ = run([5.0, 6.0], resume=True)
    assert results["panoptic_seg"]["PQ"] == 8.0 and (tmp_path / "model_best.pth").read_bytes() == kept
    assert same(tmp_path / "model_best.pth", states[0])
    results, later = run([5.0, 6.0, 11.0, 2.0], resume=True)  # iterations 4 and 5 are left
    assert len(later) == 2 and results["panoptic_seg"]["PQ"] == 8.0
    (tmp_path / "model_best.pth").write_bytes(b"broken")
    results, _ = run([1.0] * 6, resume=True)  # a broken file does not end the run
    assert results["panoptic_seg"]["PQ"] == 1.0 and "best checkpoint so far is lost" in caplog.text


def test_a_result_on_other_data_is_not_compared(run, tmp_path, caplog, monkeypatch):
    """The ground truth was corrected: the results of the run are measured on it, whatever the best was before."""
    _, states = run([8.0, 3.0])
    monkeypatch.setattr(best_checkpoint, "dataset_states", lambda names: {name: "changed" for name in names})
    results, later = run([5.0, 4.0], resume=True)
    assert results["panoptic_seg"]["PQ"] == 5.0 and read_best(tmp_path)["value"] == 5.0
    assert same(tmp_path / "model_best.pth", later[0]) and same(tmp_path / "model_best_before.pth", states[0])
    assert caplog.text.count("DATASETS.TEST changed since") == 1
    caplog.clear()
    run([4.0, 4.0, 4.0], resume=True)
    assert read_best(tmp_path)["value"] == 5.0 and "changed since" not in caplog.text


def test_a_new_run_removes_the_best_of_another(run, tmp_path):
    run([8.0])
    for name in ("last_checkpoint", "model_final.pth"):
        (tmp_path / name).unlink()
    results, states = run([2.0, 1.0])
    assert results["panoptic_seg"]["PQ"] == 2.0 and same(tmp_path / "model_best.pth", states[0])


def test_without_the_metric(run, tmp_path, caplog):
    """Another name is only warned of; without a best checkpoint the last one is used."""
    results, _ = run([8.0, 3.0], metric="panoptic_seg/XX")
    assert results["panoptic_seg"]["PQ"] == 3.0 and not (tmp_path / "model_best.pth").exists()
    assert "TEST.BEST_METRIC panoptic_seg/XX is not among the results" in caplog.text
    assert load_trained(tmp_path).MODEL.WEIGHTS == str(tmp_path / "model_final.pth")


def test_off_by_default(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    assert not (folder / "model_best.pth").exists()
    (folder / "model_best.pth").write_bytes(b"of something else")
    assert load_trained(folder).MODEL.WEIGHTS == str(folder / "model_final.pth")
