"""What a training that goes on draws, and where the processes of a job go on."""

import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tiny_training import remove_log_handlers

from panoptic_fusion import resolve_config
from panoptic_fusion.checkpoint import AtomicCheckpointer, last_checkpoint
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.engine.setup import process_seed, setup_job
from panoptic_fusion.engine.spawn import launch
from panoptic_fusion.errors import UserError

MACHINES = ("first", "second")


def with_output(cfg: CfgNode, folder: Path) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def save_checkpoint(folder: Path, name: str, iteration: int) -> None:
    AtomicCheckpointer(torch.nn.Linear(1, 1), str(folder)).save(name, iteration=iteration)


def drawn(cfg: CfgNode, *, resume: bool = False, eval_only: bool = False) -> tuple:
    """What a job draws after its start: images and augmentations of three batches, then a number of each generator."""
    setup_job(cfg, resume=resume, eval_only=eval_only)
    remove_log_handlers()
    return draw(cfg)


def draw(cfg: CfgNode) -> tuple:
    batches = iter(PanopticTrainer.build_train_loader(cfg))
    images = [(x["image_id"], x["image"].sum().item()) for _ in range(3) for x in next(batches)]
    return images, torch.rand(1).item(), np.random.rand(), random.random()


def test_a_training_that_goes_on_does_not_draw_its_start_again(tiny_cfg, tmp_path: Path):
    cfg = with_output(tiny_cfg, tmp_path)
    assert cfg.SEED == 3
    seed_all_rng(3)
    fresh = draw(cfg)
    assert drawn(cfg) == drawn(cfg, resume=True) == fresh  # nothing to go on with
    found = [fresh]
    for iteration in (9, 10):
        save_checkpoint(tmp_path, "model_final", iteration)
        assert last_checkpoint(tmp_path) == ("model_final.pth", iteration)
        assert drawn(cfg) == drawn(cfg, resume=True, eval_only=True) == fresh
        found.append(drawn(cfg, resume=True))
        assert drawn(cfg, resume=True) == found[-1]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert all(a != b for a, b in zip(found[one], found[other], strict=True))


def test_seeds_of_processes():
    assert process_seed(-1, 0, 0) is None and process_seed(-1, 3, 1000) is None
    seeds = [process_seed(5, rank, start_iter) for rank in range(8) for start_iter in range(50)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**32 for seed in seeds)
    assert [process_seed(5, rank, 0) for rank in range(8)] == list(range(5, 13))


def test_the_last_checkpoint_of_a_folder(tmp_path: Path):
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "model_final.pth").write_bytes(b"half")
    with pytest.raises(UserError, match="model_final.pth is not a readable checkpoint"):
        last_checkpoint(tmp_path)
    torch.save({"model": {}}, tmp_path / "model_final.pth")
    assert last_checkpoint(tmp_path) == ("model_final.pth", -1)


def resume_in_each_process(config: str, cases: list[str]) -> None:
    """One of two machines: the message, or the first iteration, of each case."""
    torch.set_num_threads(1)
    trainer = PanopticTrainer(resolve_config(CfgNode.load_cfg(config)))
    found = []
    for case in cases:
        folder = os.path.join(case, MACHINES[comm.get_rank()])
        trainer.cfg, trainer.checkpointer.save_dir = with_output(trainer.cfg, folder), folder
        trainer.start_iter = 0
        try:
            trainer.resume_or_load(resume="without" not in case or comm.get_rank() == 0)
            found.append(trainer.start_iter)
        except UserError as error:
            found.append(str(error))
    torch.save(found, os.path.join(folder, "found.pth"))


def test_all_machines_go_on_from_the_same_checkpoint(tiny_cfg, trained, tmp_path: Path, monkeypatch):
    """Each has an OUTPUT_DIR of its own; `trained` has 40 iterations."""
    whole = torch.load(trained / "model_final.pth", weights_only=True)
    cases = ["same", "only_first", "no_file", "older", "other_name", "without_flag"]
    for case in cases:
        for machine in MACHINES:
            folder = tmp_path / case / machine
            folder.mkdir(parents=True)
            torch.save(whole, folder / "model_final.pth")
            (folder / "last_checkpoint").write_text("model_final.pth")
    (tmp_path / "only_first/second/last_checkpoint").unlink()
    (tmp_path / "no_file/second/model_final.pth").unlink()
    older = {**whole, "iteration": 24, "trainer": {**whole["trainer"], "iteration": 24}}
    torch.save(older, tmp_path / "older/second/model_final.pth")
    torch.save(older, tmp_path / "other_name/second/model_0000024.pth")
    (tmp_path / "other_name/second/last_checkpoint").write_text("model_0000024.pth")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    cfg = with_output(tiny_cfg, tmp_path)
    launch(resume_in_each_process, 2, dist_url="auto", args=(cfg.dump(), [str(tmp_path / case) for case in cases]))
    found = [torch.load(tmp_path / cases[-1] / m / "found.pth", weights_only=True) for m in MACHINES]
    assert found[0] == found[1] and found[0][0] == 40
    others = ["no checkpoint", "no checkpoint", "model_final.pth of iteration 24", "model_0000024.pth of iteration 24"]
    for message, other in zip(found[0][1:], [*others, "no checkpoint"], strict=True):
        assert f"process 0 resumes from model_final.pth of iteration 39, process 1 from {other}: OUTPUT_DIR" in message
