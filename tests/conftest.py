"""Shared fixtures: a dataset of a few toy scenes, a tiny training on it, commands and scripts run in this process.

Nothing here is imported by the package. detectron2 is imported by the fixtures that need it.
"""

import os
import sys
from pathlib import Path

import pytest
from tiny_training import ROOT, TINY_NETWORK, TRAINED, as_opts, import_script, remove_log_handlers


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> dict[str, dict[str, str]]:
    """6 training and 3 validation scenes of 96 x 128: {"train", "val"} of keyword arguments of `register_panoptic`."""
    from panoptic_fusion.data.toy.scenes import generate_toy_scenes

    folder = tmp_path_factory.mktemp("tiny") / "scenes"
    return generate_toy_scenes(folder, num_train=6, num_val=3, seed=5, size=(96, 128))


@pytest.fixture(autouse=True)
def datasets_of_one_test():
    """Forgets the datasets that a test registers: in other tests of the process their names mean other files.

    Datasets of fixtures of a module or session stay: those are set up before this one.
    """
    from panoptic_fusion.data.catalogs import forgotten_datasets

    with forgotten_datasets():
        yield


@pytest.fixture(scope="session")
def one_thread() -> None:
    """From here on one thread: for networks this small more of them only wait for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_settings(tiny_data) -> dict:
    """Config settings {KEY: VALUE} of a tiny training on `tiny_data`: datasets tiny_train and tiny_val."""
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
    """Runs a command or a script in this process: run_script("demo", "--input", ...) -> (exit code, stdout, stderr)."""
    from panoptic_fusion.cli import COMMANDS, main
    from panoptic_fusion.errors import run_cli

    def run(name: str, *arguments: str) -> tuple[int, str, str]:
        words = [str(word) for word in arguments]
        monkeypatch.setattr(sys, "argv", ["panoptic-fusion", name, *words] if name in COMMANDS else [name, *words])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as exit_info:
                if name in COMMANDS:
                    main()
                else:
                    run_cli(import_script(name).main)
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
    from panoptic_fusion.cli.train import train

    folder = tmp_path_factory.mktemp("trained") / "output"
    train(toy_config, [*tiny_opts, *TRAINED, "OUTPUT_DIR", str(folder)])
    remove_log_handlers()
    return folder
