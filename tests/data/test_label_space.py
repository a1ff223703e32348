"""The label space: numbering, channels, round trips and clear errors."""

import random

import numpy as np
import pytest
from detectron2.data.catalog import Metadata

from panoptic_fusion.data.label_space import IGNORE_LABEL, ONTOLOGIES, LabelSpace

CATEGORIES = [
    {"id": 24, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 7, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 26, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 23, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
    {"id": 8, "name": "sidewalk", "isthing": 0, "color": [244, 35, 232]},
]


def random_categories(rng: random.Random) -> list[dict]:
    num = rng.randint(1, 40)
    ids = rng.sample(range(0, 500), num)
    categories = []
    for i in ids:
        category = {"id": i, "name": f"class {i}", "isthing": rng.choice([0, 1, True, False])}
        if rng.random() < 0.5:
            category["color"] = [rng.randint(0, 255) for _ in range(3)]
        categories.append(category)
    return categories


def test_hand_computed():
    space = LabelSpace.from_categories(CATEGORIES)
    assert space.stuff_classes == ("road", "sidewalk", "sky") and space.stuff_ids == (7, 8, 23)
    assert space.thing_classes == ("person", "car") and space.thing_ids == (24, 26)
    assert space.thing_colors == ((220, 20, 60), (0, 0, 142))
    assert (space.num_things, space.num_stuff) == (2, 3)
    assert [space.num_channels(o) for o in ONTOLOGIES] == [5, 4, 3]
    assert [space.sem_seg_channel(t, True, "full") for t in range(2)] == [3, 4]
    assert [space.sem_seg_channel(t, True, "collapsed") for t in range(2)] == [3, 3]
    assert [space.sem_seg_channel(t, True, "stuff") for t in range(2)] == [255, 255]
    assert [space.sem_seg_channel(s, False, o) for o in ONTOLOGIES for s in range(3)] == [0, 1, 2] * 3
    assert space.contiguous_ids() == {7: (False, 0), 8: (False, 1), 23: (False, 2), 24: (True, 0), 26: (True, 1)}


def test_random_spaces():
    rng = random.Random(0)
    for _ in range(300):
        categories = random_categories(rng)
        space = LabelSpace.from_categories(categories)
        shuffled = rng.sample(categories, len(categories))
        if all("color" in c for c in categories):
            assert LabelSpace.from_categories(shuffled) == space
        # Colours that are not given do not depend on the order in the json either.
        assert LabelSpace.from_categories(shuffled) == space
        assert LabelSpace.from_categories(space.to_categories()) == space
        assert LabelSpace.from_metadata(space.apply_to_metadata(Metadata(name="x"))) == space
        by_id = {c["id"]: c for c in categories}
        for ids, names, colors, isthing in (
            (space.thing_ids, space.thing_classes, space.thing_colors, 1),
            (space.stuff_ids, space.stuff_classes, space.stuff_colors, 0),
        ):
            assert sorted(ids) == sorted(i for i, c in by_id.items() if c["isthing"] == isthing)
            for i, name, color in zip(ids, names, colors, strict=True):
                assert by_id[i]["name"] == name
                assert "color" not in by_id[i] or tuple(by_id[i]["color"]) == color
        for ontology in ONTOLOGIES:
            stuff = [space.sem_seg_channel(s, False, ontology) for s in range(space.num_stuff)]
            things = [space.sem_seg_channel(t, True, ontology) for t in range(space.num_things)]
            num = space.num_channels(ontology)
            if ontology == "full":
                assert stuff + things == list(range(num))
            elif ontology == "collapsed":
                assert stuff == list(range(num - 1)) and set(things) <= {num - 1}
            else:
                assert stuff == list(range(num)) and set(things) <= {IGNORE_LABEL}


def test_made_up_colors_are_distinct():
    categories = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(250)]
    space = LabelSpace.from_categories(categories)
    colors = space.thing_colors + space.stuff_colors
    assert len(set(colors)) == 250 and (0, 0, 0) not in colors
    assert np.array(colors).min() >= 0 and np.array(colors).max() <= 255


