"""Statistics and choice of images: by hand, and against loops over the pixels of random data."""

import json
import statistics
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tiny_panoptic import make_tiny

from panoptic_fusion.data.checks import CheckResult, ImageSummary, check_dataset, format_result, format_summary
from panoptic_fusion.data.dataset_errors import KINDS, DatasetError
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.data.statistics import choose_images, dataset_statistics, format_statistics
from panoptic_fusion.visualization.overview import write_overview

CATEGORIES = [
    {"id": 1, "name": "sky", "isthing": 0},
    {"id": 2, "name": "car|van", "isthing": 1},
    {"id": 3, "name": "bird", "isthing": 1},
    {"id": 4, "name": "never", "isthing": 0},
]


def result_of(*images: ImageSummary, faults: tuple = ()) -> CheckResult:
    result = CheckResult(label_space=LabelSpace.from_categories(CATEGORIES), images=list(images), faults=list(faults))
    result.pixels = sum(image.width * image.height for image in images)
    return result


def image(number: int, *segments: tuple[int, int, int], width: int = 100, height: int = 100, **more) -> ImageSummary:
    return ImageSummary(number, f"{number}.jpg", width, height, segments, **{"annotated": True, **more})


def test_statistics_by_hand():
    result = result_of(
        image(1, (1, 0, 5000), (2, 0, 1024), (2, 1, 1023), void_fraction=0.25),
        image(2, (1, 0, 9216), width=200, void_fraction=0.5),
        image(3, (3, 0, 7), annotated=False),
        faults=(DatasetError("x", "1.jpg", "area mismatch"),) * 2,
    )
    found = dataset_statistics(result)
    assert found["images"] == 2 and found["width"] == {"min": 100, "median": 150, "max": 200}
    assert found["segments_per_image"] == {"min": 1, "median": 2, "max": 3} and found["void"]["max"] == 0.5
    assert found["problems"] == {"area mismatch": 2}
    car, bird, sky, never = found["classes"]
    assert (car["name"], car["isthing"], car["images"], car["segments"], car["crowds"]) == ("car|van", 1, 1, 2, 1)
    assert (car["small"], car["medium"], car["large"]) == (1, 1, 0)
    assert car["pixels"] == pytest.approx(2047 / 40000) and car["area"]["median"] == 1023.5
    assert (sky["small"], sky["medium"], sky["large"], sky["images"]) == (0, 1, 1, 2)
    assert never["segments"] == bird["segments"] == 0 and never["area"] is None
    assert json.loads(json.dumps(found)) == found
    text = format_statistics("a|b", found)
    assert "| car\\|van | thing | 1 | 2 | 1 | 5.12% | 1,023 / 1,024 / 1,024 | 1 / 1 / 0 |" in text
    assert "# a\\|b" in text and "| never | stuff | 0 | 0 | 0 | 0.00% | – | 0 / 0 / 0 |" in text


def test_statistics_against_loops(tmp_path):
    files = make_tiny(tmp_path / "data", seed=4, num_images=5)
    found = dataset_statistics(check_dataset(files, num_workers=0))
    content = json.loads(Path(files.panoptic_json).read_text())
    areas, seen, total = {}, Counter(), 0
    for annotation in content["annotations"]:
        pixels = np.asarray(Image.open(Path(files.panoptic_root, annotation["file_name"])), np.int64)
        ids = (pixels @ [1, 256, 65536]).ravel().tolist()
        total += len(ids)
        for segment in annotation["segments_info"]:
            areas.setdefault(segment["category_id"], []).append(sum(i == segment["id"] for i in ids))
        seen.update({s["category_id"] for s in annotation["segments_info"]})
    assert [row["id"] for row in found["classes"]] == [4, 20, 3, 7, 9]
    for row in found["classes"]:
        own = areas.get(row["id"], [])
        assert row["segments"] == len(own) and row["images"] == seen[row["id"]]
        assert row["pixels"] == pytest.approx(sum(own) / total)
        if own:
            assert row["area"] == {"min": min(own), "median": statistics.median(own), "max": max(own)}


def test_choice_by_hand():
    result = result_of(
        image(1, (1, 0, 50)),
        image(2, (1, 0, 50), (2, 0, 9)),
        image(3, (1, 0, 50), (2, 0, 900)),  # as many classes as 2, with more pixels
        image(4, (3, 0, 5), width=300),
        image(5, (1, 0, 50), width=20, void_fraction=0.9),
        image(6, (1, 0, 50), kinds=("unclear orientation",)),
        image(7, (2, 0, 9), (3, 0, 9), (1, 0, 9), annotated=False),
    )
    chosen = {image.image_id: reasons for image, reasons in choose_images(result)}
    assert chosen[4] == ["largest image"] and chosen[5] == ["smallest image", "most void (90%)"]
    assert chosen[2] == ["most segments (2)"] and chosen[6] == ["suspicious: unclear orientation"]
    assert chosen[1] == chosen[3] == ["sample"] and 7 not in chosen
    assert [i.image_id for i, _ in choose_images(result, limit=2)] == [4, 5]


