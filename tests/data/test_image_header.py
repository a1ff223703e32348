"""Image headers: what is refused before anything is decoded, in every command that reads images."""

import json
import os
import signal
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_panoptic import make_tiny
from PIL import Image

from panoptic_fusion.data import DatasetError
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.image_header import check_pixels, open_image
from panoptic_fusion.data.mapper import read_image
from panoptic_fusion.data.prepare import segments


@pytest.fixture(autouse=True)
def limit():
    """A reader that waits for a pipe would hang the tests: it gets SIGALRM after 60 seconds."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def png_of_zeros(path, width, height):
    """A valid RGB PNG, all black, in a few bytes per million pixels and without allocating it."""
    compressor, rows = zlib.compressobj(9), b""
    for _ in range(height):
        rows += compressor.compress(b"\0" * (1 + 3 * width))
    rows += compressor.flush()

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def header_only(path, width, height):
    """A PNG whose header claims a size that its pixels do not have."""
    png_of_zeros(path, 1, 1)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


def special(folder, kind):
    path = folder / "special.png"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a socket":
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(folder)  # the path of a socket is short
            server.bind(path.name)
            os.chdir(here)
    else:
        path.symlink_to(path)
    return path


SPECIAL = ["a named pipe", "a folder", "a device", "a socket", "a link to itself"]


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_reported_by_every_reader(tmp_path, kind):
    path = str(special(tmp_path, kind))
    message = f"{path}: .*{kind if kind in SPECIAL[:4] else 'symbolic links'}"
    with pytest.raises(DatasetError, match=message) as error:
        read_image({"file_name": path, "height": 1, "width": 1}, "BGR")
    assert error.value.kind == ("missing image" if kind in SPECIAL[:4] else "corrupt image")
    with pytest.raises(DatasetError, match=message):
        read_id_map(path)
    with pytest.raises((ValueError, OSError), match=kind if kind in SPECIAL[:4] else "symbolic links"):
        segments.read_id_map(segments.Path(path))


def test_the_limit_holds_for_every_reader(tmp_path):
    huge = str(header_only(tmp_path / "huge.png", 100_000, 100_000))
    for size in ((100_000, 100_000), (1, 1)):
        with pytest.raises(DatasetError, match=r"huge.png: 100000x100000 pixels .* INPUT.MAX_PIXELS") as error:
            read_image({"file_name": huge, "height": size[0], "width": size[1]}, "BGR")
        assert error.value.kind == "too many pixels"
    with pytest.raises(DatasetError, match=r"huge.png: 100000x100000 pixels .* INPUT.MAX_PIXELS"):
        read_id_map(huge)
    with pytest.raises(ValueError, match=r"huge.png.*INPUT.MAX_PIXELS"):
        segments.read_id_map(tmp_path / "huge.png")
    small = str(png_of_zeros(tmp_path / "small.png", 30, 20))
    record = {"file_name": small, "height": 20, "width": 30}
    assert read_image(record, "BGR", max_pixels=600).shape == (20, 30, 3)
    assert read_id_map(small, max_pixels=600).shape == (20, 30)
    for read in (lambda: read_image(record, "BGR", max_pixels=599), lambda: read_id_map(small, max_pixels=599)):
        with pytest.raises(DatasetError, match="30x20 pixels .* INPUT.MAX_PIXELS .599."):
            read()


def test_pillows_own_limit_is_neither_applied_nor_changed(tmp_path):
    """Pillow refuses 179 million pixels and warns from 89 million on; the config allows more."""
    before = Image.MAX_IMAGE_PIXELS
    with open_image(header_only(tmp_path / "large.png", 16_000, 16_000)) as image:
        assert image.size == (16_000, 16_000)
    with pytest.raises(DatasetError):
        open_image(tmp_path / "large.png", 2**20)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(OSError):
        open_image(tmp_path / "text.png")
    assert Image.MAX_IMAGE_PIXELS == before
    check_pixels(3, 4, "x", 12)
    with pytest.raises(DatasetError):
        check_pixels(13, 1, "x", 12)


def test_the_check_goes_through_such_files(tmp_path):
    """A pipe, a device, a folder and two bombs in a dataset: each is named, all other images are checked."""
    files = make_tiny(tmp_path, seed=0, num_images=6)
    images, pngs = (sorted((tmp_path / folder).iterdir()) for folder in ("images", "png"))
    for path in (*images[:3], *pngs[3:5]):
        path.unlink()
    os.mkfifo(images[0])
    images[1].symlink_to("/dev/zero")
    header_only(images[2], 100_000, 100_000)
    os.mkfifo(pngs[3])
    header_only(pngs[4], 100_000, 100_000)
    result = check_dataset(files, 0)
    kinds = {str(fault).split(":")[0]: fault.kind for fault in result.faults}
    assert kinds == {
        str(images[0]): "missing image",
        str(images[1]): "missing image",
        str(images[2]): "too many pixels",
        str(pngs[3]): "missing PNG",
        str(pngs[4]): "too many pixels",
    }
    assert result.num_images == 6
    os.mkfifo(tmp_path / "pipe.json")
    broken = type(files)(files.images, files.panoptic_root, str(tmp_path / "pipe.json"))
    assert "it is a named pipe" in str(check_dataset(broken, 0).faults[0])


def test_masks_of_an_image_of_another_size_are_not_decoded(tmp_path):
    """An image entry of 2^20 x 2^20 pixels with a mask of that size: decoding it would take a terabyte."""
    files = make_tiny(tmp_path, seed=1, num_images=1)
    side = 2**20
    for path in (files.panoptic_json, files.instances_json):
        content = json.loads(Path(path).read_text())
        content["images"][0].update(height=side, width=side)
        if path == files.instances_json:
            for entry in content["annotations"]:
                entry["segmentation"] = {"size": [side, side], "counts": [side * side]}
        Path(path).write_text(json.dumps(content))
    kinds = [fault.kind for fault in check_dataset(files, 0).faults]
    assert set(kinds) == {"wrong image size", "wrong PNG size"}


def test_orientation_and_gray_images_are_read_as_before(tmp_path):
    from detectron2.data import detection_utils

    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    for name, size in (("turned.png", (9, 6)), ("gray.png", (6, 9))):
        file = str(tmp_path / name)
        ours = read_image({"file_name": file, "height": size[0], "width": size[1]}, "BGR")
        assert np.array_equal(ours, detection_utils.read_image(file, "BGR"))
