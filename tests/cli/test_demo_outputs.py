"""What `panoptic-fusion demo` writes on request: annotated videos, cut-outs and COCO instances."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile_images import write_video
from pycocotools.coco import COCO

from panoptic_fusion import import_annotations
from panoptic_fusion.cli.demo_images import SegmentedImage
from panoptic_fusion.cli.demo_outputs import Cutouts, InstancesJson, Pictures, Videos
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.frames import frame_rate
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.files import safe_name
from panoptic_fusion.visualization.picture_file import MAX_BYTES

CATEGORIES = [
    {"id": 7, "name": "car", "isthing": 1, "color": [200, 0, 0]},
    {"id": 3, "name": "sky/haze", "isthing": 0, "color": [0, 0, 200]},
    {"id": 11, "name": "person", "isthing": 1, "color": [0, 200, 0]},
]
LABEL_SPACE = LabelSpace.from_categories(CATEGORIES)
CLASSES = {"car": (True, 0), "person": (True, 1), "sky/haze": (False, 0)}  # isthing and contiguous class


def segmented(name: str, ids: np.ndarray, classes: dict[int, str], file: Path | None = None) -> SegmentedImage:
    """An image of random pixels with a class per segment id."""
    info = []
    for number, (segment_id, category) in enumerate(classes.items()):
        isthing, contiguous = CLASSES[category]
        info.append({"id": segment_id, "isthing": isthing, "category_id": contiguous})
        if isthing:
            info[-1] |= {"score": 0.5 + number / 16, "instance_id": number}
    image = np.random.default_rng(len(name)).integers(0, 256, (*ids.shape, 3), np.uint8)
    file = file or Path(f"{name}.png")
    return SegmentedImage(name, file, str(file), image, ids.astype(np.int32), info, LABEL_SPACE)


def random_scenes(number: int, size: tuple[int, int] = (30, 41)) -> list[SegmentedImage]:
    """Scenes of boxes over each other, so that segments have holes and several parts; the last one is void."""
    rng, scenes = np.random.default_rng(number), []
    for index in range(number):
        ids = np.zeros(size, np.int32)
        for segment_id in range(1, 7 if index < number - 1 else 1):
            y, x, height, width = rng.integers(0, 20, 4)
            ids[y : y + height + 1, x : x + width + 1] = segment_id
        classes = {int(i): list(CLASSES)[int(i) % 3] for i in np.unique(ids) if i}
        scenes.append(segmented(f"scene_{index}", ids, classes))
    return scenes


def test_cutouts_by_hand(tmp_path: Path):
    """A car of 3 pixels in a box of 2 x 2, and the sky around it, whose class name is no file name."""
    ids = np.full((4, 5), 9)
    ids[1, 2] = ids[2, 2:4] = 4
    scene = segmented("a", ids, {4: "car", 9: "sky/haze"})
    Cutouts(str(tmp_path)).write(scene)
    names = sorted(p.name for p in (tmp_path / "cutouts").iterdir())
    assert names[0] == "a_car_4.png" and names[1].startswith("a_sky_haze-") and names[1].endswith("_9.png")
    car = cv2.imread(str(tmp_path / "cutouts" / "a_car_4.png"), cv2.IMREAD_UNCHANGED)
    assert car.shape == (2, 2, 4) and car[..., 3].tolist() == [[255, 0], [255, 255]]
    assert car[0, 1].tolist() == [0, 0, 0, 0]  # nothing of the background is hidden under the transparent pixels
    assert np.array_equal(car[1, :, :3], scene.image[2, 2:4])


def test_cutouts_make_up_the_image(tmp_path: Path):
    """Pasted at their boxes, those of an image give its pixels, each once; void stays empty."""
    cutouts = Cutouts(str(tmp_path))
    for scene in random_scenes(6):
        cutouts.write(scene)
        canvas, painted = np.zeros_like(scene.image), np.zeros(scene.ids.shape, int)
        for segment in scene.segments:
            (path,) = (tmp_path / "cutouts").glob(f"{scene.name}_*_{segment['id']}.png")
            cut = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            x, y, width, height = segment["bbox"]
            assert cut.shape == (height, width, 4) and set(np.unique(cut[..., 3])) <= {0, 255}
            canvas[y : y + height, x : x + width] += cut[..., :3]
            painted[y : y + height, x : x + width] += cut[..., 3] // 255
        assert np.array_equal(painted, scene.ids > 0)
        assert np.array_equal(canvas, np.where(scene.ids[..., None] > 0, scene.image, 0))
    assert list((tmp_path / "cutouts").glob("scene_5*")) == []


def test_cutouts_do_not_overwrite_each_other(tmp_path: Path):
    label_space = LabelSpace.from_categories(
        [category | {"name": name} for category, name in zip(CATEGORIES, ("b_c", "x", "c"), strict=True)]
    )
    cutouts = Cutouts(str(tmp_path))
    for image, category in (("a", "car"), ("a_b", "person")):
        cutouts.write(replace(segmented(image, np.ones((3, 3)), {1: category}), label_space=label_space))
    assert sorted(p.name for p in (tmp_path / "cutouts").iterdir()) == ["a_b_c_1.png", "a_b_c_1_2.png"]


def test_the_longest_names(tmp_path: Path):
    """An image and a class of 80 Chinese characters each, 240 bytes: cut off, and different ones stay different."""
    ids = np.ones((3, 3))
    for last in "甲乙":
        label_space = LabelSpace.from_categories([{"id": 1, "name": "字" * 79 + last, "isthing": 1}])
        scene = replace(segmented("a", ids, {1: "car"}), name=safe_name("漢" * 79 + last))
        Cutouts(str(tmp_path)).write(replace(scene, label_space=label_space))
    names = [p.name for p in (tmp_path / "cutouts").iterdir()]
    assert len(names) == 2 and all(len(name.encode()) <= 230 and "字" in name for name in names)


def load_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_instances_in_pycocotools_after_each_image(tmp_path: Path):
    scenes = random_scenes(8)
    with InstancesJson(str(tmp_path), CATEGORIES) as instances:
        for number, scene in enumerate(scenes, 1):
            instances.write(scene)
            coco = load_coco(tmp_path / "instances.json")
            assert list(coco.imgs) == list(range(1, number + 1))
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["car", "person"]
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1)) and len(coco.anns) > 10
    for number, scene in enumerate(scenes, 1):
        things = [s for s in scene.segments if s["isthing"]]
        assert (coco.imgs[number]["height"], coco.imgs[number]["width"]) == scene.ids.shape
        found = coco.loadAnns(coco.getAnnIds(number))
        assert len(found) == len(things)
        for annotation, segment in zip(found, things, strict=True):
            mask = scene.ids == segment["id"]
            assert np.array_equal(coco.annToMask(annotation), mask) and annotation["area"] == mask.sum()
            y, x = np.nonzero(mask)
            assert annotation["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
            assert annotation["category_id"] == {"car": 7, "person": 11}[segment["category"]]
            assert (annotation["iscrowd"], annotation["score"]) == (0, segment["score"])


def test_a_killed_run_lists_no_image_without_its_things(tmp_path: Path, monkeypatch):
    """After each single write: an image is listed only if all its annotations are."""
    scenes, whole, counts = random_scenes(8), os.pwrite, []

    def write(*args):
        done = whole(*args)
        content = json.loads((tmp_path / "instances.json").read_text())
        for image in content["images"]:
            things = sum(s["isthing"] for s in scenes[image["id"] - 1].segments)
            assert things == sum(a["image_id"] == image["id"] for a in content["annotations"])
        counts.append(len(content["images"]))
        return done

    with InstancesJson(str(tmp_path), CATEGORIES) as instances:
        monkeypatch.setattr(os, "pwrite", write)
        for scene in scenes:
            instances.write(scene)
        monkeypatch.undo()
    assert counts == [n for number in range(8) for n in (number, number + 1)]


def test_instances_are_imported_as_they_were(tmp_path: Path):
    """Into COCO panoptic: the same masks with the same classes; stuff is void, an image without things left out."""
    (tmp_path / "photos").mkdir()
    scenes = random_scenes(5)
    with InstancesJson(str(tmp_path), CATEGORIES) as instances:
        for scene in scenes:
            cv2.imwrite(str(tmp_path / "photos" / f"{scene.name}.png"), scene.image)
            instances.write(scene)
    source = tmp_path / "instances.json"
    done = import_annotations(source, tmp_path / "data", images_root=tmp_path / "photos", workers=1)
    assert done.faults == [] and done.images.total() == 4
    content = json.loads((tmp_path / "data" / "panoptic.json").read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    assert names == {7: "car", 11: "person"}
    stems = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
    found = {stems[a["image_id"]]: a for a in content["annotations"]}
    assert sorted(found) == [f"scene_{number}" for number in range(4)]
    for scene in scenes[:4]:
        png = tmp_path / "data" / "panoptic" / found[scene.name]["file_name"]
        ids = read_id_map(str(png))
        imported = {(names[s["category_id"]], (ids == s["id"]).tobytes()) for s in found[scene.name]["segments_info"]}
        assert imported == {(s["category"], (scene.ids == s["id"]).tobytes()) for s in scene.segments if s["isthing"]}


@pytest.mark.parametrize("size", [(128, 192), (966, 1296), (4000, 6000)])
def test_a_picture_of_noise_is_at_most_3_mb(tmp_path: Path, size):
    ids = np.ones(size, np.int32)
    ids[: size[0] // 2] = 2
    Pictures(str(tmp_path), 0.6, True).write(segmented("a", ids, {1: "car", 2: "sky/haze"}))
    assert 5000 < (tmp_path / "a.jpg").stat().st_size <= MAX_BYTES


def play(path: Path) -> list[np.ndarray]:
    """All frames of a video, BGR."""
    video, frames = cv2.VideoCapture(str(path)), []
    while (frame := video.read())[0]:
        frames.append(frame[1])
    video.release()
    return frames


def test_two_videos_of_one_name_and_images_between_them(tmp_path: Path):
    """A video has its own frame rate and its frames; an image is in none."""
    sources = [tmp_path / folder / "drive.avi" for folder in "ab"]
    ids, expected = np.ones((48, 64), np.int32), []
    for source, rate in zip(sources, (5, 30), strict=True):
        source.parent.mkdir()
        writer = cv2.VideoWriter(str(source), cv2.VideoWriter.fourcc(*"MJPG"), rate, (64, 48))
        writer.write(np.zeros((48, 64, 3), np.uint8))
        writer.release()
    with Videos(str(tmp_path)) as videos:
        pictures = Pictures(str(tmp_path), 0.6, False, videos)
        for source, name in ((sources[0], "a0"), (sources[0], "a1"), (None, "image"), (sources[1], "b0")):
            pictures.write(segmented(name, ids, {1: "car"}, source))
    expected = {"drive.webm": (5, ["a0", "a1"]), "drive_2.webm": (30, ["b0"])}
    assert {p.name for p in tmp_path.glob("*.webm")} == set(expected)
    for name, (rate, shown) in expected.items():
        frames = play(tmp_path / name)
        assert frame_rate(tmp_path / name) == rate and len(frames) == len(shown)
        for frame, picture in zip(frames, shown, strict=True):
            assert abs(frame.astype(int) - cv2.imread(str(tmp_path / f"{picture}.jpg"))).mean() < 15


LOW = (  # the tiny model is not sure of any thing
    "--opts",
    *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    *("MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", "0.0"),
)


@pytest.fixture
def drive(tiny_data, tmp_path: Path) -> Path:
    """A video of 30 frames at 12.5 frames per second: a toy scene that moves by two pixels per frame."""
    scene = cv2.imread(str(min(Path(tiny_data["val"]["images"]).glob("*.jpg"))))
    writer = cv2.VideoWriter(str(tmp_path / "drive.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (96, 96))
    for number in range(30):
        writer.write(scene[:, number : number + 96])
    writer.release()
    return tmp_path / "drive.avi"


def test_all_outputs(run_script, trained, drive: Path, tmp_path: Path):
    output = tmp_path / "out"
    options = ("--video", "--cutouts", "--instances-json", "--scores", *LOW)
    code, out, err = run_script("demo", "--model", trained, "--input", drive, "--output", output, *options)
    assert code == 0 and "FFMPEG" not in err, err
    assert out.startswith(
        f"30 images: pictures, panoptic PNGs, videos, cut-outs, instances.json and panoptic.json in {output}"
    )
    assert len(play(output / "drive.webm")) == 30 and frame_rate(output / "drive.webm") == 12.5
    assert {p.suffix for p in output.iterdir()} == {".jpg", ".png", ".json", ".webm", ".html", ""}
    content = json.loads((output / "panoptic.json").read_text())
    segments = [(a, s) for a in content["annotations"] for s in a["segments_info"]]
    assert all(("track_id" in s) == s["isthing"] for _, s in segments)
    assert len(list((output / "cutouts").iterdir())) == len(segments)
    things = [s for _, s in segments if s["isthing"]]
    assert len(things) > 30 and len({s["track_id"] for s in things}) < len(things) / 2  # followed over frames
    coco = load_coco(output / "instances.json")
    assert [(a["area"], a["bbox"], a["track_id"]) for a in coco.anns.values()] == [
        (s["area"], s["bbox"], s["track_id"]) for s in things
    ]
    assert [image["file_name"] for image in coco.imgs.values()] == [i["file_name"] for i in content["images"]]


def test_none_of_them_unless_asked_for(run_script, trained, drive: Path, tmp_path: Path):
    code, _, err = run_script("demo", "--model", trained, "--input", drive, "--output", tmp_path / "out")
    assert code == 0, err
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".jpg", ".png", ".json", ".html", ""}
    assert [p.name for p in (tmp_path / "out").glob("*.json")] == ["panoptic.json"]


def test_a_video_whose_end_is_damaged(run_script, trained, drive: Path, tmp_path: Path):
    os.truncate(drive, int(0.7 * drive.stat().st_size))
    readable = len(play(drive))
    assert 5 <= readable <= 25
    output = tmp_path / "out"
    code, _, err = run_script("demo", "--model", trained, "--input", drive, "--output", output, "--video")
    assert code == 1 and f"drive.avi: only the first {readable} of 30 frames can be read" in err
    assert len(play(output / "drive.webm")) == readable


def test_a_video_that_cannot_be_created_is_reported_once(run_script, trained, drive: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("panoptic_fusion.visualization.video.FORMATS", (("ZZZZ", ".webm"),))
    output = tmp_path / "out"
    code, _, err = run_script("demo", "--model", trained, "--input", drive, "--output", output, "--video")
    assert code == 1 and err.count("cannot write a video of 96x96 pixels (ZZZZ)") == 1
    assert len(json.loads((output / "panoptic.json").read_text())["annotations"]) >= 29


def test_killed_in_a_video_after_20_images(trained, tiny_data, tmp_path: Path, child_env):
    """What was written is listed with its things; the unfinished video plays and has another name until a rerun."""
    photos, output = tmp_path / "in", tmp_path / "out"
    photos.mkdir()
    photo = min(Path(tiny_data["val"]["images"]).glob("*.jpg"))
    for number in range(20):
        shutil.copy(photo, photos / f"{number:02d}.jpg")
    write_video(photos / "drive.avi", 500, (64, 48))
    command = ["demo", "--model", trained, "--input", photos, "--output", output, "--video", "--cutouts"]
    command = [sys.executable, "-m", "panoptic_fusion", *map(str, command), "--instances-json", *LOW]
    process = subprocess.Popen(command, env=child_env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (output / "drive_000006.png").exists() and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    content = json.loads((output / "panoptic.json").read_text())
    done = [a["file_name"] for a in content["annotations"]]
    expected = [f"{n:02d}.png" for n in range(20)] + [f"drive_{n:06d}.png" for n in range(500)]
    assert 25 <= len(done) < 500 and done == expected[: len(done)]
    assert all((output / name).exists() and (output / name).with_suffix(".jpg").exists() for name in done)
    instances = json.loads((output / "instances.json").read_text())
    assert len(done) <= len(instances["images"]) <= len(done) + 1
    for image, annotation in zip(instances["images"], content["annotations"], strict=False):
        things = [s for s in annotation["segments_info"] if s["isthing"]]
        listed = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        assert [a["bbox"] for a in listed] == [s["bbox"] for s in things]
        for segment in annotation["segments_info"]:
            (path,) = (output / "cutouts").glob(f"{annotation['image_id']}_*_{segment['id']}.png")
            assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape[2] == 4
    assert [p.name for p in output.glob("*.webm")] == ["drive (unfinished).webm"]