def test_choice_shows_every_class():
    """Random data: every class that occurs is shown, with no more images for it than there are classes."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        images = []
        for number in range(40):
            ids = rng.choice([1, 2, 3, 4], rng.integers(1, 3), replace=False, p=[0.94, 0.02, 0.02, 0.02]).tolist()
            images.append(image(number, *((i, 0, int(rng.integers(1, 99))) for i in ids)))
        chosen = choose_images(result_of(*images))
        occurring = {segment[0] for i in images for segment in i.segments}
        assert {segment[0] for i, _ in chosen for segment in i.segments} == occurring
        assert sum(any(r.startswith("shows") for r in reasons) for _, reasons in chosen) <= len(occurring)


def test_overview_on_disk(tmp_path):
    files = make_tiny(tmp_path / "data", seed=2, num_images=4)
    (tmp_path / "data" / "images" / "image3.jpg").write_bytes(b"broken")
    large = np.random.default_rng(0).integers(0, 256, (900, 1700, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "data" / "images" / "image0.png")
    ids = np.zeros((900, 1700, 3), np.uint8)
    ids[100:500, 100:900] = (7, 1, 0)
    Image.fromarray(ids).save(tmp_path / "data" / "png" / "map0.png")
    content = json.loads(Path(files.panoptic_json).read_text())
    content["images"][0].update(height=900, width=1700)
    content["annotations"][0]["segments_info"] = [{"id": 263, "category_id": 4}]
    Path(files.panoptic_json).write_text(json.dumps(content))
    result = check_dataset(files, num_workers=0)
    written = write_overview("tiny", files, result, tmp_path / "overview")
    text = written.read_text()
    pictures = sorted(p.name for p in (tmp_path / "overview" / "pictures").iterdir())
    assert pictures == ["image0.jpg", "image1.jpg", "image2.jpg"]  # image3 cannot be read
    assert all(f"![](<pictures/{name}>)" in text for name in pictures) and "largest image" in text
    assert "| corrupt image | 1 |" in text
    picture = cv2.imread(str(tmp_path / "overview" / "pictures" / "image0.jpg"))
    assert picture.shape[1] == 2 * 800 + 4 and abs(picture.shape[0] - 800 * 900 / 1700) <= 1
    x, y = round(804 + 800 * 500 / 1700), round(800 * 450 / 1700)  # a car pixel, in the car's color (10, 11, 12) RGB
    assert picture[y, x].astype(int).mean() < large.mean() * 0.7  # the color is nearly black
    numbers = json.loads((tmp_path / "overview" / "statistics.json").read_text())
    assert numbers["images"] == 3 and numbers["width"]["max"] == 1700


def test_nothing_to_show(tmp_path):
    files = make_tiny(tmp_path / "data", seed=2)
    Path(files.panoptic_json).write_text("{}")
    assert write_overview("none", files, check_dataset(files, num_workers=0), tmp_path / "overview") is None
    assert not (tmp_path / "overview").exists()


def test_names_of_any_text(tmp_path):
    """Neither class nor file names are markup, links or new lines of the overview and of the report on the console."""
    names = ["<img src=x onerror=alert(1)>", "a\nb", "`x`|y", "\x1b[31mred", "*s*"]
    files = make_tiny(tmp_path / "data", seed=2, num_images=4)
    content = json.loads(Path(files.panoptic_json).read_text())
    for category, name in zip(content["categories"], names, strict=False):
        category["name"] = name
    for entry, name in zip(content["images"], names, strict=False):
        path = Path(files.images, entry["file_name"])
        entry["file_name"] = f"{name}{path.suffix}"
        path.rename(path.with_name(entry["file_name"]))
    content["images"][0]["height"] += 1  # named with its file
    Path(files.panoptic_json).write_text(json.dumps(content))
    result = check_dataset(files, num_workers=0)
    written = write_overview("a\n<b>", files, result, tmp_path / "overview")
    text = written.read_text()
    assert "<img" not in text and "<b>" not in text and "\x1b" not in text and "**&lt;img" not in text
    assert "\\`x\\`\\|y" in text and "**a b." in text and text.startswith("# a &lt;b&gt;\n")
    shown = [line[5:-2] for line in text.split("\n") if line.startswith("![](")]
    assert len(shown) == 3 and all((written.parent / path).is_file() for path in shown)
    report, summary = format_result("tiny", result), format_summary("tiny", result)
    assert "\x1b" not in report + summary and "\n  stuff a b: 1\n" in summary and "<img src=x" in report
    kinds = [f"{kind}: " for kind in KINDS]
    assert all(line.startswith(("tiny: ", "  ", *kinds)) for line in (report + "\n" + summary).split("\n"))
