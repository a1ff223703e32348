"""A file of weights is refused in one line, and nothing in it is executed: for every way in, format and opcode."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch
from malicious_files import KINDS, payloads, write
from torch import nn

from panoptic_fusion import load_zoo
from panoptic_fusion.checkpoint import AtomicCheckpointer, last_checkpoint
from panoptic_fusion.checkpoint.convert_seamseg import convert_seamseg
from panoptic_fusion.checkpoint.convert_upsnet import convert_upsnet
from panoptic_fusion.checkpoint.timm_weights import load_timm_weights
from panoptic_fusion.errors import UserError
from panoptic_fusion.networks import build_predictor, load_trained

OPCODES = list(payloads(Path("x")))


def resume(path: str) -> None:
    """--resume: `last_checkpoint` names the file."""
    folder = Path(path).parent
    (folder / "last_checkpoint").write_text(Path(path).name)
    last_checkpoint(folder)


READERS = {
    "train, evaluate, demo": lambda path: AtomicCheckpointer(nn.Linear(1, 1)).load(path),
    "resume": resume,
    "convert seamseg": convert_seamseg,
    "convert upsnet": convert_upsnet,
    "timm": lambda path: load_timm_weights(nn.Linear(1, 1), "any", path),
    "zoo": lambda path: load_zoo("mask_rcnn_r50_cityscapes", ["MODEL.DEVICE", "cpu"], weights=path),
}


def assert_refused(error, path: Path, marker: Path) -> None:
    message = str(error)
    assert "\n" not in message and path.name in message and len(message) < 500
    assert "weights_only" not in message and "add_safe_globals" not in message
    assert not marker.exists()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.mark.parametrize("opcode", [o for o in OPCODES if o != "new object"])
def test_the_payloads_work(opcode, marker):
    """Read without care they do what the other tests look for, so those can fail."""
    try:
        pickle.loads(payloads(marker)[opcode])
    except Exception as error:  # after the call
        assert marker.exists(), error
    assert marker.exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reader", "opcode"), [(r, o) for r in READERS for o in OPCODES if r != "zoo" or o == "reduce"]
)
def test_nothing_is_executed(reader, opcode, kind, marker, tmp_path):
    path = write(tmp_path / kind, payloads(marker)[opcode])
    with pytest.raises(UserError) as error:
        READERS[reader](str(path))
    assert_refused(error.value, path, marker)


@pytest.mark.parametrize("zipped", [True, False])
def test_an_object_in_a_file_of_torch(zipped, marker, tmp_path):
    """As torch.save writes it, storages and all."""

    class Payload:
        def __reduce__(self):
            return open, (str(marker), "w")

    path = tmp_path / "evil.pth"
    torch.save({"model": {"weight": torch.zeros(1)}, "x": Payload()}, path, _use_new_zipfile_serialization=zipped)
    for reader in READERS.values():
        with pytest.raises(UserError) as error:
            reader(str(path))
        assert_refused(error.value, path, marker)


def test_environment_cannot_switch_it_off(marker, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = write(tmp_path / "evil.pth", payloads(marker)["reduce"])
    with pytest.raises(UserError) as error:
        AtomicCheckpointer(nn.Linear(1, 1)).load(str(path))
    assert_refused(error.value, path, marker)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trained_model_from_somebody_else(kind, marker, tmp_path, trained):
    """Its folder may name any file: detectron2's own reader, which runs a .pkl, never gets its name."""
    shutil.copy(trained / "config.yaml", tmp_path)
    path = write(tmp_path / kind, payloads(marker)["reduce"])
    (tmp_path / "last_checkpoint").write_text(kind)
    with pytest.raises(UserError) as error:
        build_predictor(load_trained(tmp_path, ["MODEL.DEVICE", "cpu"]))
    assert_refused(error.value, path, marker)
    for name in ("../model_final.pth", "/etc/passwd", "a/b.pth", "", "model_final.pth\nx.pth"):
        (tmp_path / "last_checkpoint").write_text(name)
        with pytest.raises(UserError, match="last_checkpoint names"):
            load_trained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_command_lines(kind, marker, tmp_path, run_script, toy_config, tiny_opts, trained):
    path = write(tmp_path / kind, payloads(marker)["reduce"])
    (tmp_path / "a.jpg").write_bytes(b"")
    weights = ("MODEL.WEIGHTS", path)
    calls = [
        ("train", "--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", tmp_path / "out", *weights),
        ("train", "--eval-only", "--config-file", toy_config, *tiny_opts, "OUTPUT_DIR", tmp_path / "out", *weights),
        ("demo", "--input", tmp_path / "a.jpg", "--output", tmp_path / "out", "--model", trained, "--opts", *weights),
        ("convert", "seamseg", path, tmp_path / "converted.pth"),
        ("convert", "upsnet", path, tmp_path / "converted.pth"),
    ]
    for call in calls:
        code, _, err = run_script(*call)
        assert code == 2 and "Traceback" not in err
        assert_refused(err.strip().splitlines()[-1], path, marker)
