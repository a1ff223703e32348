"""The JSON file that grows: equal to one written at once, after each entry and after each single write."""

import contextlib
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from panoptic_fusion.errors import DiskError
from panoptic_fusion.growing_json import GrowingJson


@pytest.mark.parametrize("keys", [("annotations",), ("images", "annotations"), ("a", "b", "c")])
def test_equals_one_written_at_once(tmp_path: Path, keys):
    """Random entries, some longer than all room; the lists outgrow their room several times."""
    rng, path = np.random.default_rng(0), tmp_path / "x.json"
    expected = {"categories": [{"name": "\u00e9]}"}], **{key: [] for key in keys}}
    with GrowingJson(path, {"categories": expected["categories"]}, keys) as file:
        for number in range(300):
            assert json.loads(path.read_text()) == expected
            length = 20_000 if number in (7, 200) else 60
            entries = [{key: number, "text": "\u00e9\n]" * int(rng.integers(length))} for key in keys]
            file.append(*entries)
            for key, entry in zip(keys, entries, strict=True):
                expected[key].append(entry)
    assert json.loads(path.read_text()) == expected


def test_is_valid_after_each_single_write_and_rarely_written_again(tmp_path: Path, monkeypatch):
    """A process that is killed between two writes leaves at most an image without an annotation."""
    path, whole, replace, lengths, again = tmp_path / "x.json", os.pwrite, os.replace, [], []

    def write(*args):
        done = whole(*args)
        content = json.loads(path.read_text())
        lengths.append((len(content["images"]), len(content["annotations"])))
        return done

    def counted(*args):
        again.append(args)
        return replace(*args)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "replace", counted)
    with GrowingJson(path, {}, ("images", "annotations")) as file:
        for number in range(1000):
            file.append({"id": number}, {"image_id": number})
    assert lengths == [pair for n in range(1000) for pair in ((n + 1, n), (n + 1, n + 1))]
    assert 2 <= len(again) <= 8  # 1000 entries of 14 bytes in 2048 bytes of room, which doubles


def test_lists_of_different_lengths(tmp_path: Path):
    """Any number of entries at a time, also none, and also long ones; a finished file keeps no spaces."""
    rng, path = np.random.default_rng(1), tmp_path / "x.json"
    expected: dict[str, list] = {"a": [], "b": []}
    with GrowingJson(path, {}, ("a", "b")) as file:
        for number in range(200):
            lists = [[[number, "x" * int(rng.integers(2 * number + 1))]] * int(rng.integers(4)) for _ in "ab"]
            file.extend(*lists)
            for key, entries in zip("ab", lists, strict=True):
                expected[key] += entries
            assert json.loads(path.read_text()) == expected
        assert " " * 100 in path.read_text()
    assert json.loads(path.read_text()) == expected and " " * 3 not in path.read_text()


def test_an_error_or_a_full_disk_at_the_end_keeps_the_file(tmp_path: Path, monkeypatch):
    def full(*args):
        raise DiskError("full")

    for error in (None, KeyboardInterrupt):
        with contextlib.suppress(KeyboardInterrupt), GrowingJson(tmp_path / "x.json", {}, ("a", "b")) as file:
            file.append(1, 2)
            monkeypatch.setattr("panoptic_fusion.growing_json.write_atomically", full)
            if error:
                raise error
        monkeypatch.undo()
        assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1], "b": [2]}


@pytest.mark.parametrize("short", [0, 1, 3, 10])
def test_a_full_disk(tmp_path: Path, monkeypatch, short: int):
    """`short` bytes of the annotation still find room."""
    path = tmp_path / "x.json"
    with GrowingJson(path, {}, ("images", "annotations")) as file:
        file.append(1, {"a": 1})
        size, whole = path.stat().st_size, os.pwrite

        def full(number, data, offset):
            room = size + short - offset
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return whole(number, data[:room], offset)

        monkeypatch.setattr(os, "pwrite", full)
        for _ in range(2):
            with pytest.raises(DiskError, match="No space left"):
                file.append(2, {"b": "x" * 100})
            assert json.loads(path.read_text()) == {"images": [1], "annotations": [{"a": 1}]}
        monkeypatch.setattr(os, "pwrite", whole)
        file.append(3, {"c": 3})
    assert json.loads(path.read_text()) == {"images": [1, 3], "annotations": [{"a": 1}, {"c": 3}]}


def test_a_full_disk_when_the_file_is_written_again(tmp_path: Path, monkeypatch):
    with GrowingJson(tmp_path / "x.json", {}, ("images", "annotations")) as file:
        file.append(1, 1)

        def full(*args):
            raise DiskError("full")

        with monkeypatch.context() as patch:
            patch.setattr("panoptic_fusion.growing_json.write_atomically", full)
            with pytest.raises(DiskError, match="full"):
                file.append("x" * 5000, 2)
        assert json.loads((tmp_path / "x.json").read_text()) == {"images": [1], "annotations": [1]}
        file.append("x" * 5000, 2)
    assert json.loads((tmp_path / "x.json").read_text())["annotations"] == [1, 2]


def test_one_entry_per_list(tmp_path: Path):
    with GrowingJson(tmp_path / "x.json", {}, ("images", "annotations")) as file:
        with pytest.raises(ValueError, match="images, annotations"):
            file.append(1)
