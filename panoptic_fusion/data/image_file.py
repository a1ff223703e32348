"""Decodes image files to 8-bit RGB, for training, evaluation, the dataset check, and the demo.

The rules, so that every tool sees the same pixels or gives the same refusal:

- 8 bits: gray, palette, CMYK, YCbCr, and 1- to 4-bit images become RGB as Pillow converts them. Alpha is dropped.
- 16 bits: the high byte of each sample, for gray and color alike. 12-bit TIFF: the high 8 of the 12 bits. The scale is
  fixed by the file format and never by an image's own brightest pixel, so images of one dataset stay comparable.
- Float, 32-bit, and signed integers have no defined white and are rejected.
- EXIF orientation is applied, unless the expected size shows that the labels lie in the stored orientation.
- Only the first frame of an animation or a multi-page file is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from .dataset_errors import DatasetError
from .image_header import MAX_PIXELS, open_image

_ORIENTATION = 0x0112  # the EXIF and TIFF tag
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_SAMPLE_FORMAT = 339  # TIFF tag: one value per sample
_WHITE_IS_ZERO, _SIGNED = 0, 2
# EXIF orientation -> the transposition that turns the stored pixels upright, and its inverse.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {**_UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image file.

    pixels: (H, W, 3) uint8 RGB, C-contiguous.
    orientation: EXIF orientation of the file, 1 (none) to 8.
    upright: whether `pixels` are rotated according to the orientation; False if they are in the stored orientation.
    deep: whether the file has more than 8 bits per sample.
    """

    pixels: np.ndarray
    orientation: int = 1
    upright: bool = True
    deep: bool = False


def read_rgb(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads an image file as a viewer shows it: (H, W, 3) uint8 RGB.

    detectron2's `DefaultPredictor` takes BGR whatever `INPUT.FORMAT` is: pass it `read_rgb(path)[:, :, ::-1]`.

    Raises:
        DatasetError: if the file is missing, cannot be decoded, or has pixels without a defined white.
    """
    return decode_image(path, max_pixels=max_pixels).pixels


def decode_image(
    path: str | os.PathLike, size: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """Decodes an image file by the rules of this module.

    Args:
        path: path to the file.
        size: expected (height, width), as in a dataset's JSON. If only the stored orientation of the image has this
            size, its labels lie in that orientation, and so do the returned pixels.
        max_pixels: maximum number of pixels to decode; the header is checked first.

    Raises:
        DatasetError: as `read_rgb`; `kind` is "missing image", "corrupt image" or "unsupported image".
    """
    path = os.fspath(path)
    try:
        with open_image(path, max_pixels) as image:
            orientation, deep = _orientation(image), _is_deep(image)
            tags = dict(getattr(image, "tag_v2", {}))
            image.load()
            left = _orientation(image)  # 1 for TIFF, which Pillow turns while loading
            pixels = _to_rgb(image, tags)
    except DatasetError:
        raise
    except FileNotFoundError:
        raise DatasetError("the image is missing", path, "missing image") from None
    except _Unsupported as error:
        raise DatasetError(str(error), path, "unsupported image") from None
    except Exception as error:  # the decoders raise OSError, SyntaxError, ValueError, struct.error and more
        reason = f"{type(error).__name__}: {error}"
        raise DatasetError(f"the image cannot be read ({reason})", path, "corrupt image") from None
    if left in _UPRIGHT:
        pixels = pixels.transpose(_UPRIGHT[left])
    width, height = pixels.size
    in_stored_size = orientation >= 5 and height != width and size == (width, height)
    if in_stored_size:
        pixels = pixels.transpose(_BACK[orientation])
    return DecodedImage(np.array(pixels), orientation, not in_stored_size, deep)


class _Unsupported(Exception):
    """Raised for pixels that have no defined conversion to 8-bit RGB."""


def _orientation(image: Image.Image) -> int:
    """Returns the orientation tag, 1 to 8; 1 if it is missing or the EXIF block is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises SyntaxError, struct.error, KeyError ...; the pixels may be fine
        return 1
    return value if value in _UPRIGHT else 1


def _is_deep(image: Image.Image) -> bool:
    """Returns whether the file has more than 8 bits per sample, even if Pillow's mode hides it ("RGB")."""
    arguments = image.tile[0].args if image.tile else ""
    raw_mode = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return image.mode.startswith("I") or ";16" in str(raw_mode)


def _to_rgb(image: Image.Image, tags: dict) -> Image.Image:
    """Converts the pixels to 8-bit RGB in their current orientation; `tags`: TIFF tags, empty for other formats."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        bits = 12 if tags.get(_BITS_PER_SAMPLE) == (12,) else 16
        gray = Image.fromarray((np.asarray(image).astype(np.uint16) >> (bits - 8)).astype(np.uint8))
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow inverts it for 8 bits only
            gray = ImageOps.invert(gray)
        return gray.convert("RGB")
    issigned = _SIGNED in tags.get(_SAMPLE_FORMAT, ())  # Pillow reads signed 8 bits as unsigned
    if issigned or image.mode in ("I", "F"):
        what = "float" if image.mode == "F" else "32-bit or signed integer"
        raise _Unsupported(
            f"the image has {what} pixels, which have no defined white; convert it to 8 or 16 bits per channel"
        )
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # without the detour Pillow warns; the colors are the same
    return image.convert("RGB")
