"""Several processes on the CPU (gloo): gradients, parameters and results are those of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.engine.defaults import create_ddp_model
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from tiny_training import ROOT, as_opts

from panoptic_fusion import resolve_config
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.engine.spawn import launch

STEPS = 20


class SemanticLoss(torch.nn.Module):
    """The part of the network behind `loss_sem_seg`."""

    def __init__(self, model):
        super().__init__()
        self.backbone, self.sem_seg_head = model.backbone, model.sem_seg_head

    def forward(self, images: torch.Tensor, sem_seg: torch.Tensor) -> torch.Tensor:
        return self.sem_seg_head.losses(self.sem_seg_head(self.backbone(images)), sem_seg, [])["loss_sem_seg"]


def make_semantic_loss(cfg: CfgNode) -> SemanticLoss:
    """With the same random weights each time. No layer of it mixes images: frozen BN, group norm."""
    seed_all_rng(7)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.FPN.NORM = "FrozenBN", ""
    cfg.MODEL.SEM_SEG_HEAD.NORM, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = "GN", 32
    return SemanticLoss(build_model(cfg)).train()


def random_batch(num_channels: int, num_ignored: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and their labels, with so many ignored pixels."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    sem_seg = torch.randint(num_channels, (2, 64, 96), generator=generator)
    for labels, count in zip(sem_seg, num_ignored, strict=True):
        labels.view(-1)[torch.randperm(labels.numel(), generator=generator)[:count]] = 255
    return images, sem_seg


def gradients(module: torch.nn.Module, images: torch.Tensor, sem_seg: torch.Tensor) -> dict[str, torch.Tensor]:
    module.zero_grad()
    module(images, sem_seg).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in module.named_parameters() if p.requires_grad}


class CompareParameters(HookBase):
    """After each step: whether all processes have the same parameters, and whether they have moved."""

    def __init__(self):
        self.equal, self.moved, self.before = [], [], None

    def after_step(self) -> None:
        mine = torch.cat([p.detach().flatten() for p in self.trainer.model.parameters()])
        all_of_them = [torch.empty_like(mine) for _ in range(comm.get_world_size())]
        torch.distributed.all_gather(all_of_them, mine)
        self.equal.append(all(torch.equal(mine, other) for other in all_of_them))
        self.moved.append(self.before is None or not torch.equal(mine, self.before))
        self.before = mine


def in_each_process(config: str, cases: list[tuple[int, int]], folder: str) -> None:
    """One of two processes: its gradients of each case, with one image, then some steps of training."""
    torch.set_num_threads(1)
    cfg = resolve_config(CfgNode.load_cfg(config))
    found = []
    for num_ignored in cases:
        images, sem_seg = random_batch(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, num_ignored)
        module = create_ddp_model(make_semantic_loss(cfg), broadcast_buffers=False, device_ids=None)
        rank = comm.get_rank()
        found.append(gradients(module, images[rank : rank + 1], sem_seg[rank : rank + 1]))
    seed_all_rng(100 + comm.get_rank())  # other images, other augmentations, other initial weights
    trainer = PanopticTrainer(cfg)
    hook = CompareParameters()
    trainer.register_hooks([hook])
    trainer.resume_or_load(resume=False)
    trainer.train()
    torch.save((found, hook.equal, hook.moved), os.path.join(folder, f"rank{comm.get_rank()}.pth"))


CASES = [(500, 500), (0, 0), (100, 4000)]  # ignored pixels of the two images


@pytest.fixture(scope="module")
def two_processes(tiny_cfg, tiny_data, tmp_path_factory):
    """What both processes have found. Half of the training images have no thing to learn from (all are crowds)."""
    folder = tmp_path_factory.mktemp("two_processes")
    content = json.loads(Path(tiny_data["train"]["panoptic_json"]).read_text())
    things = {c["id"] for c in content["categories"] if c["isthing"]}
    for annotation in content["annotations"][::2]:
        for segment in annotation["segments_info"]:
            segment["iscrowd"] = int(segment["category_id"] in things)
    (folder / "panoptic.json").write_text(json.dumps(content))
    paths = {key: tiny_data["train"][key] for key in ("images", "panoptic_root")}
    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.DATASETS.REGISTER = [{"name": "half_empty", "panoptic_json": str(folder / "panoptic.json"), **paths}]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("half_empty",), ()
    cfg.SOLVER.MAX_ITER, cfg.OUTPUT_DIR = STEPS, str(folder / "output")
    cfg.SEED = -1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        launch(in_each_process, 2, dist_url="auto", args=(cfg.dump(), CASES, str(folder)))
    return [torch.load(folder / f"rank{rank}.pth", weights_only=True) for rank in range(2)]


def assert_equal_gradients(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys() and len(expected) > 30
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        assert (found[name] - gradient).abs().max() <= 1e-5 * max(1.0, gradient.abs().max().item()), name


@pytest.mark.parametrize("case", [0, 1])
def test_gradients_of_two_processes_are_those_of_a_batch_of_two(two_processes, tiny_cfg, case: int):
    """Where both images have as many pixels with ground truth."""
    images, sem_seg = random_batch(tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, CASES[case])
    expected = gradients(make_semantic_loss(tiny_cfg), images, sem_seg)
    for found, _, _ in two_processes:
        assert_equal_gradients(found[case], expected)


def test_each_process_counts_the_same_whatever_its_number_of_labelled_pixels(two_processes, tiny_cfg):
    """With other counts it is the mean of the images' mean losses, not the mean over all pixels."""
    images, sem_seg = random_batch(tiny_cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, CASES[2])
    module = make_semantic_loss(tiny_cfg)
    one, two = (gradients(module, images[i : i + 1], sem_seg[i : i + 1]) for i in range(2))
    for found, _, _ in two_processes:
        assert_equal_gradients(found[2], {name: (one[name] + two[name]) / 2 for name in one})
    over_pixels = gradients(module, images, sem_seg)
    assert max((over_pixels[name] - (one[name] + two[name]) / 2).abs().max() for name in one) > 1e-3


