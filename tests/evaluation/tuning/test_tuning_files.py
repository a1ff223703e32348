"""Tuning on the files of any two models: a case by hand, `fuse` and `evaluate_files` as oracle, bad files, resuming."""

import json

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from model_files import CATEGORIES, rle_of, write_ground_truth, write_ids, write_outputs
from PIL import Image

import panoptic_fusion
from panoptic_fusion import evaluate_files, fuse_files, tune_files
from panoptic_fusion.data.label_space import LabelSpace
from panoptic_fusion.errors import UserError
from panoptic_fusion.evaluation.model_outputs import ImageOutputs
from panoptic_fusion.evaluation.tuning import decoded_files, report

ROAD_AND_CAR = [{"id": 3, "name": "sky", "isthing": 0}, {"id": 8, "name": "car", "isthing": 1}]


def write_case(folder, num=3):
    """Sky of 20 x 20 with a car of 8 x 8, found with score 0.35, and a false car of 6 x 6 with score 0.25."""
    (folder / "gt").mkdir(parents=True)
    car, wrong, everything = np.zeros((3, 20, 20), bool)
    car[2:10, 3:11] = wrong[12:18, 12:18] = everything[:] = True
    ids = np.where(car, 2, 1)
    images, annotations, instances, semantic = [], [], [], []
    segments = [{"id": 1, "category_id": 3}, {"id": 2, "category_id": 8}]
    for i in range(num):
        write_ids(folder / "gt" / f"{i}.png", ids)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 20, "width": 20})
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        for mask, score in ((car, 0.35), (wrong, 0.25)):
            instances.append({"image_id": i, "category_id": 8, "score": score, "segmentation": rle_of(mask)})
        semantic.append({"image_id": i, "category_id": 3, "segmentation": rle_of(everything)})
    content = {"images": images, "annotations": annotations, "categories": ROAD_AND_CAR}
    for name, value in (("gt", content), ("instances", instances), ("semantic", semantic)):
        (folder / f"{name}.json").write_text(json.dumps(value))


def write_random(folder, num=5, seed=3):
    """The random files of `fuse`, with a ground truth."""
    images, instances, _ = write_outputs(folder, num, seed)
    write_ground_truth(folder, images, instances, seed)
    return images, instances


def tune_folder(folder, semantic="semantic.json", output="out", **options):
    options = {"folds": 2, "workers": 1, "output": folder / output, **options}
    paths = (folder / name for name in ("instances.json", semantic, "gt.json", "gt"))
    return tune_files(*paths, **options)


def quality_of(folder, semantic, rule, options):
    """The PQ of `fuse` with these options, as `evaluate` finds it."""
    output = folder / f"fused {abs(hash((semantic, rule, str(options))))}"
    paths = (folder / name for name in ("instances.json", semantic, "gt.json"))
    assert fuse_files(*paths, output, rule=rule, processes=1, **options)["problems"] == []
    scores = evaluate_files(
        folder / "gt.json", folder / "gt", output / "panoptic.json", output / "panoptic", processes=1, boundary=False
    )
    return scores["all"]["PQ"]


