"""tools/ranking_picture.py: which pair it finds, where it looks, and from a trained model to pictures."""

import itertools
import json
import shutil
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny_training import import_script

from panoptic_fusion.modeling.fusion.mask_crops import BitmaskCrops
from panoptic_fusion.modeling.fusion.oanet.spatial_ranking_module import SpatialRankingModule

ranking_picture = import_script("tools/ranking_picture")
ranking_pairs = sys.modules["ranking_pairs"]
NAMES = ["car", "person", "sign"]


# -- the pair --------------------------------------------------------------------------------------------------------


def scene_of(masks, scores, classes, kept):
    """What find_pair reads of a Scene; boxes around the masks."""
    boxes = torch.zeros(len(masks), 4)
    for box, mask in zip(boxes, masks, strict=True):
        rows, columns = np.nonzero(mask)
        if len(rows):
            box[:] = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    crops = BitmaskCrops(torch.from_numpy(np.asarray(masks)), boxes)
    return SimpleNamespace(crops=crops, scores=scores, classes=classes, kept=kept)


def painted(masks, order):
    """(H, W) the row of the first mask of `order` at each pixel, -1 where there is none."""
    result = np.full(masks[0].shape, -1)
    for row in reversed(order):
        result[masks[row]] = row
    return result


def test_the_pair_that_changes_most():
    masks = np.zeros((4, 10, 12), bool)
    masks[0, 0:4, 0:4] = True  # 16 pixels, 4 of them shared with row 1
    masks[1, 3:7, 0:4] = True
    masks[2, 0:4, 6:10] = True  # 16, 8 of them shared with row 3
    masks[3, 2:6, 6:10] = True
    scene = scene_of(masks, [0.6, 0.9, 0.7, 0.8], [0, 1, 2, 0], [1, 3, 2, 0])
    before = painted(masks, [1, 3, 2, 0])
    ranking = [0.1, 0.2, 0.3, 0.4]  # of rows 1, 3, 2, 0: the order turns around
    pair = ranking_pairs.find_pair(scene, ranking, before, painted(masks, [0, 2, 3, 1]), NAMES)
    assert pair.rows == (3, 2) and pair.names == ["car", "sign"] and pair.changed == 8 / 16
    assert pair.detection == [0.8, 0.7] and pair.ranking == [0.2, 0.3]
    assert np.array_equal(pair.masks, masks[[3, 2]])
    # Nothing changes: the pair that overlaps most.
    assert ranking_pairs.find_pair(scene, ranking, before, before, NAMES).rows == (3, 2)
    # Only the pixels of rows 0 and 1 change hands: 4 of 16.
    pair = ranking_pairs.find_pair(scene, ranking, before, painted(masks, [0, 1, 3, 2]), NAMES)
    assert pair.rows == (1, 0) and pair.changed == 4 / 16
    # What a third one takes does not count: the pair (3, 2) loses all of its overlap to row 1.
    third = before.copy()
    third[2:4, 6:10] = 1
    assert ranking_pairs.find_pair(scene, ranking, before, third, NAMES).changed == 0


def test_no_pair():
    masks = np.zeros((3, 10, 12), bool)
    masks[0, 0:5, 0:5] = True  # 25 pixels
    masks[1, 4:9, 4:9] = True  # one of 25 is shared: fewer than LEAST_OVERLAP
    nobody = np.full((10, 12), -1)  # row 2 is empty
    for kept in ([0, 1, 2], [0], []):
        scene = scene_of(masks, [0.9, 0.8, 0.7], [0, 0, 0], kept)
        assert ranking_pairs.find_pair(scene, [0.5] * len(kept), nobody, nobody, NAMES) is None


def slow_find(masks, scene, before, after):
    """The key of the best pair, pixel by pixel: (changed, overlap), or None."""
    best = None
    for a, b in itertools.combinations(scene.kept, 2):
        smaller = min(masks[a].sum(), masks[b].sum())
        shared = changed = 0
        for y, x in itertools.product(*map(range, masks[a].shape)):
            if masks[a][y, x] and masks[b][y, x]:
                shared += 1
                changed += {before[y, x], after[y, x]} == {a, b}
        if smaller and shared >= 0.2 * smaller:
            key = (changed / smaller, shared / smaller)
            best = max(best, key) if best else key
    return best


def test_against_a_slow_search():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        size = tuple(rng.integers(4, 12, 2))
        count = int(rng.integers(0, 10))
        masks = np.zeros((count, *size), bool)
        for mask in masks:
            (y0, y1), (x0, x1) = (sorted(rng.integers(0, n + 1, 2)) for n in size)
            mask[y0:y1, x0:x1] = rng.random((y1 - y0, x1 - x0)) < 0.8
        kept = rng.permutation(count)[: int(rng.integers(0, count + 1))].tolist()
        scene = scene_of(masks, rng.random(count).tolist(), rng.integers(0, 3, count).tolist(), kept)
        before, after = (painted([*masks, np.zeros(size, bool)], rng.permutation(kept).astype(int)) for _ in range(2))
        pair = ranking_pairs.find_pair(scene, [0.5] * len(kept), before, after, NAMES)
        expected = slow_find(masks, scene, before, after)
        assert (pair is None) == (expected is None)
        if pair is not None:
            found += 1
            assert pair.changed == pytest.approx(expected[0])
            both = masks[pair.rows[0]] & masks[pair.rows[1]]
            assert both.sum() / min(masks[row].sum() for row in pair.rows) == pytest.approx(expected[1])
            assert np.array_equal(pair.masks, masks[list(pair.rows)])
    assert found > 50


