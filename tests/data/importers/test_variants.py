"""Other versions and options of the tools than the round trips write, by hand."""

import base64
import contextlib
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from annotation_writers import brush_rle, png_bytes
from PIL import Image

from panoptic_fusion.data.annotation import decode_segmentation
from panoptic_fusion.data.dataset_errors import DatasetError
from panoptic_fusion.data.importers import import_annotations
from panoptic_fusion.data.importers.pixels import read_map
from panoptic_fusion.data.importers.report import format_result

SIZE = (20, 30)


@pytest.fixture
def run(tmp_path):
    """Writes files {name: content} next to an image a.png, imports, and returns (result, masks by label and size)."""

    def run_(files, **options):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        result = import_annotations(tmp_path, tmp_path / "out", workers=1, **options)
        content = json.loads((tmp_path / "out" / "instances.json").read_text())
        names = {c["id"]: c["name"] for c in content["categories"]}
        masks = [
            (names[a["category_id"]], decode_segmentation(a["segmentation"], *SIZE).astype(bool), a["iscrowd"])
            for a in content["annotations"]
        ]
        return result, masks

    return run_


def rectangle(x0, y0, x1, y1):
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def corners(x0, y0, x1, y1):
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def percent(points):
    return [[x / SIZE[1] * 100, y / SIZE[0] * 100] for x, y in points]


def test_label_studio_minimal_export(run):
    value = {"points": percent(corners(3, 4, 9, 12)), "polygonlabels": ["cat"]}
    region = {**value, "original_width": SIZE[1], "original_height": SIZE[0]}
    result, masks = run(
        {"min.json": [{"id": 1, "image": "/data/local-files/?d=some%20folder/a.png", "label": [region]}]}
    )
    assert result.format == "label-studio" and result.faults == []
    assert [label for label, _, _ in masks] == ["cat"] and (masks[0][1] == rectangle(3, 4, 9, 12)).all()


def test_label_studio_annotations_are_chosen_not_merged(run):
    def annotation(x, **more):
        value = {"points": percent(corners(x, 4, x + 3, 12)), "polygonlabels": ["cat"]}
        return {"result": [{"id": "r", "value": value, "original_width": 30, "original_height": 20}], **more}

    for annotations, x in (
        ([annotation(1), annotation(9)], 1),
        ([annotation(1, was_cancelled=True), annotation(9)], 9),
        ([annotation(1), annotation(9, ground_truth=True)], 9),
    ):
        _, masks = run({"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": annotations}]})
        assert len(masks) == 1 and (masks[0][1] == rectangle(x, 4, x + 3, 12)).all()