def test_by_hand(tmp_path):
    write_case(tmp_path)
    content = tune_folder(tmp_path, folds=3)
    assert content["best"] == {
        "rule": "heuristic", "confidence_thresh": 0.3, "overlap_thresh": 0.5, "stuff_area_limit": 0
    }  # fmt: skip
    tuned = content["rules"]["heuristic"]
    assert tuned["PQ_tuned_not_held_out"] == tuned["held_out"]["tuned"] == content["choice"]["tuned"] == 100
    assert tuned["held_out"]["start"] == 0  # no score reaches 0.5, and the sky has fewer than 4096 pixels
    assert tuned["tuned_without_fold"] == [tuned["tuned"]] * 3
    # Both cars: 1 / 1.5, and a sky of 300 of 336 pixels. No car: 0, and a sky of 400 pixels of which 336 are right.
    both, none = 100 * (2 / 3 + 300 / 336) / 2, 100 * (0 + 336 / 400) / 2
    curve = dict(map(tuple, tuned["curves"]["confidence_thresh"]))
    assert curve == {x: pytest.approx(both if x < 0.25 else 100 if x < 0.35 else none) for x in curve}
    assert min(curve) == 0.05 and max(curve) == 0.9
    curve = dict(map(tuple, tuned["curves"]["stuff_area_limit"]))
    assert curve == {x: 100 if x <= 336 else 50 for x in curve}
    assert sorted(content["rules"]) == ["heuristic", "seamless"]
    assert content["rules"]["seamless"]["tuned"] == tuned["tuned"]
    reasons = content["not_tuned"]
    assert reasons["mask_guided"] == "no pixel of the semantic results is a thing"
    assert "0.jpg: rule 'upsnet' needs semantic logits" in reasons["upsnet"]
    assert "0.jpg: rule 'spatial_ranking' needs ranking" in reasons["spatial_ranking"]
    assert content["problems"] == [] and content["images"] == 3
    text = (tmp_path / "out" / "tuning.md").read_text()
    assert "Use heuristic with the settings in best.yaml: +100.0 PQ" in text and "upsnet was not tuned" in text
    assert yaml.safe_load((tmp_path / "out" / "best.yaml").read_text()) == content["best"]
    assert (tmp_path / "out" / "tuning.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("semantic", ["semantic.json", "labels", "logits"])
def test_every_quality_is_the_one_of_fuse_and_evaluate(tmp_path, semantic):
    """The settings of all rules before and after tuning, and two random points of each curve."""
    _, instances = write_random(tmp_path)
    for entry in instances:
        entry["ranking"] = -entry["score"] if entry["category_id"] == 5 else entry["score"]
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    content = tune_folder(tmp_path, semantic)
    rules = content["rules"]
    wanted = {"heuristic", "seamless", "mask_guided", "spatial_ranking", *(["upsnet"] if semantic == "logits" else [])}
    assert set(rules) == wanted and len(content["not_tuned"]) == 5 - len(wanted)
    rng, found = np.random.default_rng(0), set()
    for name, rule in rules.items():
        assert ("stuff_channels_only" in rule["tuned"]) == (semantic == "logits" and name != "upsnet")
        cases = [(rule["start"], rule["held_out"]["start"]), (rule["tuned"], rule["PQ_tuned_not_held_out"])]
        for key in rng.permutation(list(rule["curves"]))[:2]:
            value, quality = rule["curves"][key][rng.integers(len(rule["curves"][key]))]
            cases.append(({**rule["tuned"], key: value}, quality))
        for options, quality in cases:
            assert quality_of(tmp_path, semantic, name, options) == pytest.approx(quality, abs=1e-9)
            found.add(quality)
    assert len(found) > 5


@pytest.mark.parametrize("semantic", ["labels", "logits"])
def test_the_command_of_the_best_setting_works(tmp_path, semantic, run_script):
    write_random(tmp_path)
    (tmp_path / "categories.json").write_text(json.dumps(CATEGORIES))
    content = tune_folder(tmp_path, semantic, output="a b", categories=tmp_path / "categories.json")
    comment = next(x for x in (tmp_path / "a b" / "best.yaml").read_text().splitlines() if x.startswith("#   "))
    assert comment.startswith("#   panoptic-fusion fuse --instances ") and str(tmp_path / "categories.json") in comment
    code, _, errors = run_script("fuse", *content["command"][2:], "--workers", "1")
    assert code == 0, errors
    fused = tmp_path / "a b" / "fused"
    arguments = (tmp_path / "gt.json", tmp_path / "gt", fused / "panoptic.json", fused / "panoptic")
    best = content["rules"][content["best"]["rule"]]
    assert evaluate_files(*arguments, processes=1)["all"]["PQ"] == pytest.approx(best["PQ_tuned_not_held_out"])


def test_every_setting_has_words_of_fuse():
    from panoptic_fusion.cli import entry, fuse_files
    from panoptic_fusion.evaluation.tuning.file_rules import rules_of_files

    rules, _ = rules_of_files([], has_logits=True)
    assert len(rules) == 5
    parser = entry.parser_of("fuse", fuse_files)
    needed = ["--instances", "i", "--semantic", "s", "--images", "j", "--output", "o"]
    for rule in rules.values():
        for pick in (0, -1):
            setting = tuple(values[pick] for values in rule.grid)
            words = rule.command_words(setting)
            args = vars(parser.parse_args([*needed, *words]))
            assert {name: args[name] for name in rule.named_values(setting)} == rule.named_values(setting)


def test_images_of_other_ids_and_a_part_of_them(tmp_path):
    images, _ = write_random(tmp_path)
    expected = tune_folder(tmp_path, output="all", rules=["heuristic"])
    gt = json.loads((tmp_path / "gt.json").read_text())
    renamed = {image["id"]: 1000 + i for i, image in enumerate(images)}
    for key, id in (("images", "id"), ("annotations", "image_id")):
        gt[key] = [{**entry, id: renamed[entry[id]]} for entry in reversed(gt[key])]
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    one = {"rules": ["heuristic"], "images": tmp_path / "images.json"}
    content = tune_folder(tmp_path, output="renamed", **one)
    assert content["rules"] == expected["rules"] and content["choice"] == expected["choice"]
    some = {"images": [*images[:4], {"id": "new", "file_name": "new.jpg", "height": 9, "width": 9}]}
    (tmp_path / "some.json").write_text(json.dumps({**some, "categories": CATEGORIES}))
    content = tune_folder(tmp_path, output="some", **{**one, "images": tmp_path / "some.json"})
    assert content["images"] == 4
    assert any("gt.json: no ground truth for 1 of the images (the first: new.jpg)" in p for p in content["problems"])
    assert tune_folder(tmp_path, output="few", num_images=3, **one)["images"] == 3


def test_bad_files_are_named_and_the_others_are_tuned(tmp_path):
    images, instances = write_random(tmp_path, num=7)
    (tmp_path / "labels" / "000.png").unlink()
    (tmp_path / "labels" / "001.png").write_bytes(b"no PNG")
    (tmp_path / "gt" / "002.png").write_bytes(b"no PNG")
    write_ids(tmp_path / "gt" / "003.png", np.zeros((3, 3), np.int32))
    images[4]["height"] += 1
    categories = {"images": images, "categories": CATEGORIES}
    (tmp_path / "images.json").write_text(json.dumps(categories))
    bad = [{**instances[-1], "score": "high"}, {**instances[-1], "image_id": "none"}]
    (tmp_path / "instances.json").write_text(json.dumps([*instances, *bad]))
    one = {"rules": ["seamless"], "images": tmp_path / "images.json"}
    content = tune_folder(tmp_path, "labels", **one)
    assert content["images"] == 2 and sorted(content["rules"]) == ["heuristic", "seamless"]
    problems = content["problems"]
    for words in (
        "000.png", "001.png", "002.png", "003.png", "004.jpg: the image is ", "needs score as a number",
        "for images that are not listed",
    ):  # fmt: skip
        assert any(words in problem and "\n" not in problem for problem in problems), (words, problems)
    assert len(problems) == 7
    with pytest.raises(UserError, match="2 usable images are too few for 3 folds"):
        tune_folder(tmp_path, "labels", folds=3, **one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rules": ["nms"]}, "--rule: nms is not a rule for files; available: heuristic, seamless"),
        ({"folds": 1}, "--folds is 1"),
        ({"folds": 9}, "5 usable images are too few for 9 folds"),
        ({"num_images": 0}, "--num-images is 0"),
        ({"semantic": "none.json"}, "none.json: the file is missing"),
        ({"images": "none.json"}, "none.json: the file is missing"),
        ({"categories": "stuff.json"}, "stuff.json: category 5 is stuff, but .*gt.json has no such stuff category"),
        ({"categories": "more.json"}, "more.json: category 77 is thing, but .*gt.json has no such thing category"),
    ],
)
def test_errors_come_before_any_work(tmp_path, change, message):
    write_random(tmp_path)
    (tmp_path / "stuff.json").write_text(json.dumps([{**c, "isthing": 0} for c in CATEGORIES]))
    (tmp_path / "more.json").write_text(json.dumps([*CATEGORIES, {"id": 77, "name": "x", "isthing": 1}]))
    change = {key: tmp_path / value if key in ("images", "categories") else value for key, value in change.items()}
    with pytest.raises(UserError, match=message) as error:
        tune_folder(tmp_path, **change)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_missing_folder_of_the_ground_truth(tmp_path):
    write_random(tmp_path)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        tune_files(*(tmp_path / n for n in ("instances.json", "labels", "gt.json", "nowhere")), output=tmp_path / "out")


