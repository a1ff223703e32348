"""The one image reader: every sample format and orientation, through checker, training and demo.

Expected pixels come from the arrays that were written, by rules stated again in this file: the high byte of a 16-bit
sample, the high 8 bits of a 12-bit one, and an array turned as its EXIF orientation says.
"""

import json
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from panoptic_fusion.data.checks import check_dataset
from panoptic_fusion.data.coco_panoptic import PanopticFiles, load_panoptic
from panoptic_fusion.data.dataset_errors import DatasetError
from panoptic_fusion.data.frames import read_frames
from panoptic_fusion.data.image_file import read_rgb
from panoptic_fusion.data.mapper import PanopticDatasetMapper

HEIGHT, WIDTH = 24, 40


def samples(dtype: str, channels: int) -> np.ndarray:
    """Smooth random samples (H, W) or (H, W, C) over the whole range; smooth, so that lossy formats keep them."""
    rng = np.random.default_rng(channels)
    coarse = rng.random((3, 5, channels), np.float32)
    values = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR).reshape(HEIGHT, WIDTH, channels)
    top = {"uint8": 255, "uint16": 65535, "float32": 1.0}[dtype]
    values = (values * top).astype(dtype)
    return values[..., 0] if channels == 1 else values


def as_rgb(values: np.ndarray) -> np.ndarray:
    """The rule by hand: high byte, gray three times, alpha dropped."""
    if values.dtype == np.uint16:
        values = (values // 256).astype(np.uint8)
    return np.stack([values] * 3, -1) if values.ndim == 2 else values[..., :3]


def write_12_bit_tiff(path: Path, values: np.ndarray) -> None:
    """A gray TIFF with two samples of 12 bits in three bytes, written by hand; `values` (H, W) below 4096."""
    first, second = values[:, ::2].astype(int), values[:, 1::2].astype(int)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1).astype(np.uint8).tobytes()
    tags = [(256, 4, WIDTH), (257, 4, HEIGHT), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, HEIGHT), (279, 4, len(packed))]
    directory = struct.pack("<H", len(tags))
    directory += b"".join(struct.pack("<HHI", tag, kind, 1) + struct.pack("<I", value) for tag, kind, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory + b"\0\0\0\0")


