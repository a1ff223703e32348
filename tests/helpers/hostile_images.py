"""Files that a folder of photos may hold and that are no photo, or none that can be segmented."""

import os
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


def png_header(width: int, height: int) -> bytes:
    """A PNG of a size without its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def write_video(path: Path, frames: int, size: tuple[int, int] = (128, 96)) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 20 * number % 256, np.uint8))
    writer.release()


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def _thin(path: Path) -> None:
    Image.new("RGB", (4000, 1)).save(path)


def write_refused(folder: Path, photo: Path) -> set[str]:
    """Writes files of which none can be segmented whole; returns their names."""
    jpeg = photo.read_bytes()
    makers: dict[str, Callable[[Path], object]] = {
        "huge.png": lambda p: p.write_bytes(png_header(100_000, 100_000)),
        "wide.png": lambda p: p.write_bytes(png_header(2**31 - 1, 1)),
        "zero_size.png": lambda p: p.write_bytes(png_header(0, 0)),
        "no_pixels.png": lambda p: p.write_bytes(png_header(64, 64)),
        "strip.png": _thin,
        "column.png": lambda p: Image.new("RGB", (1, 4000)).save(p),
        "loop.jpg": lambda p: p.symlink_to(p.name),
        "loop_a.jpg": lambda p: p.symlink_to("loop_b.jpg"),
        "loop_b.jpg": lambda p: p.symlink_to("loop_a.jpg"),
        "dangling.jpg": lambda p: p.symlink_to("nowhere.jpg"),
        "to_null.jpg": lambda p: p.symlink_to("/dev/null"),
        "to_zero.png": lambda p: p.symlink_to("/dev/zero"),
        "pipe.jpg": os.mkfifo,
        "pipe.png": os.mkfifo,
        "pipe.mp4": os.mkfifo,
        "pipe.tif": os.mkfifo,
        "socket.jpg": _socket,
        "folder.jpg": Path.mkdir,
        "folder.avi": Path.mkdir,
        "empty.jpg": Path.touch,
        "empty.png": Path.touch,
        "empty.mp4": Path.touch,
        "empty.webp": Path.touch,
        "text.jpg": lambda p: p.write_text("this is no picture"),
        "text.avi": lambda p: p.write_text("this is no video"),
        "html.png": lambda p: p.write_text("<html>404</html>"),
        "truncated.jpg": lambda p: p.write_bytes(jpeg[:200]),
        "half.png": lambda p: (Image.open(photo).save(p), p.write_bytes(p.read_bytes()[:3000])),
        "header_only.jpg": lambda p: p.write_bytes(jpeg[:20]),
        "noise.jpg": lambda p: p.write_bytes(jpeg[:20] + np.random.default_rng(0).bytes(5000)),
        "float.tif": lambda p: Image.fromarray(np.zeros((8, 8), np.float32)).save(p),
        "int32.tif": lambda p: Image.fromarray(np.zeros((8, 8), np.int32)).save(p),
        "no_frames.avi": lambda p: write_video(p, 0),
        "svg.webp": lambda p: p.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "new\nline.jpg": lambda p: p.write_text("not a picture"),
        "escape\x1b[31m.jpg": lambda p: p.write_text("not a picture"),
    }
    for name, make in makers.items():
        make(folder / name)
    return set(makers)


def write_unusual(folder: Path, photo: Path) -> set[str]:
    """Writes photos that are unusual and can be segmented; returns their names."""
    image = Image.open(photo)
    gray16 = np.asarray(image.convert("L")).astype(np.uint16) * 257
    makers: dict[str, Callable[[Path], object]] = {
        "cmyk.jpg": lambda p: image.convert("CMYK").save(p),
        "gray16.png": lambda p: cv2.imwrite(str(p), gray16),
        "palette.png": lambda p: image.convert("P").save(p),
        "bits.png": lambda p: image.convert("1").save(p),
        "animated.png": lambda p: image.save(p, save_all=True, append_images=[image.rotate(90)]),
        "animated.webp": lambda p: image.save(p, save_all=True, append_images=[image.rotate(180)]),
        "pages.tif": lambda p: image.save(p, save_all=True, append_images=[image]),
        "\U0001f600.jpg": lambda p: shutil.copy(photo, p),
        f"{'n' * 251}.jpg": lambda p: shutil.copy(photo, p),
        "photo\nof two lines.jpg": lambda p: shutil.copy(photo, p),
        ".hidden.jpg": lambda p: shutil.copy(photo, p),
        "wrong_suffix.png": lambda p: shutil.copy(photo, p),
        "link.jpg": lambda p: p.symlink_to(photo),
        "CON %s {0} [1].jpg": lambda p: shutil.copy(photo, p),
        os.fsdecode(b"latin1_\xe9.jpg"): lambda p: shutil.copy(photo, p),
    }
    for name, make in makers.items():
        make(folder / name)
    return set(makers)