def test_parameters_stay_identical_across_processes(two_processes):
    for _, equal, moved in two_processes:
        assert equal == [True] * STEPS and moved == [True] * STEPS


def finish(processes: list[subprocess.Popen]) -> list[str]:
    """Their outputs; all of them must end well."""
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)[-5000:]
    return outputs


def start_training(toy_config, settings: dict, flags: list, env: dict) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", toy_config, *map(str, flags)]
    return subprocess.Popen(
        [*command, *as_opts(settings)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_two_processes_score_all_images(run_script, toy_config, tiny_settings, child_env, trained, tmp_path: Path):
    """--num-gpus 2 without a GPU: three iterations more of the tiny model, then PQ of all three images, as one process
    finds it for the checkpoint."""
    output = tmp_path / "two"
    settings = {**tiny_settings, "OUTPUT_DIR": output, "SOLVER.MAX_ITER": 3, "SOLVER.BASE_LR": 1e-4}
    settings["MODEL.WEIGHTS"] = trained / "model_final.pth"
    flags = ["--num-gpus", 2, "--dist-url", f"tcp://127.0.0.1:{free_port()}"]
    finish([start_training(toy_config, settings, flags, child_env)])
    together = json.loads((output / "results.json").read_text())
    assert together["panoptic_seg"]["images"] == 3 and together["panoptic_seg"]["PQ"] > 0
    assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 2
    alone = ["MODEL.WEIGHTS", output / "model_final.pth", "OUTPUT_DIR", tmp_path / "one"]
    code, _, err = run_script("train", "--eval-only", "--config-file", output / "config.yaml", *alone)
    assert code == 0, err
    expected = json.loads((tmp_path / "one" / "results.json").read_text())
    for task in ("panoptic_seg", "segm"):
        numbers = {k: v for k, v in expected[task].items() if v is not None}
        assert {k: v for k, v in together[task].items() if v is not None} == pytest.approx(numbers, abs=1e-4)


@pytest.mark.slow
def test_two_machines(toy_config, tiny_settings, child_env, tmp_path: Path):
    """--num-machines 2 on loopback, each with a folder of its own: the first writes checkpoint and results."""
    port = free_port()
    processes = []
    for rank in range(2):
        settings = {**tiny_settings, "OUTPUT_DIR": tmp_path / f"machine{rank}", "SOLVER.MAX_ITER": 2}
        flags = ["--num-machines", 2, "--machine-rank", rank, "--dist-url", f"tcp://127.0.0.1:{port}"]
        processes.append(start_training(toy_config, settings, flags, child_env))
    finish(processes)
    first, second = tmp_path / "machine0", tmp_path / "machine1"
    assert (first / "model_final.pth").is_file() and not (second / "model_final.pth").exists()
    assert json.loads((first / "results.json").read_text())["panoptic_seg"]["images"] == 3
    assert "World size: 2" in (first / "log.txt").read_text()
    assert "World size: 2" in (second / "log.txt.rank1").read_text()
