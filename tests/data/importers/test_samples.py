"""Real files of the tools: the counts by their SOURCE.txt, and the pixels of the tools' own renderings."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sample_outcomes import SAMPLES

from panoptic_fusion.data.annotation import decode_segmentation, read_id_map
from panoptic_fusion.data.importers import import_annotations
from panoptic_fusion.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]
FORMATS = Path(os.environ.get("PANOPTIC_FUSION_DATA", REPOSITORY.parent / "shared" / "data")) / "formats"
needs_samples = pytest.mark.skipif(not FORMATS.is_dir(), reason=f"the real samples are not in {FORMATS}")


@needs_samples
@pytest.mark.parametrize("name", SAMPLES)
def test_real_sample(name, tmp_path):
    expected = SAMPLES[name]
    run = lambda: import_annotations(FORMATS / name, tmp_path, keep_missing=True, workers=1)  # noqa: E731
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            run()
        assert expected in str(error.value)
        return
    images, segments, crowds, problems = expected
    result = run()
    found = {c.name: result.segments[c.id] for c in result.categories if result.segments[c.id]}
    assert (result.images.total(), found, result.crowds, len(result.faults)) == (images, segments, crowds, problems)


@needs_samples
def test_no_sample_is_forgotten():
    assert {str(p.parent.relative_to(FORMATS)) for p in FORMATS.glob("*/*/SOURCE.txt")} == set(SAMPLES)


def test_the_table_of_the_docs_is_this_one():
    lines = (REPOSITORY / "docs" / "importing.md").read_text(encoding="utf-8").splitlines()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ") and "/" in line
    ]
    found = {row[0]: row[1:5] for row in rows if row[0] in SAMPLES}
    expected = {}
    for name, outcome in SAMPLES.items():
        if isinstance(outcome, str):
            expected[name] = ["0", "0", "0", "–"]
        else:
            images, segments, crowds, problems = outcome
            expected[name] = [str(value) for value in (images, sum(segments.values()), crowds, problems)]
    assert found == expected


def maps(name, tmp_path, **options):
    """Stem -> (id map, {segment id: name}) of an imported sample."""
    import_annotations(FORMATS / name, tmp_path, keep_missing=True, workers=1, **options)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = {}
    for annotation in content["annotations"]:
        labels = {s["id"]: names[s["category_id"]] for s in annotation["segments_info"]}
        found[Path(annotation["file_name"]).stem] = (
            read_id_map(str(tmp_path / "panoptic" / annotation["file_name"])),
            labels,
        )
    return found


def areas(name, tmp_path):
    import_annotations(FORMATS / name, tmp_path, keep_missing=True, workers=1)
    return sorted(a["area"] for a in json.loads((tmp_path / "instances.json").read_text())["annotations"])


@needs_samples
def test_labelme_equals_its_own_converter(tmp_path):
    """Object PNGs; the order of the numbers differs."""
    for stem, (id_map, _) in maps("labelme/voc_instances", tmp_path).items():
        with Image.open(FORMATS / "labelme/voc_instances/expected_voc/SegmentationObject" / f"{stem}.png") as image:
            expected = np.asarray(image)
        assert ((expected > 0) == (id_map > 0)).all()
        pairs, counts = np.unique(np.stack([expected.ravel(), id_map.ravel()]), axis=1, return_counts=True)
        best = sum(counts[pairs[0] == value].max() for value in np.unique(expected))
        assert best / expected.size > 0.9999  # it gives one pixel of 2011_000006 to another object


@needs_samples
@pytest.mark.parametrize("name", ["isat/coco_semantic", "isat/layers"])
def test_isat_agrees_with_its_own_classes(name, tmp_path):
    """ISAT's own rasterizer leaves out part of the rim."""
    classes = [line.strip() for line in (FORMATS / name / "isat.yaml").read_text().splitlines() if "name:" in line]
    classes = [line.split("name:")[1].strip() for line in classes]
    for stem, (id_map, labels) in maps(name, tmp_path).items():
        with Image.open(FORMATS / name / "expected_semantic" / f"{stem}.png") as image:
            expected = np.asarray(image)
        found = np.zeros(id_map.shape, int)
        for number, label in labels.items():
            found[id_map == number] = classes.index(label)
        assert (found == expected).mean() > 0.99


@needs_samples
def test_darwin_equals_its_own_masks(tmp_path):
    import_annotations(FORMATS / "darwin_v7/polygons", tmp_path, keep_missing=True, workers=1)
    entries = json.loads((tmp_path / "instances.json").read_text())["annotations"]
    for k, entry in enumerate(entries):
        path = FORMATS / "darwin_v7/polygons/expected_instance_mask/masks" / f"000000021295_{k:05d}.png"
        with Image.open(path) as image:
            expected = np.asarray(image) > 0
        assert (decode_segmentation(entry["segmentation"], 427, 640).astype(bool) != expected).sum() <= 1


@needs_samples
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("label_studio/brush_rle", [261525, 381431]),
        ("supervisely/bitmap_instances", [86616, 344475]),
        ("darwin_v7/semantic", [2253]),
        ("labelme/primitives", None),
        ("cvat/docs_mask_skeleton", None),
        ("coco_instances/cvat_coco_1_0", None),
    ],
)
def test_areas_by_the_sources(name, expected, tmp_path):
    found = areas(name, tmp_path)
    if expected is not None:
        assert found == expected
    else:  # one of several
        inside = {"labelme/primitives": {7275}, "cvat/docs_mask_skeleton": {149}}
        assert inside.get(name, {21359, 26287}) <= set(found)


@needs_samples
def test_cvat_ellipses_agree_with_its_own_masks(tmp_path):
    """The same task, exported as XML and as COCO masks."""
    own = [a for a in areas("coco_instances/cvat_coco_1_0", tmp_path / "coco") if a in (21359, 26287)]
    found = areas("cvat/images_1_1", tmp_path / "xml")
    for area in own:
        assert min(abs(area - a) for a in found) / area < 0.02  # CVAT draws the rim, too
