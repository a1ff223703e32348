"""Shared fixtures: a data set of a few toy scenes, a network that trains in seconds, and the project's scripts.

Files and settings are shared by tests that train; nothing here is imported by the package.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# 8 channels in the first stage instead of 64; one iteration takes about 60 ms with one thread.
TINY_NETWORK = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 8,
    "MODEL.FPN.OUT_CHANNELS": 16,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 10,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 1,
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": 16,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 128,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_ITERS": 2,
    "SOLVER.MAX_ITER": 4,
    "SOLVER.CHECKPOINT_PERIOD": 100,
    "DATALOADER.NUM_WORKERS": 0,
    "SEED": 3,
}

# Enough for some stuff segments to be right.
TRAINED = ("SOLVER.MAX_ITER", "40", "SOLVER.CHECKPOINT_PERIOD", "25", "VIS_PERIOD", "20")


def as_opts(settings: dict) -> list[str]:
    """KEY VALUE pairs of a command line."""
    return [str(text) for pair in settings.items() for text in pair]


def import_script(name: str):
    """A script of the repository, such as "train_net" or "tools/ablation", as a module; imported once."""
    module_name = Path(name).name
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, ROOT / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return sys.modules[module_name]


def remove_log_handlers() -> None:
    """Takes back what `setup_logger` did in this process: its handlers write to pytest's stdout of one test."""
    import logging

    from detectron2.utils.logger import setup_logger

    for name in ("detectron2", "fvcore", "panoptic_fusion"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
    setup_logger.cache_clear()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> dict[str, dict[str, str]]:
    """6 training and 3 validation scenes of 96 x 128: {"train", "val"} of keyword arguments of `register_panoptic`."""
    from panoptic_fusion.data.toy_scenes import generate_toy_scenes

    folder = tmp_path_factory.mktemp("tiny") / "scenes"
    return generate_toy_scenes(folder, num_train=6, num_val=3, seed=5, size=(96, 128))


@pytest.fixture(scope="session")
def one_thread() -> None:
    """From here on one thread: for networks this small more of them only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_settings(tiny_data) -> dict:
    """Config settings {KEY: VALUE} of a tiny training on `tiny_data`: data sets tiny_train and tiny_val."""
    entries = [{"name": f"tiny_{split}", **tiny_data[split]} for split in ("train", "val")]
    return {
        **TINY_NETWORK,
        "DATASETS.REGISTER": str(entries),
        "DATASETS.TRAIN": "('tiny_train',)",
        "DATASETS.TEST": "('tiny_val',)",
    }


@pytest.fixture(scope="session")
def tiny_opts(tiny_settings) -> list[str]:
    """`tiny_settings` as KEY VALUE pairs of a command line."""
    return as_opts(tiny_settings)


@pytest.fixture(scope="session")
def toy_config() -> str:
    """Path of the config that `tiny_opts` shrinks."""
    return str(ROOT / "configs" / "toy" / "panoptic_fpn_r18.yaml")


@pytest.fixture(scope="session")
def tiny_cfg(tiny_opts, toy_config):
    """The resolved tiny config, frozen."""
    from panoptic_fusion import get_cfg, resolve_config

    cfg = get_cfg()
    cfg.merge_from_file(toy_config)
    cfg.merge_from_list([*tiny_opts, "MODEL.DEVICE", "cpu"])
    return resolve_config(cfg)


@pytest.fixture
def run_script(monkeypatch, capsys, one_thread):
    """Runs a script in this process: run_script("demo", "--input", ...) -> (exit code, stdout, stderr)."""
    from panoptic_fusion.errors import run_cli

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        module = import_script(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as exit_info:
                run_cli(module.main)
        finally:
            remove_log_handlers()
        captured = capsys.readouterr()
        return exit_info.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def child_env() -> dict[str, str]:
    """Environment of child processes: one thread each, no GPU, the package importable from any folder."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(p for p in paths if p),
    }


@pytest.fixture(scope="session")
def trained(tiny_opts, toy_config, tmp_path_factory, one_thread) -> Path:
    """OUTPUT_DIR of 40 iterations of tiny training, with pictures in TensorBoard; do not write into it."""
    folder = tmp_path_factory.mktemp("trained") / "output"
    train_net = import_script("train_net")
    argv = ["train_net.py", "--config-file", toy_config, *tiny_opts, *TRAINED, "OUTPUT_DIR", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        train_net.main()
    remove_log_handlers()
    return folder