def test_a_killed_run_resumes_and_changed_files_are_read_again(tmp_path, monkeypatch):
    write_random(tmp_path)
    one = {"semantic": "labels", "rules": ["heuristic"]}
    expected = tune_folder(tmp_path, output="whole", **one)
    monkeypatch.setattr(report, "draw_curves", lambda study: Figure())
    real, done = decoded_files.decode_outputs, []

    def decode(outputs, space):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(outputs.image["file_name"])
        return real(outputs, space)

    monkeypatch.setattr(decoded_files, "decode_outputs", decode)
    with pytest.raises(KeyboardInterrupt):
        tune_folder(tmp_path, **one)
    names = [f"{i:03d}.jpg" for i in range(5)]
    assert done == names[:3]

    def run(**options):
        done.clear()
        content = tune_folder(tmp_path, **one, **options)
        return list(done), {key: content[key] for key in ("rules", "choice")}

    monkeypatch.setattr(decoded_files, "decode_outputs", lambda o, s: done.append(o.image["file_name"]) or real(o, s))
    expected = {key: expected[key] for key in ("rules", "choice")}
    assert run() == (names[3:], expected)
    assert run() == ([], expected)
    (cache,) = (tmp_path / "out" / "decoded").iterdir()
    whole = (cache / "003.npz").read_bytes()
    for damaged in (b"", whole[:-200], whole[:200] + bytes(100) + whole[300:]):
        (cache / "003.npz").write_bytes(damaged)
        assert run() == (names[3:4], expected)
    Image.fromarray(np.asarray(Image.open(tmp_path / "labels" / "004.png"))).save(
        tmp_path / "labels" / "004.png", optimize=True, compress_level=0
    )
    assert run() == (names[4:5], expected)
    (tmp_path / "instances.json").write_text((tmp_path / "instances.json").read_text() + " ")
    assert run() == (names, expected)
    assert run(workers=2)[1] == expected