def one_image_dataset(root: Path, image: Path, height: int, width: int) -> PanopticFiles:
    """A dataset of this image, all of it one stuff segment except for a car."""
    (root / "png").mkdir(parents=True)
    ids = np.full((height, width, 3), (1, 0, 0), np.uint8)
    ids[2:6, 3:9] = (2, 0, 0)
    Image.fromarray(ids).save(root / "png" / "a.png")
    segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}]
    content = {
        "images": [{"id": 1, "file_name": image.name, "height": height, "width": width}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
        "categories": [{"id": 1, "name": "road", "isthing": 0}, {"id": 2, "name": "car", "isthing": 1}],
    }
    (root / "p.json").write_text(json.dumps(content))
    return PanopticFiles(str(image.parent), str(root / "png"), str(root / "p.json"))


def everywhere(tmp_path: Path, image: Path, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray | str:
    """The RGB pixels that training, evaluation and demo see, or the refusal that all of them and the checker give."""
    files = one_image_dataset(tmp_path / "data", image, height, width)
    faults = check_dataset(files, num_workers=0).faults
    label_space, dicts = load_panoptic(files)
    results = []
    for train in (True, False):
        for image_format in ("RGB", "BGR"):
            mapper = PanopticDatasetMapper(train, augmentations=[], image_format=image_format, label_space=label_space)
            try:
                pixels = mapper(dicts[0])["image"].numpy().transpose(1, 2, 0)
                results.append(pixels if image_format == "RGB" else pixels[..., ::-1])
            except DatasetError as error:
                results.append(str(error))
    try:
        results.append(next(read_frames(image))[1][..., ::-1])
    except DatasetError as error:
        results.append(str(error))
    if isinstance(results[0], str):
        assert set(results) == {str(fault) for fault in faults} and len(set(results)) == 1
    else:
        assert faults == [] and all(np.array_equal(results[0], other) for other in results)
    return results[0]


EXACT = [("png", "uint8", 1), ("png", "uint8", 3), ("png", "uint8", 4), ("png", "uint16", 1), ("png", "uint16", 3)]
EXACT += [("png", "uint16", 4), ("tiff", "uint8", 1), ("tiff", "uint8", 3), ("tiff", "uint16", 1)]
EXACT += [("tiff", "uint16", 3), ("bmp", "uint8", 1), ("bmp", "uint8", 3), ("pgm", "uint16", 1), ("ppm", "uint16", 3)]


@pytest.mark.parametrize(("extension", "dtype", "channels"), EXACT)
def test_exact_formats(tmp_path, extension, dtype, channels):
    values, path = samples(dtype, channels), tmp_path / f"a.{extension}"
    order = values if channels == 1 else values[..., [2, 1, 0, 3][:channels]]  # OpenCV writes BGR and BGRA
    assert cv2.imwrite(str(path), order)
    off = np.abs(everywhere(tmp_path, path).astype(int) - as_rgb(values)).max()
    assert off <= (extension == "ppm")  # Pillow rounds 16-bit PPM, where it takes the high byte elsewhere


@pytest.mark.parametrize(("extension", "channels"), [("jpg", 1), ("jpg", 3), ("webp", 3)])
def test_lossy_formats(tmp_path, extension, channels):
    values, path = samples("uint8", channels), tmp_path / f"a.{extension}"
    Image.fromarray(values).save(path, quality=100)
    assert np.abs(everywhere(tmp_path, path).astype(int) - as_rgb(values)).mean() <= 4


def test_12_bits(tmp_path):
    values, path = samples("uint16", 1) // 16, tmp_path / "a.tiff"
    write_12_bit_tiff(path, values)
    assert np.array_equal(everywhere(tmp_path, path), as_rgb(values * 16))


def test_gray_with_white_as_zero(tmp_path):
    """Pillow inverts this for 8 bits; 16 bits must not differ from it."""
    values = samples("uint16", 1)
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path, tiffinfo={262: 0})
    assert np.array_equal(everywhere(tmp_path, path), 255 - as_rgb(values))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(tmp_path, bits):
    """PNG stores small gray values; the largest is white."""
    levels = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 2**bits
    palette = Image.fromarray((levels * 255 // (2**bits - 1)).astype(np.uint8))
    palette.convert("1" if bits == 1 else "L").save(tmp_path / "a.png", bits=bits)
    if bits > 1:  # Pillow writes no gray PNG of 2 or 4 bits: a palette one holds the same
        palette.quantize(2**bits).save(tmp_path / "a.png", bits=bits)
    found = everywhere(tmp_path, tmp_path / "a.png")
    assert np.abs(found.astype(int) - (levels * 255 // (2**bits - 1))[..., None]).max() <= 1


def test_palette_alpha_and_cmyk(tmp_path):
    colors = np.array([[200, 30, 10], [0, 90, 250], [17, 180, 60]], np.uint8)
    index = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3
    palette = Image.fromarray(index.astype(np.uint8), "P")
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / "a.png", transparency=b"\x00\x80\xff")  # alpha is dropped
    assert np.array_equal(everywhere(tmp_path, tmp_path / "a.png"), colors[index])
    clear = np.dstack([samples("uint8", 3), np.zeros((HEIGHT, WIDTH), np.uint8)])
    Image.fromarray(clear).save(tmp_path / "b.webp", lossless=True, exact=True)
    assert np.array_equal(read_rgb(tmp_path / "b.webp"), clear[..., :3])
    cmyk = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    cmyk[..., 0] = 255  # only cyan ink: no red
    Image.fromarray(cmyk, "CMYK").save(tmp_path / "c.tiff")
    assert (read_rgb(tmp_path / "c.tiff") == [0, 255, 255]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_float_is_refused(tmp_path, channels):
    path = tmp_path / "a.tiff"
    assert cv2.imwrite(str(path), samples("float32", channels))
    text = everywhere(tmp_path, path)
    assert text.startswith(f"{path}: ") and ("float pixels" in text or channels == 3)


@pytest.mark.parametrize("dtype", ["int32", "int16", "int8"])
def test_integers_without_white_are_refused(tmp_path, dtype):
    path = tmp_path / "a.tiff"
    if dtype == "int8":
        assert cv2.imwrite(str(path), samples("uint8", 1).view(np.int8))
    elif dtype == "int32":
        Image.fromarray(samples("uint16", 1).astype(np.int32)).save(path)
    else:
        assert cv2.imwrite(str(path), samples("uint16", 1).astype(np.int16))
    assert "32-bit or signed integer pixels" in everywhere(tmp_path, path)


def test_lab_colors(tmp_path):
    values = samples("uint8", 3)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(values), *profiles, outputMode="LAB").save(tmp_path / "a.tiff")
    assert np.abs(everywhere(tmp_path, tmp_path / "a.tiff").astype(int) - values).mean() < 4


def test_a_depth_image_is_not_white(tmp_path):
    """What image_16bit.py shows: the ramp keeps its range."""
    ramp = np.linspace(0, 65535, WIDTH).astype(np.uint16)[None].repeat(HEIGHT, 0)
    cv2.imwrite(str(tmp_path / "a.png"), ramp)
    found = everywhere(tmp_path, tmp_path / "a.png")
    assert found.min() == 0 and found.max() == 255 and abs(found.mean() - 127.5) < 2


def test_unscaled_12_bit_data_is_reported(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), samples("uint16", 1) // 16)
    files = one_image_dataset(tmp_path / "data", tmp_path / "a.png", HEIGHT, WIDTH)
    result = check_dataset(files, num_workers=0)
    assert [f.kind for f in result.faults] == ["dark 16-bit image"] and result.is_trainable()
    assert "4096" in str(result.faults[0])


# -- orientation -----------------------------------------------------------------------------------------------------


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The array that a file with this orientation holds: first row and column by the EXIF standard's table."""
    rows = {1: "top", 2: "top", 3: "bottom", 4: "bottom", 5: "left", 6: "right", 7: "right", 8: "left"}[orientation]
    columns = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    array = upright if rows in ("top", "bottom") else upright.swapaxes(0, 1)
    array = array[::-1] if rows in ("bottom", "right") else array
    return np.ascontiguousarray(array[:, ::-1] if columns in ("bottom", "right") else array)


def save_oriented(path: Path, upright: np.ndarray, orientation: int) -> None:
    image, exif = Image.fromarray(stored(upright, orientation)), Image.Exif()
    exif[0x0112] = orientation
    if path.suffix == ".tiff":
        image.save(path, tiffinfo={0x0112: orientation}, compression="tiff_lzw" if orientation % 2 else None)
    else:
        options = {".jpg": {"quality": 100, "subsampling": 0}, ".webp": {"lossless": True}}.get(path.suffix, {})
        image.save(path, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
def test_all_orientations(tmp_path, extension, orientation):
    """Labels of the upright size: the image is turned upright, once. Labels of the stored size: it is left as it is."""
    upright, path = samples("uint8", 3), tmp_path / f"a.{extension}"
    save_oriented(path, upright, orientation)
    tolerance = 6 if extension == "jpg" else 0

    def same(found: np.ndarray, expected: np.ndarray) -> bool:
        return found.shape == expected.shape and np.abs(found.astype(int) - expected).max() <= tolerance

    assert same(next(read_frames(path))[1][..., ::-1], upright)
    cases = [(upright, ["unclear orientation"] if orientation in (2, 3, 4) else [])]
    if orientation > 4:
        cases.append((stored(upright, orientation), ["stored orientation"]))
    for expected, kinds in cases:
        height, width = expected.shape[:2]
        files = one_image_dataset(tmp_path / str(height), path, height, width)
        result = check_dataset(files, num_workers=0)
        assert [f.kind for f in result.faults] == kinds and result.is_trainable()
        space, dicts = load_panoptic(files)
        mapped = PanopticDatasetMapper(True, augmentations=[], image_format="RGB", label_space=space)(dicts[0])
        assert same(mapped["image"].numpy().transpose(1, 2, 0), expected)
