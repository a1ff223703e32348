"""`panoptic-fusion demo`: images, folders, globs and videos in; pictures, panoptic PNGs and one json out."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from panoptic_fusion.cli import demo, demo_images
from panoptic_fusion.data.annotation import read_id_map
from panoptic_fusion.data.coco_json import read_panoptic_json
from panoptic_fusion.data.frames import count_frames


@pytest.fixture
def photos(tiny_data, tmp_path: Path) -> Path:
    """A folder of three photos of two sizes and formats."""
    folder = tmp_path / "photos"
    folder.mkdir()
    sources = sorted(Path(tiny_data["val"]["images"]).glob("*.jpg"))
    shutil.copy(sources[0], folder / "a.jpg")
    cv2.imwrite(str(folder / "b.png"), cv2.imread(str(sources[1]))[:80, :101])
    cv2.imwrite(str(folder / "c.jpg"), cv2.resize(cv2.imread(str(sources[2])), None, fx=2, fy=2))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def segment(run_script, trained, tmp_path: Path):
    """Runs the demo with the tiny model: (exit code, stderr, output folder, {file name: entry of the json})."""

    def run(*inputs, options: tuple = ()) -> tuple[int, str, Path, dict[str, dict]]:
        output = tmp_path / "segmented"
        code, _, err = run_script("demo", "--model", trained, "--input", *inputs, "--output", output, *options)
        content = json.loads((output / "panoptic.json").read_text())
        assert len(content["categories"]) == 12
        return code, err, output, {a["file_name"]: a for a in content["annotations"]}

    return run


def check_image(output: Path, entry: dict, size: tuple[int, int], categories: dict[int, dict]) -> None:
    """The PNG holds exactly the segments of the json, with areas and boxes; the picture has the image's size."""
    ids = read_id_map(str(output / entry["file_name"]))
    assert ids.shape == size
    found = {int(i): int(n) for i, n in zip(*np.unique(ids, return_counts=True), strict=True) if i}
    assert found == {s["id"]: s["area"] for s in entry["segments_info"]}
    for segment in entry["segments_info"]:
        category = categories[segment["category_id"]]  # an id of the dataset, not a contiguous one
        assert (category["name"], bool(category["isthing"])) == (segment["category"], segment["isthing"])
        assert ("score" in segment) == segment["isthing"] and segment["iscrowd"] == 0
        y, x = np.nonzero(ids == segment["id"])
        assert segment["bbox"] == [x.min(), y.min(), x.max() - x.min() + 1, y.max() - y.min() + 1]
    picture = cv2.imread(str(output / entry["file_name"].replace(".png", ".jpg")))
    assert picture.shape == (*size, 3) and picture.std() > 5


def test_a_folder(segment, photos: Path, tiny_cfg):
    code, err, output, entries = segment(photos)
    assert code == 0, err
    assert sorted(entries) == ["a.png", "b.png", "c.png"]
    categories = {c["id"]: c for c in tiny_cfg.MODEL.CATEGORIES}
    for name, size in (("a.png", (96, 128)), ("b.png", (80, 101)), ("c.png", (192, 256))):
        check_image(output, entries[name], size, categories)
    assert any(e["segments_info"] for e in entries.values())
    names = ["a.jpg", "a.png", "b.jpg", "b.png", "c.jpg", "c.png", "panoptic.json"]
    assert sorted(p.name for p in output.iterdir()) == names


def test_the_json_is_coco_panoptic(segment, photos: Path):
    """Its own reader accepts it without a complaint, and each image is listed with its size."""
    code, err, output, entries = segment(photos)
    assert code == 0, err
    read = read_panoptic_json(str(output / "panoptic.json"))
    assert [
        (image["id"], Path(image["file_name"]).name, image["height"], image["width"]) for image in read.images.values()
    ] == [("a", "a.jpg", 96, 128), ("b", "b.png", 80, 101), ("c", "c.jpg", 192, 256)]
    assert read.annotations == {entry["image_id"]: entry for entry in entries.values()}


def test_the_json_can_be_evaluated(segment, tiny_data, trained, run_script, tmp_path: Path):
    """Image ids of the ground truth are numbers that differ from those in the file names."""
    data = tiny_data["val"]
    code, err, output, entries = segment(data["images"])
    assert code == 0, err
    truth = ["--gt-json", data["panoptic_json"], "--gt-root", data["panoptic_root"]]
    words = [*truth, "--pred-json", output / "panoptic.json", "--pred-root", output, "--output", tmp_path / "scores"]
    code, shown, err = run_script("evaluate", *words, "--workers", 1)
    assert code == 0 and f"{len(entries)} scored, 0 no prediction, 0 invalid prediction, 0 left out" in shown, err
    found = json.loads((tmp_path / "scores" / "results.json").read_text())
    opts = ["DATASETS.TEST", "('tiny_val',)", "OUTPUT_DIR", tmp_path / "direct"]
    assert run_script("evaluate", "--model", trained, *opts)[0] == 0
    direct = json.loads((tmp_path / "direct" / "results.json").read_text())["panoptic_seg"]
    assert direct["PQ"] > 0 and found["problems"] == [] and found["all"]["PQ"] == pytest.approx(direct["PQ"], abs=0.1)


def test_files_and_globs_each_image_once(segment, photos: Path):
    code, err, _, entries = segment(photos / "c.jpg", f"{photos}/*.jpg", photos / "b.png")
    assert code == 0, err
    assert list(entries) == ["c.png", "a.png", "b.png"]