def test_damage_of_any_byte_is_found(tmp_path, monkeypatch):
    """Every kind of error that a damaged archive raises makes the image be decoded again."""
    images, instances = write_random(tmp_path, num=2)
    space = LabelSpace.from_categories(CATEGORIES)
    mine = [entry for entry in instances if entry["image_id"] == 1]
    outputs = ImageOutputs(images[1], mine, str(tmp_path / "labels" / "001.png"), "001.png")
    record = {**images[1], "pan_seg_file_name": str(tmp_path / "gt" / "001.png"), "segments_info": []}
    task, path = decoded_files.FileTask(outputs, record, str(tmp_path / "1.npz")), tmp_path / "1.npz"
    monkeypatch.setattr(decoded_files, "annotation_problem", lambda *_: "")
    image = decoded_files.cache_image(task, space=space, max_pixels=10**6)
    whole, rng, again = path.read_bytes(), np.random.default_rng(0), []
    real = decoded_files.decode_outputs
    monkeypatch.setattr(decoded_files, "decode_outputs", lambda *args: again.append(1) or real(*args))
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        found = decoded_files.cache_image(task, space=space, max_pixels=10**6)
        assert vars(found) == {**vars(image), "problems": found.problems} and list(found.problems) == []
    assert len(again) > 100  # a few bytes of the format have no meaning


def test_command(tmp_path, run_script):
    write_case(tmp_path)
    words = [x for name in ("instances", "semantic") for x in (f"--{name}", tmp_path / f"{name}.json")]
    words += ["--gt-json", tmp_path / "gt.json", "--gt-root", tmp_path / "gt", "--folds", "2", "--workers", "1"]
    code, out, errors = run_script("tune", *words, "--output", tmp_path / "out", "--rule", "seamless")
    assert code == 0, errors
    assert "Use heuristic with" in out and "| seamless" in out and "mask_guided" not in out
    for extra, message in (
        (["--model", "m"], "--instances and the options with it tune on files: leave out --model"),
        (["--dataset", "d"], "leave out --dataset"),
        (["MODEL.X", "1"], "leave out MODEL.X"),
        (["--gt-root", ""], "without a trained model, the command also needs --gt-root"),
        (["--rule", "HeuristicFusion"], "HeuristicFusion is not a rule for files"),
    ):
        code, _, errors = run_script("tune", *words, "--output", tmp_path / "new", *extra)
        assert code == 2 and message in errors and len(errors.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert panoptic_fusion.tune_files.__module__ == "panoptic_fusion.cli.tune"