def test_plain_python():
    def check(value):
        assert type(value) in (int, str, list, dict)
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            check(item)

    check(LabelSpace.from_categories([{**c, "id": np.int64(c["id"])} for c in CATEGORIES]).to_categories())


def test_without_things_or_stuff():
    stuff = LabelSpace.from_categories([c for c in CATEGORIES if not c["isthing"]])
    assert [stuff.num_channels(o) for o in ONTOLOGIES] == [3, 4, 3]
    stuff.require_stuff()
    with pytest.raises(ValueError, match="my.json has no thing class.*road, sidewalk, sky"):
        stuff.require_things("my.json")
    things = LabelSpace.from_categories([c for c in CATEGORIES if c["isthing"]])
    assert [things.num_channels(o) for o in ONTOLOGIES] == [2, 1, 0]
    things.require_things()
    with pytest.raises(ValueError, match="no stuff class"):
        things.require_stuff()
    for space in (stuff, things):
        assert LabelSpace.from_metadata(space.apply_to_metadata(Metadata(name="x"))) == space


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "no categories"),
        (None, "no categories"),
        ("road", "no categories"),
        ([3], "must be a mapping"),
        ([{"name": "a", "isthing": 1}], "has no id"),
        ([{"id": 1, "isthing": 1}], "has no name"),
        ([{"id": 1, "name": "a"}], "has no isthing"),
        ([{"id": "1", "name": "a", "isthing": 1}], "'a': the id must be an integer"),
        ([{"id": True, "name": "a", "isthing": 1}], "the id must be an integer"),
        ([{"id": -1, "name": "a", "isthing": 1}], "the id must be an integer"),
        ([{"id": 2**63, "name": "a", "isthing": 1}], "the id must be an integer"),
        ([{"id": 1, "name": 5, "isthing": 1}], "the name must be a text"),
        ([{"id": 1, "name": "a", "isthing": 2}], "isthing must be 0 or 1"),
        ([{"id": 1, "name": "a", "isthing": "yes"}], "isthing must be 0 or 1"),
        ([{"id": 1, "name": "a", "isthing": 1, "color": [1, 2]}], "three integers"),
        ([{"id": 1, "name": "a", "isthing": 1, "color": [1, 2, 256]}], "three integers"),
        ([{"id": 1, "name": "a", "isthing": 1}, {"id": 1, "name": "b", "isthing": 0}], "id 1 occurs twice"),
        ([{"id": 1, "name": "a", "isthing": 1}, {"id": 2, "name": "a", "isthing": 0}], "name 'a' occurs twice"),
    ],
)
def test_bad_categories(categories, message):
    with pytest.raises(ValueError, match=message):
        LabelSpace.from_categories(categories)


def test_other_errors():
    space = LabelSpace.from_categories(CATEGORIES)
    with pytest.raises(ValueError, match="unknown ontology 'fll'"):
        space.num_channels("fll")
    for category_id, isthing in ((2, True), (3, False), (-1, True)):
        with pytest.raises(ValueError, match="class"):
            space.sem_seg_channel(category_id, isthing, "full")
    with pytest.raises(ValueError, match="as many thing classes"):
        LabelSpace(("a",), (), (), (), (1,), ())
    with pytest.raises(ValueError, match="has no thing_classes"):
        LabelSpace.from_metadata(Metadata(name="empty"))
    with pytest.raises(ValueError, match="another thing_classes"):
        space.apply_to_metadata(Metadata(name="x", thing_classes=["dog"]))
    many = LabelSpace.from_categories([{"id": i, "name": str(i), "isthing": i % 2} for i in range(256)])
    assert many.num_channels("collapsed") == 129
    with pytest.raises(ValueError, match="256 channels"):
        many.num_channels("full")