def test_images_of_one_name_do_not_overwrite_each_other(segment, photos: Path, tmp_path: Path):
    other = tmp_path / "others"
    other.mkdir()
    shutil.copy(photos / "c.jpg", other / "a.jpg")
    code, err, output, entries = segment(photos / "a.jpg", other)
    assert code == 0, err
    assert sorted(entries) == ["a.png", "a_2.png"]
    assert read_id_map(str(output / "a_2.png")).shape == (192, 256)


def test_a_video_beside_an_image(segment, photos: Path, tmp_path: Path):
    video = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG videos")
    frame = cv2.imread(str(photos / "a.jpg"))
    for shift in range(4):
        writer.write(np.roll(frame, 10 * shift, axis=1))
    writer.release()
    code, err, output, entries = segment(video, photos / "a.jpg")
    assert code == 0, err
    assert list(entries) == [*(f"drive_{n:06d}.png" for n in range(4)), "a.png"]
    images = json.loads((output / "panoptic.json").read_text())["images"]
    assert [image["file_name"] for image in images] == [
        *(f"{video}/drive_{n:06d}" for n in range(4)),
        str(photos / "a.jpg"),
    ]
    assert cv2.imread(str(output / "drive_000003.jpg")).shape == (96, 128, 3)
    assert count_frames(video) == 4


def test_unreadable_files_are_skipped_and_reported(segment, photos: Path):
    (photos / "aa.jpg").write_bytes(b"this is no picture")
    (photos / "ab.png").write_bytes(b"")
    (photos / "ac.avi").write_bytes(b"this is no video")
    code, err, output, entries = segment(photos)
    assert code == 1
    assert sorted(entries) == ["a.png", "b.png", "c.png"]
    skipped = [line for line in err.splitlines() if line.startswith("skipped: ")]
    assert [Path(line.split()[1].rstrip(":")).name for line in skipped] == ["aa.jpg", "ab.png", "ac.avi"]
    assert "Traceback" not in err
    assert not (output / "aa.jpg").exists()


def test_an_interruption_keeps_what_is_done(trained, photos: Path, monkeypatch, tmp_path: Path):
    whole = demo_images.segment

    def interrupted(predictor, image, file, frame, *args):
        if frame == "b":
            raise KeyboardInterrupt
        return whole(predictor, image, file, frame, *args)

    monkeypatch.setattr(demo_images, "segment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.demo(trained, inputs=[photos], output=tmp_path / "out")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [a["file_name"] for a in content["annotations"]] == ["a.png"]


def test_gray_and_transparent_images(segment, photos: Path):
    gray = cv2.imread(str(photos / "a.jpg"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(photos / "gray.png"), gray)
    cv2.imwrite(str(photos / "clear.png"), np.dstack([gray, gray, gray, np.full_like(gray, 128)]))
    code, err, _, entries = segment(photos / "gray.png", photos / "clear.png")
    assert code == 0, err
    assert entries["gray.png"]["segments_info"] == entries["clear.png"]["segments_info"]


def test_options_change_the_result(segment, photos: Path):
    nothing = (
        "--opts",
        "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT",
        "1000000",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "1.0",
    )
    code, err, output, entries = segment(photos / "a.jpg", options=nothing)
    assert code == 0, err
    assert entries["a.png"]["segments_info"] == [] and not read_id_map(str(output / "a.png")).any()


def test_other_outputs_than_the_panoptic_map_change_nothing(segment, photos: Path):
    options = ("--opts", "MODEL.PANOPTIC_FUSION.OUTPUTS", "['instances']")
    code, err, _, entries = segment(photos / "a.jpg", options=options)
    assert code == 0, err
    assert entries["a.png"]["segments_info"]


def test_classes_are_those_of_the_model(trained, tiny_data, photos: Path, run_script, tmp_path: Path, tiny_cfg):
    """Also where the dataset on this machine has got other categories since."""
    data, model = tmp_path / "data", tmp_path / "model"
    shutil.copytree(Path(tiny_data["val"]["images"]).parent, data)
    content = json.loads((data / "panoptic.json").read_text())
    content["categories"].insert(0, {"id": 0, "name": "airship", "isthing": 1})
    (data / "panoptic.json").write_text(json.dumps(content))
    model.mkdir()
    shutil.copy(trained / "model_final.pth", model)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    files = {key: str(data / Path(value).name) for key, value in tiny_data["val"].items()}
    config["DATASETS"] |= {"REGISTER": [{"name": "changed_val", **files}], "TEST": ["changed_val"], "TRAIN": []}
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    images = ["--input", photos / "a.jpg", "--output"]
    assert run_script("demo", "--model", model, *images, tmp_path / "changed")[0] == 0
    assert run_script("demo", "--model", trained, *images, tmp_path / "before")[0] == 0
    first, second = (json.loads((tmp_path / n / "panoptic.json").read_text()) for n in ("changed", "before"))
    assert first == second and first["annotations"][0]["segments_info"]
    code, _, err = run_script(
        "compare", "--model", model, "--dataset", "changed_val", "--output", tmp_path / "pictures"
    )
    assert code == 2 and "classes of dataset 'changed_val'" in err


def test_config_file_and_weights_instead_of_a_model(run_script, trained, photos: Path, tmp_path: Path):
    options = [
        "--config-file",
        trained / "config.yaml",
        "--input",
        photos / "a.jpg",
        "--output",
        tmp_path / "by_config",
    ]
    code, _, err = run_script("demo", *options, "--opts", "MODEL.WEIGHTS", trained / "model_final.pth")
    assert code == 0, err
    code, _, err = run_script(
        "demo", "--model", trained, "--input", photos / "a.jpg", "--output", tmp_path / "by_model"
    )
    assert code == 0, err
    first, second = (json.loads((tmp_path / n / "panoptic.json").read_text()) for n in ("by_config", "by_model"))
    assert first == second