def test_label_studio_geometry_and_class_in_two_results(run):
    common = {"id": "r", "original_width": 30, "original_height": 20}
    rle = {"format": "rle", "rle": brush_rle(rectangle(2, 3, 8, 9))}
    results = [
        {**common, "type": "brush", "value": rle},
        {**common, "type": "labels", "value": {**rle, "labels": ["dog"]}},
        {"type": "relation", "from_id": "r", "to_id": "r"},
    ]
    _, masks = run({"p.json": {"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}})
    assert len(masks) == 1 and masks[0][0] == "dog" and (masks[0][1] == rectangle(2, 3, 8, 9)).all()


def test_label_studio_turned_box(run):
    """A quarter turn around its upper left corner (10, 5): 6 wide and 2 high become 2 wide and 6 high, to the left."""
    value = {"x": 10 / 0.3, "y": 5 / 0.2, "width": 6 / 0.3, "height": 2 / 0.2, "rotation": 90, "rectanglelabels": ["b"]}
    results = [{"id": "r", "type": "rectanglelabels", "value": value, "original_width": 30, "original_height": 20}]
    _, masks = run({"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}]})
    assert (masks[0][1] == rectangle(8, 5, 10, 11)).all()


def test_label_studio_bitmasks_and_vectors(run):
    def bitmask(mask):
        pixels = np.where(mask[..., None], [0, 0, 0, 255], 0).astype(np.uint8)
        return "data:image/png;base64," + base64.b64encode(png_bytes(pixels)).decode()

    vertices = [{"id": str(k), "x": x, "y": y} for k, (x, y) in enumerate(percent(corners(3, 4, 9, 12)))]
    curved = [*vertices[:3], {**vertices[3], "isBezier": True}]
    values = [
        {"imageDataURL": bitmask(rectangle(12, 5, 20, 9)), "bitmasklabels": ["cat"]},
        {"imageDataURL": bitmask(np.ones(SIZE, bool)), "bitmasklabels": ["floor"]},
        {"vertices": vertices, "closed": True, "vectorlabels": ["dog"]},
        {"vertices": vertices, "closed": False, "vectorlabels": ["wire"]},
        {"vertices": curved, "closed": True, "vectorlabels": ["bend"]},
        {"imageDataURL": bitmask(np.ones((5, 6), bool)), "bitmasklabels": ["small"]},
        {"imageDataURL": "data:image/png;base64,AAAA", "bitmasklabels": ["broken"]},
    ]  # fmt: skip
    results = [
        {"id": f"r{k}", "type": list(value)[-1], "value": value, "original_width": 30, "original_height": 20}
        for k, value in enumerate(values)
    ]
    result, masks = run(
        {"p.json": [{"id": 1, "data": {"image": "a.png"}, "annotations": [{"result": results}]}]},
        things=["cat", "floor", "dog"],
    )
    expected = {"cat": rectangle(12, 5, 20, 9), "floor": np.ones(SIZE, bool), "dog": rectangle(3, 4, 9, 12)}
    assert {label: (mask == expected[label]).all() for label, mask, _ in masks} == dict.fromkeys(expected, True)
    texts = " ".join(map(str, result.faults))
    assert len(result.faults) == 3
    assert "has curves" in texts and "bitmask is 6x5, its image 30x20" in texts and "(broken)" in texts
    assert any("(vectorlabels)" in note for note in result.notes)


def test_via_1_and_checkbox_attributes(run):
    xs, ys = zip(*corners(3, 4, 9, 12), strict=True)
    shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
    regions = {"0": {"shape_attributes": shape, "region_attributes": {"type": {"cat": False, "dog": True}}}}
    _, masks = run({"via.json": {"a.png1": {"filename": "a.png", "regions": regions}}})
    assert masks[0][0] == "dog" and (masks[0][1] == rectangle(3, 4, 9, 12)).all()


def via_3(metadata, **more):
    """A project of VIA 3 with a text and a checkbox attribute, and a view of the image, which was a local file."""
    attribute = {
        "1": {"aname": "Object", "type": 1, "options": {}},
        "2": {"aname": "Kind", "type": 2, "options": {"a": "cat", "b": "dog"}},
    }
    file = {"1": {"fid": 1, "fname": "a.png", "type": 2, "loc": 1, "src": ""}}
    content = {"project": {}, "config": {}, "attribute": attribute, "file": file, "view": {"1": {"fid_list": [1]}}}
    return {**content, "metadata": {str(k): {"vid": "1", "z": [], **m} for k, m in enumerate(metadata)}, **more}


def test_via_3_shapes_and_attributes(run):
    metadata = [
        {"xy": [2, 3, 4, 6, 8], "av": {"1": "box", "2": "a"}},
        {"xy": [4, 20, 10, 6, 3], "av": {"1": "ellipse"}},
        {"xy": [3, 10, 10, 5], "av": {"2": "b,a"}},
        {"xy": [7, 3, 4, 9, 4, 9, 12, 3, 12], "av": {"1": "polygon"}},
        {"xy": [8, 5, 2, 12, 6, 7, 9, 1, 5], "av": {"1": "extreme box"}},
        {"xy": [9, 15, 10, 10, 5, 5, 10], "av": {"1": "extreme circle"}},
        {"xy": [6, 1, 1, 5, 5, 5, 1], "av": {"1": "line"}},
        {"xy": [], "av": {"1": "the whole image"}},
        {"xy": [2, 1, 1], "av": {"1": "incomplete"}},
        {"xy": [2, 1, 1, 3, 3], "av": {"9": "unknown attribute"}},
    ]  # fmt: skip
    result, masks = run({"via.json": via_3(metadata)})
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    disk = (x - 10) ** 2 + (y - 10) ** 2 < 25
    expected = {
        "box": rectangle(3, 4, 9, 12), "ellipse": ((x - 20) / 6) ** 2 + ((y - 10) / 3) ** 2 < 1, "dog": disk,
        "polygon": rectangle(3, 4, 9, 12), "extreme box": rectangle(1, 2, 12, 9), "extreme circle": disk,
    }  # fmt: skip
    assert [label for label, _, _ in masks] == list(expected)
    for label, mask, _ in masks:
        assert (mask != expected[label]).sum() <= 2, label  # an ellipse is a polygon of 256 points
    assert sorted(str(fault).split(":")[1].strip() for fault in result.faults) == ["a.png, region 8", "a.png, region 9"]


def csv_row(*cells):
    return ",".join('"' + str(cell).replace('"', '""') + '"' for cell in cells) + "\n"


@pytest.mark.parametrize("version", [2, 3])
def test_via_csv_with_a_polygon_of_many_points(run, version):
    """A box with 20,000 points on two of its edges, whose cell is longer than what Python's csv reads by default."""
    xs = [*np.linspace(3, 9, 20000).tolist(), *np.linspace(9, 3, 20000).tolist()]
    ys = [4.0] * 20000 + [12.0] * 20000
    if version == 2:
        text = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        shape = {"name": "polygon", "all_points_x": xs, "all_points_y": ys}
        text += csv_row("a.png", 1, "{}", 1, 0, json.dumps(shape), '{"label": "cat"}')
    else:  # its first versions wrote the names of the attributes alone
        text = '# ATTRIBUTES = {"1":"label"}\n# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,'
        text += "spatial_coordinates,metadata\n"
        xy = [7, *np.stack([xs, ys], 1).ravel().tolist()]
        text += csv_row("1_a", '["a.png"]', 0, "[]", json.dumps(xy), '{"1": "cat"}')
    result, masks = run({"via.csv": text})
    assert result.faults == []
    assert [(label, (mask == rectangle(3, 4, 9, 12)).all()) for label, mask, _ in masks] == [("cat", True)]


def test_via_3_videos_and_pairs_are_reported(run):
    region = {"xy": [2, 3, 4, 6, 8], "av": {"1": "box"}}
    files = {
        str(k): {"fid": k, "fname": name, "type": kind, "src": ""}
        for k, name, kind in ((1, "a.png", 2), (2, "film.mp4", 4), (3, "b.png", 2))
    }
    views = {"1": {"fid_list": [1]}, "2": {"fid_list": [2]}, "3": {"fid_list": [1, 3]}}
    metadata = [region, {**region, "vid": "2"}, {**region, "vid": "3"}, {**region, "vid": "4"}]
    result, masks = run({"via.json": via_3(metadata, file=files, view=views)})
    assert [label for label, _, _ in masks] == ["box"]
    texts = " ".join(map(str, result.faults))
    assert len(result.faults) == 3
    assert "film.mp4 is a video" in texts and "'3' shows 2 files" in texts and "have no view" in texts


def test_scalabel_curves_and_open_lines(run):
    """A half circle of control points above a line: the curve reaches 3/4 of their height."""
    bezier = {"vertices": [[5, 15], [5, 3], [25, 3], [25, 15]], "types": "LCCL", "closed": True}
    line = {"vertices": [[0, 0], [9, 9], [9, 0]], "types": "LLL", "closed": False}
    frame = {"name": "a.png", "labels": [
        {"id": "1", "category": "rock", "poly2d": [bezier]}, {"id": "2", "category": "lane", "poly2d": [line]},
    ]}  # fmt: skip
    result, masks = run({"s.json": [frame]})
    assert [label for label, _, _ in masks] == ["rock"] and any("open lines" in note for note in result.notes)
    rows = np.flatnonzero(masks[0][1].any(1))
    assert (rows[0], rows[-1]) == (6, 14)  # 15 - 3/4 * 12


def test_holes(run, tmp_path):
    hole = rectangle(3, 4, 19, 18) & ~rectangle(8, 8, 12, 12)
    outer, inner = corners(3, 4, 19, 18), corners(8, 8, 12, 12)
    entry = {
        "type": "polygon",
        "className": "ring",
        "groupId": 0,
        "points": sum(outer, []),
        "exclude": [sum(inner, [])],
    }
    content = {"metadata": {"name": "a.png", "width": 30, "height": 20}, "instances": [entry]}
    _, masks = run({"a.png.json": content})
    assert (masks[0][1] == hole).all()


@pytest.mark.parametrize("name", ["a.png___pixel.json", "a.png.json"])
def test_superannotate_pixels(run, tmp_path, name):
    """Parts of an instance are colors; a part of no pixel is nothing, an instance of no pixel is reported."""
    colors = np.zeros((*SIZE, 3), np.uint8)
    for box, color in (((1, 1, 5, 5), (1, 2, 3)), ((8, 1, 12, 5), (0, 2, 3)), ((20, 9, 25, 15), (255, 0, 10))):
        colors[rectangle(*box)] = color
    Image.fromarray(colors).save(tmp_path / "a.png___save.png")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png___fuse.png")  # the colors of the classes, not needed

    def instance(label, *found):
        return {"className": label, "visible": True, "parts": [{"color": color} for color in found]}

    entries = [
        instance("cat", "#010203", "#000203", "#00FF00"), instance("dog", "#FF000a"), instance("bird", "#00FFFF"),
        instance("cow", "red"),
    ]  # fmt: skip
    old = [*entries, {"type": "meta", "name": "a.png", "width": 30, "height": 20}]
    for content in ({"metadata": {"name": "a.png"}, "instances": entries, "tags": [], "comments": []}, old):
        result, masks = run({name: content})
        assert result.format == "superannotate"
        assert [label for label, _, _ in masks] == ["cat", "dog"]
        assert (masks[0][1] == (rectangle(1, 1, 5, 5) | rectangle(8, 1, 12, 5))).all()
        assert (masks[1][1] == rectangle(20, 9, 25, 15)).all()
        texts = sorted(str(fault) for fault in result.faults)
        assert len(texts) == 2 and "(bird) covers no pixel" in texts[0] and "'red', not '#rrggbb'" in texts[1]


def test_superannotate_lists_of_polygons(run):
    polygon = {"type": "polygon", "className": "cat", "points": sum(corners(3, 4, 9, 12), []), "groupId": 0}
    content = [polygon, {"type": "meta", "name": "a.png", "width": 30, "height": 20}]
    result, masks = run({"a.png___objects.json": content})
    assert result.format == "superannotate" and result.faults == []
    assert (masks[0][1] == rectangle(3, 4, 9, 12)).all()


@pytest.mark.parametrize("form", ["complex_polygon of paths", "complex_polygon", "additional_paths", "paths"])
def test_darwin_holes_of_both_versions(run, form):
    """Rims are drawn: the outer rim belongs to the object, and the rim of the hole too."""
    outer, inner = ([{"x": x, "y": y} for x, y in corners(*box)] for box in ((3, 4, 18, 17), (8, 8, 12, 12)))
    more = {"path": outer, "additional_paths": [inner]}
    part = {
        "complex_polygon of paths": {"complex_polygon": {"path": [outer, inner]}},
        "complex_polygon": {"complex_polygon": more}, "additional_paths": {"polygon": more},
        "paths": {"polygon": {"paths": [outer, inner]}},
    }[form]  # fmt: skip
    image = {"filename": "a.png", "width": 30, "height": 20}
    head = {"image": image} if form != "paths" else {"item": {"name": "a.png", "slots": [image]}}
    result, masks = run({"a.json": {**head, "annotations": [{"name": "ring", "bounding_box": {}, **part}]}})
    assert result.format == "darwin" and result.faults == []
    assert (masks[0][1] == (rectangle(3, 4, 19, 18) & ~rectangle(9, 9, 12, 12))).all()


def test_darwin_1_boxes_lines_and_videos(run):
    image = {"filename": "a.png", "width": 30, "height": 20}
    annotations = [
        {"name": "box", "bounding_box": {"x": 3, "y": 4, "w": 6, "h": 8}},
        {"name": "lane", "line": {"path": [{"x": 1, "y": 1}, {"x": 5, "y": 5}]}},
    ]
    result, masks = run({
        "a.json": {"image": image, "annotations": annotations},
        "b.json": {"image": {**image, "filename": "b.mp4"}, "annotations": [{"name": "box", "frames": {}}]},
    })  # fmt: skip
    assert [(label, (mask == rectangle(3, 4, 9, 12)).all()) for label, mask, _ in masks] == [("box", True)]
    assert ["of a video" in str(fault) for fault in result.faults] == [True]


def test_supervisely_holes_with_their_rim(run):
    """Vertices are pixels: the outer rim belongs to the object, the rim of the hole to the hole."""
    points = {"exterior": corners(3, 4, 18, 17), "interior": [corners(8, 8, 11, 11)]}
    entry = {"classTitle": "ring", "geometryType": "polygon", "points": points}
    files = {
        "meta.json": {"classes": [{"title": "ring", "shape": "polygon", "color": "#010203"}]},
        "ann/a.png.json": {"size": {"height": 20, "width": 30}, "objects": [entry]},
    }
    _, masks = run(files)
    assert (masks[0][1] == (rectangle(3, 4, 19, 18) & ~rectangle(8, 8, 12, 12))).all()


def test_isat_background_cuts_a_hole_at_its_layer(run):
    def item(category, ring, layer, group=1):
        return {"category": category, "group": group, "segmentation": ring, "layer": layer, "iscrowd": 0}

    objects = [
        item("cup", corners(2, 2, 17, 17), 2.0), item("__background__", corners(5, 5, 9, 9), 3.0, 0),
        item("spoon", corners(7, 7, 12, 12), 4.0, 2),
    ]  # fmt: skip
    result, _ = run({"a.json": {"info": {"name": "a.png", "width": 30, "height": 20}, "objects": objects}})
    content = json.loads((Path(result.output) / "panoptic.json").read_text())
    areas = sorted(segment["area"] for segment in content["annotations"][0]["segments_info"])
    # the spoon is whole, 6 x 6; the cup, 16 x 16, loses the spoon and the hole, 5 x 5, of which the spoon covers 3 x 3
    assert areas == [36, 256 - 36 - (25 - 9)]


def test_cvat_groups_turned_boxes_and_crowds_of_its_coco_export(run):
    xml = (
        '<annotations><version>1.1</version><image id="0" name="a.png" width="30" height="20">'
        '<polygon label="car" points="1,1;5,1;5,5;1,5" group_id="3"/><polygon label="car" points="9,1;12,1;12,5;9,5" '
        'group_id="3"/><polygon label="car" points="1,9;5,9;5,12;1,12" group_id="0"/>'
        '<box label="bus" xtl="14" ytl="6" xbr="24" ybr="10" rotation="90"/></image></annotations>'
    )
    _, masks = run({"annotations.xml": xml})
    assert [(label, int(mask.sum())) for label, mask, _ in masks] == [("car", 28), ("car", 12), ("bus", 40)]
    assert (masks[2][1] == rectangle(17, 3, 21, 13)).all()


def test_lvis_names_images_by_url(run):
    image = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/a.png", "width": 30, "height": 20}
    entry = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [[3, 4, 9, 4, 9, 12, 3, 12]],
        "bbox": [3, 4, 6, 8],
    }
    categories = [{"id": 1, "name": "cat", "synset": "cat.n.01", "frequency": "f"}]
    result, masks = run({"lvis_v1_val.json": {"images": [image], "annotations": [entry], "categories": categories}})
    assert result.faults == [] and (masks[0][1] == rectangle(3, 4, 9, 12)).all()


@pytest.mark.parametrize("by_cvat", [False, True])
def test_masks_with_iscrowd_by_cvat_are_objects(run, by_cvat):
    mask = rectangle(2, 3, 8, 9)
    counts = np.diff(np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=0)), prepend=0).tolist()
    counts.append(mask.size - sum(counts))
    entry = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "iscrowd": 1,
        "segmentation": {"size": list(SIZE), "counts": counts},
    }
    if by_cvat:
        entry["attributes"] = {"occluded": False}
    images = [{"id": 1, "file_name": "images\\a.png", "width": 30, "height": 20}]
    _, masks = run({"c.json": {"images": images, "annotations": [entry], "categories": [{"id": 1, "name": "x"}]}})
    assert (masks[0][1] == mask).all() and masks[0][2] == int(not by_cvat)


def test_yolo_variants(run):
    text = "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n1 0.5 0.5 0.2 0.2\n\n"
    files = {"labels/a.txt": text, "classes.txt": "cat\ndog\n"}
    result, masks = run(files)
    assert [label for label, _, _ in masks] == ["cat"] and (masks[0][1] == rectangle(3, 4, 15, 12)).all()
    result, masks = run(files, boxes="mask")
    assert [label for label, _, _ in masks] == ["cat", "dog"] and (masks[1][1] == rectangle(12, 8, 18, 12)).all()


@pytest.mark.parametrize("yaml, expected", [
    ("path: C:\\\\data\ntrain: images/first\nval: images/second", ("train", "val", "train")),
    ("path: /data/mine\ntrain: [images/first, images/third]\nval: [images/second]", ("train", "val", "train")),
    ("train: /home/me/images/second\nval: ../images/first\ntest: images/third", ("val", "train", "test")),
    ("path: .\ntrain: lists/one.txt\nval: lists/two.txt\ntest:", ("train", "val", "train")),
    ("train: images/first\nval: images/first\ntest: nowhere", ("", "", "")),  # one folder for both: no split to keep
    ("train: 3\nval: {a: 1}", ("", "", "")),
])  # fmt: skip
def test_yolo_splits_of_the_yaml(run, tmp_path, yaml, expected):
    files = {"data.yaml": yaml + "\nnames: {0: cat}\n"}
    for k, folder in enumerate(("first", "second", "third")):
        files[f"labels/{folder}/{k}.txt"] = "0 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6"
        (tmp_path / "images" / folder).mkdir(parents=True)
        Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / folder / f"{k}.jpg")
    files |= {
        "lists/one.txt": "./images/first/0.jpg\n/data/images/third/2.jpg\n\n",
        "lists/two.txt": "images/second/1.jpg",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    result = import_annotations(tmp_path, tmp_path / "out", workers=1)
    assert result.faults == []
    for k, split in enumerate(expected):
        assert (tmp_path / "out" / split / "images" / f"{k}.jpg").exists(), k


@pytest.mark.parametrize("head", ["", "data:image/png;base64,"])
def test_labelme_image_in_the_file_alone(run, tmp_path, head):
    """Labelme 2 wrote shapes without a type; other tools break lines or write a data URL."""
    shapes = [{"label": "cat", "line_color": None, "fill_color": None, "points": corners(3, 4, 9, 12)}]
    data = head + base64.encodebytes(png_bytes(np.zeros((*SIZE, 3), np.uint8))).decode()
    content = {"lineColor": [0, 255, 0, 128], "shapes": shapes, "imagePath": "gone.png", "imageData": data}
    result, masks = run({"some.json": content})
    assert result.faults == [] and (masks[0][1] == rectangle(3, 4, 10, 13)).all()


def test_labelme_without_sizes_paths_or_types(run):
    shapes = [
        {"label": "cat", "points": corners(3, 4, 9, 12)},
        {"label": "dog", "points": corners(12, 4, 15, 12), "shape_type": "rotation", "direction": 0.0},
        {"label": "dog", "points": [[1, 1], [2, 2]], "shape_type": "line"},
    ]
    _, masks = run({"a.json": {"shapes": shapes, "imagePath": "C:\\Users\\me\\a.png", "imageData": None}})
    assert [label for label, _, _ in masks] == ["cat", "dog"]
    assert (masks[0][1] == rectangle(3, 4, 10, 13)).all()


def test_the_options_of_the_first_import_again(tmp_path):
    """The PNGs of the second import are replaced, although the journal has records of the same files and options."""
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "a.png")
    shapes = [{"label": n, "shape_type": "polygon", "points": corners(3, 4, 9 + k, 12)} for k, n in enumerate("xyz")]
    content = {"imagePath": "a.png", "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    (tmp_path / "a.json").write_text(json.dumps({**content, "shapes": shapes}))

    def files_of(order, output="out"):
        import_annotations(tmp_path, tmp_path / output, workers=1, order=order)
        return [(tmp_path / output / name).read_bytes() for name in ("panoptic/a.png", "panoptic.json")]

    first, second = files_of("annotation"), files_of("smaller-in-front")
    assert first[0] != second[0]
    assert files_of("annotation") == first == files_of("annotation", "new")
    assert files_of("smaller-in-front") == second
    assert import_annotations(tmp_path, tmp_path / "out", workers=1, order="smaller-in-front").painted == 0


def test_an_item_that_comes_back_after_another_had_its_name(tmp_path):
    for folder in "12":
        (tmp_path / folder).mkdir()
        Image.new("RGB", SIZE[::-1]).save(tmp_path / folder / "a.png")
        shape = {"label": "cat", "shape_type": "polygon", "points": corners(3, 4, 9, 5 + 4 * int(folder))}
        content = {"imagePath": "a.png", "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (tmp_path / folder / "a.json").write_text(json.dumps({**content, "shapes": [shape]}))

    def png(hidden, output="out"):
        (tmp_path / hidden).rename(tmp_path / f".{hidden}")
        import_annotations(tmp_path, tmp_path / output, workers=1, copy_images=True)
        (tmp_path / f".{hidden}").rename(tmp_path / hidden)
        return (tmp_path / output / "panoptic" / "a.png").read_bytes()

    first, second = png("2"), png("1")
    assert first != second and png("2") == first and png("1") == second


def test_the_report_has_one_line_per_class_and_problem(tmp_path):
    shapes = [
        {"label": label, "shape_type": "polygon", "points": corners(3 * i, 4, 3 * i + 2, 12)}
        for i, label in enumerate(["a\nb", "\x1b[31mred", "x" * 300, "cat", ""])
    ]
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "new\nline.png")
    content = {"imagePath": "new\nline.png", "imageData": None, "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    (tmp_path / "new\nline.json").write_text(json.dumps({**content, "shapes": shapes}))
    result = import_annotations(tmp_path, tmp_path / "out", workers=1)
    lines = format_result(result).split("\n")
    assert sum(line.startswith("  thing  ") for line in lines) == 4 and sum("new line.json: " in x for x in lines) == 1
    assert "  thing  \\x1b[31mred" in "\n".join(lines) and "\x1b" not in "\n".join(lines)
    assert len(next(line for line in lines if "  cat  " in line)) < 150
    problems = (tmp_path / "out" / "problems.txt").read_text().splitlines()
    assert len(problems) == 1 and "new line.json: shapes[4]" in problems[0]


# -- files that are no files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.json", "a.png", "b.json"])
def test_a_named_pipe_is_named_and_never_read(tmp_path, name):
    """Reading one would wait for a writer forever."""
    shape = {"label": "cat", "shape_type": "polygon", "points": corners(3, 4, 9, 12)}
    for stem in ("a", "b", "c"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"{stem}.png")
        content = {"imagePath": f"{stem}.png", "imageData": None, "shapes": [shape]}
        content |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (tmp_path / f"{stem}.json").write_text(json.dumps(content))
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with alarm():
        result = import_annotations(tmp_path, tmp_path / "out", workers=1)
    named = [str(fault) for fault in result.faults]
    assert result.painted == 2 and len(named) == 1 and f"{name}: it is a named pipe, not a file" in named[0]


def test_a_map_that_is_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "map.png")
    with alarm(), pytest.raises(DatasetError, match=r"map\.png: it is a named pipe, not a file"):
        read_map(str(tmp_path / "map.png"))


@contextlib.contextmanager
def alarm(seconds=20):
    """Ends the test process if its block waits forever."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
