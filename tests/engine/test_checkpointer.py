"""Checkpoints: whole or not there, and refused with one clear line where they do not fit."""

import io
import os
import subprocess
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from panoptic_fusion.checkpoint import AtomicCheckpointer
from panoptic_fusion.errors import DiskError, UserError
from panoptic_fusion.files import remove_partial_files


class Small(nn.Module):
    """A linear layer, a batch norm (with buffers), and a second linear layer."""

    def __init__(self, width: int = 4, second: bool = True):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        if second:
            self.second = nn.Linear(width, 2)


class State:
    """Something else that a checkpoint carries."""

    def __init__(self, value: int = 0):
        self.value = value

    def state_dict(self) -> dict:
        return {"value": self.value}

    def load_state_dict(self, state: dict) -> None:
        self.value = state["value"]


def equal_states(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[k]) for k, x in a.state_dict().items())


def test_save_and_resume_round_trip(tmp_path: Path):
    model, state = Small(), State(17)
    AtomicCheckpointer(model, str(tmp_path), state=state).save("model_0000017", iteration=17)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000017.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000017.pth"
    other, other_state = Small(), State()
    assert not equal_states(model, other)
    rest = AtomicCheckpointer(other, str(tmp_path), state=other_state).resume_or_load("", resume=True)
    assert equal_states(model, other) and other_state.value == 17 and rest["iteration"] == 17


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def no_network(url: str, **_):
        raise URLError("Temporary failure in name resolution")

    model = Small()
    checkpointer = AtomicCheckpointer(model)
    monkeypatch.setattr(checkpointer.path_manager, "get_local_path", no_network)
    for url in ("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "https://example.org/model.pth"):
        with pytest.raises(UserError, match=f"MODEL.WEIGHTS: {url}.*Temporary failure.*download it"):
            checkpointer.load(url)


def test_without_resume_only_the_weights_are_loaded(tmp_path: Path):
    model = Small()
    AtomicCheckpointer(model, str(tmp_path), state=State(17)).save("a")
    other, state = Small(), State(5)
    AtomicCheckpointer(other, str(tmp_path), state=state).resume_or_load(str(tmp_path / "a.pth"), resume=False)
    assert equal_states(model, other) and state.value == 5


@pytest.mark.parametrize("fail_after", [0, 1, 1000, 5000])
def test_an_error_while_writing_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch, fail_after: int):
    model = Small(width=400)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    whole = (tmp_path / "model_0000001.pth").read_bytes()

    def failing_save(data, file):
        buffer = io.BytesIO()
        original_save(data, buffer)
        file.write(buffer.getvalue()[:fail_after])
        raise OSError(28, "No space left on device")

    original_save = torch.save
    monkeypatch.setattr(torch, "save", failing_save)
    for name in ("model_0000001", "model_0000002"):  # the same file again, and a new one
        with pytest.raises(DiskError, match="cannot write .*No space"):
            checkpointer.save(name)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == whole
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"


def test_the_pointer_moves_only_when_the_file_is_there(tmp_path: Path, monkeypatch):
    checkpointer = AtomicCheckpointer(Small(), str(tmp_path))
    seen = []
    original = checkpointer.tag_last_checkpoint

    def tag(name: str) -> None:
        seen.append((name, torch.load(tmp_path / name, weights_only=True).keys() >= {"model"}))
        original(name)

    monkeypatch.setattr(checkpointer, "tag_last_checkpoint", tag)
    checkpointer.save("model_final")
    assert seen == [("model_final.pth", True)]


def test_partial_files_of_a_killed_training_are_ignored_and_removed(tmp_path: Path):
    model = Small()
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    killed = subprocess.Popen(["true"])
    killed.wait()
    leftovers = [f".model_0000003.pth.{killed.pid}.partial", f".last_checkpoint.{killed.pid}.partial"]
    for name in leftovers:
        (tmp_path / name).write_bytes(b"half")
    bystander = tmp_path / "notes.partial"
    bystander.write_text("not ours")
    other = Small()
    again = AtomicCheckpointer(other, str(tmp_path))
    assert Path(again.get_checkpoint_file()).name == "model_0000001.pth"
    again.resume_or_load("", resume=True)
    assert equal_states(model, other)
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth", "notes.partial"]


def test_nothing_is_written_without_a_folder_or_by_other_ranks(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    AtomicCheckpointer(Small()).save("a")
    AtomicCheckpointer(Small(), str(tmp_path), save_to_disk=False).save("a")
    assert os.listdir(tmp_path) == []


def test_other_shapes_are_refused_unless_allowed(tmp_path: Path):
    AtomicCheckpointer(Small(width=4), str(tmp_path)).save("a")
    path = str(tmp_path / "a.pth")
    model = Small(width=5)
    # width is in first.weight, first.bias, norm.{weight,bias,running_mean,running_var}, second.weight
    with pytest.raises(UserError, match=r"7 tensors have another shape, the first is .*ALLOW_SHAPE_MISMATCH") as error:
        AtomicCheckpointer(model).load(path)
    assert "\n" not in str(error.value)
    AtomicCheckpointer(model, allow_shape_mismatch=True).load(path)
    assert torch.equal(model.second.bias, torch.load(path, weights_only=True)["model"]["second.bias"])


def test_missing_tensors_are_refused_where_all_are_needed(tmp_path: Path):
    AtomicCheckpointer(Small(second=False), str(tmp_path)).save("a")
    path = str(tmp_path / "a.pth")
    AtomicCheckpointer(Small()).load(path)  # as backbone weights are
    with pytest.raises(UserError, match="lacks 2 tensors of the model, the first is second"):
        AtomicCheckpointer(Small(), require_complete=True).load(path)
    with pytest.raises(UserError, match="lacks 2 tensors"):  # resuming needs all of them
        AtomicCheckpointer(Small(), str(tmp_path)).resume_or_load("", resume=True)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path):
    torch.save({"model": {"encoder.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="no tensor of the model"):
        AtomicCheckpointer(Small()).load(str(tmp_path / "other.pth"))


def test_unreadable_files_are_refused_in_one_line(tmp_path: Path):
    good = io.BytesIO()
    torch.save({"model": Small().state_dict()}, good)
    contents = {
        "empty.pth": b"",
        "text.pth": b"not a checkpoint\n" * 20,
        "half.pth": good.getvalue()[: len(good.getvalue()) // 2],
        "list.pth": saved([1, 2, 3]),
        "numbers.pth": saved({"model": {"first.weight": 3}}),
        "tensor.pth": saved(torch.zeros(3)),
        "nested.pth": saved({"model": [1]}),
        "code.pth": saved({"model": Small()}),  # a pickled object: refused, not run
    }
    checkpointer = AtomicCheckpointer(Small(), require_complete=True)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            checkpointer.load(str(tmp_path / name))
        assert "\n" not in str(error.value) and len(str(error.value)) < 500, name
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checkpointer.load(str(tmp_path / "missing.pth"))
    (tmp_path / "good.pth").write_bytes(good.getvalue())
    checkpointer.load(str(tmp_path / "good.pth"))  # an error before does not break it


def saved(content) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