def test_owners():
    ids = torch.tensor([[0, 1, 1], [2, 2, 7]])
    segments = [{"id": 1, "instance_id": 4}, {"id": 2, "category_id": 0}, {"id": 7, "instance_id": 0}]
    assert ranking_pairs.owners(ids, segments).tolist() == [[-1, 4, 4], [-1, -1, 0]]
    assert ranking_pairs.owners(torch.zeros(2, 2, dtype=torch.int32), []).tolist() == [[-1, -1], [-1, -1]]


def test_the_most_telling():
    entries = {
        "a": (["car", "car"], 0.9),
        "b": (["car", "car"], 0.8),
        "c": (["sign", "car"], 0.3),
        "d": (["car", "sign"], 0.4),
        "e": (["person", "car"], 0.1),
    }
    found = [(SimpleNamespace(names=names, changed=changed), key) for key, (names, changed) in entries.items()]
    # the largest of each two classes, a, d, e; then the second ones, b, c
    for count in range(1, 6):
        assert [entry[1] for entry in ranking_pairs.most_telling(found, count)] == ["a", "d", "e", "b", "c"][:count]


# -- where it looks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ((50, 90), (100, 120), (45, 95, 85, 135)),  # 1.25 x 40 around the middle
        ((0, 40), (280, 300), (0, 50, 250, 300)),  # moved into the image
        ((160, 200), (0, 10), (150, 200, 0, 50)),
        ((7, 8), (9, 10), (0, 24, 0, 24)),  # 24 at least
        ((0, 190), (20, 30), (0, 200, 0, 237)),  # 237.5: as high as the image, and no more than that
    ],
)
def test_the_place(rows, columns, expected):
    mask = np.zeros((200, 300), bool)
    mask[slice(*rows), slice(*columns)] = True
    place = ranking_picture.place_of(mask)
    assert all(abs(a - b) <= 1 for a, b in zip(place, expected, strict=True)), place
    y0, y1, x0, x1 = place
    assert mask[y0:y1, x0:x1].sum() == mask.sum() and 0 <= y0 < y1 <= 200 and 0 <= x0 < x1 <= 300


def test_the_place_in_a_small_image():
    assert ranking_picture.place_of(np.eye(10, 14, dtype=bool)) == (0, 10, 0, 14)


# -- from a model to pictures ----------------------------------------------------------------------------------------


@pytest.fixture
def ranking_model(trained, tmp_path):
    """The tiny trained model with the fusion of OANet and a random spatial ranking module."""
    folder = tmp_path / "model"
    shutil.copytree(trained, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["MODEL"]["PANOPTIC_FUSION"]["NAME"] = "SpatialRankingFusion"
    config["MODEL"]["PANOPTIC_FUSION"]["SRM"]["LOSS_WEIGHT"] = 0.0  # the baseline's head may have no thing channels
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoint = torch.load(folder / "model_final.pth", weights_only=True)
    torch.manual_seed(0)
    module = SpatialRankingModule(config["MODEL"]["ROI_HEADS"]["NUM_CLASSES"])
    checkpoint["model"] |= {f"fusion.srm.{name}": value for name, value in module.state_dict().items()}
    torch.save(checkpoint, folder / "model_final.pth")
    return folder


ALL = ["MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]


def test_from_a_model_to_pictures(ranking_model, tiny_data, run_script, tmp_path):
    output = tmp_path / "out"
    words = ["--model", ranking_model, "--input", tiny_data["val"]["images"], "--output", output, "--num-images", 2]
    code, out, err = run_script("tools/ranking_picture", *words, "--opts", *ALL)
    assert code == 0, err
    entries = json.loads((output / "pairs.json").read_text())
    assert len(entries) == 2 and "2 pictures" in out
    written = {"all.png", "pairs.json", *(entry["picture"] for entry in entries)}
    assert {path.name for path in output.iterdir()} == written
    for entry in entries:
        picture = cv2.imread(str(output / entry["picture"]))
        assert picture.shape[0] == ranking_picture.HEIGHT + 26 and picture.std() > 5
        first, second = entry["instances"]
        assert first["detection_score"] >= second["detection_score"] and 0 <= entry["changed"] <= 1
        assert all(0 <= x["ranking_score"] <= 1 for x in (first, second))
    sheet = cv2.imread(str(output / "all.png"))
    assert sheet.shape[0] == 2 * (ranking_picture.HEIGHT + 26 + 8)


def test_what_it_refuses(ranking_model, trained, tiny_data, run_script, tmp_path):
    images, output = tiny_data["val"]["images"], tmp_path / "out"
    for model, options, message in (
        (trained, [], "is 'HeuristicFusion': there are ranking scores with SpatialRankingFusion only"),
        (ranking_model, ["--num-images", "0"], "--num-images is 0"),
        (ranking_model, ["--opts", *ALL[:1], "1.0"], "in none of the images"),
    ):
        words = ["--model", model, "--input", images, "--output", output, *options]
        code, _, err = run_script("tools/ranking_picture", *words)
        assert code == 2 and message in err and "Traceback" not in err, err
