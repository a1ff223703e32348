"""Decides which classes are things, and makes the categories of a panoptic JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ...errors import UserError
from .shapes import IGNORED_NAMES, UNLABELED_NAMES, ClassInfo, Dataset

# Names of regions that are usually not counted. They only set a default, which --things and --stuff override.
STUFF_NAMES = frozenset(
    "sky road street pavement sidewalk terrain grass lawn vegetation foliage water sea ocean river lake sand snow "
    "ice ground floor wall ceiling mountain hill field soil dirt earth asphalt gravel forest background "
    "dirt-track railroad parking rail-track crosswalk lane beach carpet concrete sidewalks roads walls".split()
)
# Names that annotators draw as one shape or as many: stuff if a class of the name never occurs twice in an image.
MOSTLY_STUFF_NAMES = frozenset(
    "tree trees bush bushes hedge fence building buildings house houses bridge rail pole poles".split()
)
STUFF_SUFFIXES = ("-merged", "-stuff", "-other", " merged", " stuff")
MANY_IMAGES = 5  # minimum number of images with a class for its size to count
LARGE_SHARE = 1 / 3  # fraction of the image area from which a class that never occurs twice looks like stuff


@dataclass
class ClassCount:
    """Statistics of a class.

    Attributes:
        images: number of images with the class.
        objects: number of objects.
        most: largest number of objects in one image.
        semantic: whether the class occurs only in semantic maps.
        shares: fraction of the image area in the bounding box of the class, one value per image.
    """

    images: int = 0
    objects: int = 0
    most: int = 0
    semantic: bool = False
    shares: list[float] = field(default_factory=list)

    def add(self, objects: int, semantic: bool, share: float) -> None:
        """Counts the objects of one image; `share` is the fraction of the image in their bounding box, 0..1."""
        self.images += 1
        self.objects += objects
        self.most = max(self.most, objects)
        self.semantic &= semantic
        if len(self.shares) < 1000:
            self.shares.append(share)


@dataclass(frozen=True)
class Category:
    """Class of the result; `reason` explains why it is a thing or stuff."""

    id: int
    name: str
    isthing: bool
    color: tuple[int, int, int] | None
    reason: str
    images: int
    objects: int

    def entry(self) -> dict[str, Any]:
        """Returns the entry in a JSON's list of categories."""
        entry: dict[str, Any] = {"id": self.id, "name": self.name, "isthing": int(self.isthing)}
        return entry if self.color is None else {**entry, "color": list(self.color)}


def is_class(name: str) -> bool:
    """Returns whether a label names a class, rather than ignored or unlabeled pixels."""
    return name.lower() not in IGNORED_NAMES | UNLABELED_NAMES


def make_categories(
    dataset: Dataset,
    counts: dict[str, ClassCount],
    things: Sequence[str] | None,
    stuff: Sequence[str] | None,
    unlabeled: str | None,
) -> list[Category]:
    """Lists the classes with ids: first the declared classes in the order of the format, then the others by name.

    Raises:
        UserError: `things` or `stuff` name a class that does not occur, both name the same class, or there are no
            classes.
    """
    declared = {info.name: info for info in dataset.classes if is_class(info.name)}
    others = sorted(name for name in counts if is_class(name) and name not in declared)
    infos = [*declared.values(), *(ClassInfo(name) for name in others)]
    if unlabeled is not None and unlabeled not in {info.name for info in infos}:
        infos.append(ClassInfo(unlabeled, False))
    if not infos:
        raise UserError(f"no class and no shape was found in the {dataset.format} files; nothing to import")
    _check_names(things, stuff, unlabeled, [info.name for info in infos])
    used = {info.id for info in infos if info.id is not None}
    free = iter(i for i in range(1, len(infos) + len(used) + 1) if i not in used)
    semantic = bool(counts) and all(count.semantic for count in counts.values())
    categories = []
    for info in infos:
        count = counts.get(info.name, ClassCount(semantic=semantic))
        isthing, reason = _decide(info, count, dataset.objects, things, stuff, unlabeled)
        number = info.id if info.id is not None else next(free)
        categories.append(Category(number, info.name, isthing, info.color, reason, count.images, count.objects))
    return categories


def _check_names(
    things: Sequence[str] | None, stuff: Sequence[str] | None, unlabeled: str | None, names: Iterable[str]
) -> None:
    known = set(names)
    for option, wanted in (("--things", things), ("--stuff", stuff)):
        for name in wanted or ():
            if name not in known:
                raise UserError(f"{option} names {name!r}, which no file has. Choose from: {', '.join(sorted(known))}")
    twice = set(things or ()) & set(stuff or ())
    if twice:
        raise UserError(f"{', '.join(sorted(twice))}: in both --things and --stuff; leave it in one of them")
    if unlabeled is not None and unlabeled in (things or ()):
        raise UserError(f"--unlabeled {unlabeled} fills pixels with a stuff class; leave it out of --things")


def _decide(
    info: ClassInfo,
    count: ClassCount,
    objects: str,
    things: Sequence[str] | None,
    stuff: Sequence[str] | None,
    unlabeled: str | None,
) -> tuple[bool, str]:
    """Returns whether a class is a thing, and why."""
    if info.name in (things or ()):
        return True, "--things"
    if info.name in (stuff or ()):
        return False, "--stuff"
    if info.name == unlabeled:
        return False, "--unlabeled"
    if things is not None and stuff is None:
        return False, "not in --things"
    if stuff is not None and things is None:
        return True, "not in --stuff"
    if info.isthing is not None:
        return info.isthing, "the format says so"
    if count.semantic:
        return False, "a semantic map has no instances"
    if objects == "certain" and count.objects:
        return True, "it has instance ids"
    word = info.name.lower().strip()
    if word in STUFF_NAMES or word.endswith(STUFF_SUFFIXES):
        return False, "proposed: by its name"
    if objects != "unknown":
        return True, "proposed: the format stores objects"
    if count.most > 1:
        return True, f"proposed: up to {count.most} in one image"
    if count.images >= MANY_IMAGES and word in MOSTLY_STUFF_NAMES:
        return False, "proposed: by its name, never two in one image"
    if count.images >= MANY_IMAGES and median(count.shares) >= LARGE_SHARE:
        return False, "proposed: never two in one image, and large"
    return True, "proposed: an object" if count.images else "proposed: no shape of it was found"
