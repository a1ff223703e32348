"""Writers of annotation formats, by hand from their descriptions, for scenes of `polygon_scenes`.

Each takes a folder and scenes. `WRITERS` says for each the share of pixels that an import must restore.
"""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from polygon_scenes import Object, TrueScene, outline, pixel_outline, save_image

NAMES = [
    "sidewalk",
    "Himmel über uns",
    "building",
    "road",
    "vegetation",
    "fence",
    "bus",
    "汽车",
    "person",
    "sign",
    "tie",
]
NAMES += [
    "bicycle",
    "train",
    "rider",
    "truck",
    "dog",
    "pole",
    "stop sign",
    "motorcycle",
    "terrain",
    "wall",
    "tram",
    "bin",
]


def labels_of(scenes: list[TrueScene]) -> list[str]:
    found = {item.label for scene in scenes for item in scene.objects}
    return sorted(found, key=lambda name: (NAMES.index(name) if name in NAMES else 99, name))


def things_of(scenes: list[TrueScene]) -> list[str]:
    return sorted({item.label for scene in scenes for item in scene.objects if item.isthing})


def name_of(index: int) -> str:
    return f"picture {index:02d}"


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def column_counts(mask: np.ndarray) -> list[int]:
    return row_counts(mask.T)


def row_counts(mask: np.ndarray) -> list[int]:
    """Lengths of runs of 0, 1, 0 ... along the rows."""
    counts, value = [0], False
    for pixel in mask.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return counts


def png_bytes(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(array) if mode is None else Image.fromarray(array).convert(mode)).save(buffer, "PNG")
    return buffer.getvalue()


def save_map(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1] + 1), int(rows[-1] + 1)


def pieces(scene: TrueScene) -> list[tuple[int, Object, np.ndarray]]:
    """Number of the object from 1, the object, and one of its parts without holes."""
    return [(n, item, part) for n, item in enumerate(scene.objects, start=1) for part in item.parts]


def class_map(scene: TrueScene, labels: list[str]) -> np.ndarray:
    """(H, W) uint8: 1 + the index of the class, 0 is void."""
    values = np.array([0] + [labels.index(item.label) + 1 for item in scene.objects], np.uint8)
    return values[scene.truth()]


# -- COCO and its kin ------------------------------------------------------------------------------------------------


def coco(kind: str, folder: str = "images", file: str = "annotations.json") -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        labels = labels_of(scenes)
        images, annotations = [], []
        for index, scene in enumerate(scenes):
            save_image(scene, root / folder / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            images.append({"id": 7 * index, "file_name": f"{name_of(index)}.jpg", "height": height, "width": width})
            for item in reversed(scene.objects):  # the format has no order
                if kind == "polygons":
                    segmentation = [[v for point in outline(part) for v in point] for part in item.parts]
                else:
                    segmentation = {"size": [height, width], "counts": column_counts(item.mask)}
                annotations.append(
                    {
                        "id": len(annotations), "image_id": 7 * index, "category_id": 3 * labels.index(item.label) + 1,
                        "segmentation": segmentation, "iscrowd": 0, "area": int(item.mask.sum()),
                    }
                )  # fmt: skip
        categories = [{"id": 3 * i + 1, "name": name, "supercategory": "all"} for i, name in enumerate(labels)]
        dump(root / file, {"images": images, "annotations": annotations, "categories": categories})

    return write


def roboflow(root: Path, scenes: list[TrueScene]) -> None:
    for folder, part in (("train", scenes[:-2]), ("valid", scenes[-2:-1]), ("test", scenes[-1:])):
        coco("polygons", ".", "_annotations.coco.json")(root / folder, part)


def coco_with_maps(root: Path, scenes: list[TrueScene]) -> None:
    labels, things = labels_of(scenes), things_of(scenes)
    only = [TrueScene(scene.image, [item for item in scene.objects if item.isthing]) for scene in scenes]
    coco("polygons")(root, only)
    content = json.loads((root / "annotations.json").read_text())
    offset = 100
    for index, scene in enumerate(scenes):
        values = class_map(scene, labels).astype(int)
        known = {labels.index(c["name"]) + 1: c["id"] for c in content["categories"]}
        table = np.array([255] + [known.get(v, v + offset) for v in range(1, len(labels) + 1)], np.uint8)
        save_map(table[values], root / "semantic" / f"{name_of(index)}.png")
    lines = [f"{i + 1 + offset}: {name}" for i, name in enumerate(labels) if name not in things]
    (root / "labels.txt").write_text("\n".join(lines), encoding="utf-8")


def coco_panoptic(root: Path, scenes: list[TrueScene]) -> None:
    labels, things = labels_of(scenes), things_of(scenes)
    images, annotations = [], []
    for index, scene in enumerate(scenes):
        save_image(scene, root / "images" / f"{name_of(index)}.jpg")
        height, width = scene.image.shape[:2]
        ids = scene.truth() * 4099  # more than one byte
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        save_map(rgb, root / "masks" / f"{name_of(index)}.png")
        images.append({"id": index, "file_name": f"{name_of(index)}.jpg", "height": height, "width": width})
        segments = [
            {"id": n * 4099, "category_id": labels.index(item.label), "iscrowd": 0, "area": 3, "bbox": []}
            for n, item in enumerate(scene.objects, start=1)
        ]
        annotations.append({"image_id": index, "file_name": f"{name_of(index)}.png", "segments_info": segments})
    categories = [{"id": i, "name": name, "isthing": int(name in things)} for i, name in enumerate(labels)]
    dump(root / "panoptic.json", {"images": images, "annotations": annotations, "categories": categories})


def sa1b(root: Path, scenes: list[TrueScene]) -> None:
    for index, scene in enumerate(scenes):
        save_image(scene, root / f"{name_of(index)}.jpg")
        height, width = scene.image.shape[:2]
        image = {"image_id": index, "width": width, "height": height, "file_name": f"{name_of(index)}.jpg"}
        entries = [
            {"id": k, "segmentation": {"size": [height, width], "counts": column_counts(item.mask)}}
            for k, item in enumerate(scene.objects)
        ]
        dump(root / f"{name_of(index)}.json", {"image": image, "annotations": entries})


# -- one file per image ----------------------------------------------------------------------------------------------


def labelme(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        for index, scene in enumerate(scenes):
            save_image(scene, root / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            shapes = []
            for number, item, part in pieces(scene):
                shape = {"label": item.label, "group_id": number, "shape_type": kind, "flags": {}}
                if kind == "mask":
                    x0, y0, x1, y1 = box_of(part)
                    data = png_bytes(part[y0:y1, x0:x1].astype(np.uint8))
                    shape |= {"points": [[x0, y0], [x1 - 1, y1 - 1]], "mask": base64.b64encode(data).decode()}
                else:
                    shape["points"] = pixel_outline(part)
                shapes.append(shape)
            content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{name_of(index)}.jpg"}
            sizes = {"imageHeight": height, "imageWidth": width}
            dump(root / f"{name_of(index)}.json", {**content, "imageData": None, **sizes})

    return write


def isat(root: Path, scenes: list[TrueScene]) -> None:
    for index, scene in enumerate(scenes):
        save_image(scene, root / f"{name_of(index)}.jpg")
        height, width = scene.image.shape[:2]
        info = {"description": "ISAT", "folder": "/elsewhere", "name": f"{name_of(index)}.jpg"}
        objects = [
            {
                "category": item.label, "group": number, "segmentation": pixel_outline(part), "layer": float(k),
                "area": 1.0, "bbox": [0, 0, 1, 1], "iscrowd": False, "note": "",
            }
            for k, (number, item, part) in enumerate(pieces(scene))
        ]  # fmt: skip
        info |= {"width": width, "height": height, "depth": 3, "note": ""}
        dump(root / f"{name_of(index)}.json", {"info": info, "objects": objects[::-1]})


def supervisely(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        classes = [{"title": name, "shape": kind, "color": "#0A0B0C"} for name in labels_of(scenes)]
        dump(root / "meta.json", {"classes": classes, "tags": [], "projectType": "images"})
        for index, scene in enumerate(scenes):
            save_image(scene, root / "ds" / "img" / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            objects = []
            for _, item, part in pieces(scene):
                entry: dict[str, Any] = {"classTitle": item.label, "geometryType": kind}
                if kind == "bitmap":
                    x0, y0, x1, y1 = box_of(part)
                    data = zlib.compress(png_bytes(part[y0:y1, x0:x1].astype(np.uint8) * 255))
                    entry["bitmap"] = {"data": base64.b64encode(data).decode(), "origin": [x0, y0]}
                else:
                    entry["points"] = {"exterior": pixel_outline(part), "interior": []}
                objects.append(entry)
            content = {"description": "", "tags": [], "size": {"height": height, "width": width}, "objects": objects}
            dump(root / "ds" / "ann" / f"{name_of(index)}.jpg.json", content)

    return write


def superannotate(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        classes = [{"id": i, "name": name, "color": "#010203"} for i, name in enumerate(labels_of(scenes))]
        dump(root / "classes" / "classes.json", classes)
        for index, scene in enumerate(scenes):
            save_image(scene, root / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            common = {"probability": 100, "attributes": []}
            instances: list[dict[str, Any]] = [
                {
                    "type": "polygon", "className": item.label, "groupId": number, **common,
                    "points": [v for point in outline(part) for v in point],
                }
                for number, item, part in pieces(scene)
            ]  # fmt: skip
            meta = {"name": f"{name_of(index)}.jpg", "width": width, "height": height, "status": "Completed"}
            if kind == "pixel":  # hidden objects keep their entry in no file: the map has no pixel of them
                truth = scene.truth()
                instances = [
                    {"className": item.label, **common, "parts": [{"color": f"#0002{number:02X}"}]}
                    for number, item in enumerate(scene.objects, start=1)
                    if (truth == number).any()
                ]
                colors = np.stack([np.zeros_like(truth), np.where(truth > 0, 2, 0), truth, np.where(truth, 255, 0)], -1)
                Image.fromarray(colors.astype(np.uint8)).save(root / f"{name_of(index)}.jpg___save.png")
                meta = {"name": f"{name_of(index)}.jpg"}
            content = {"metadata": meta, "comments": [], "tags": [], "instances": instances}
            dump(root / f"{name_of(index)}.jpg___{'pixel' if kind == 'pixel' else 'objects'}.json", content)

    return write


def darwin(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        for index, scene in enumerate(scenes):
            save_image(scene, root / "images" / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            slot = {"type": "image", "slot_name": "0", "width": width, "height": height}
            annotations: list[dict[str, Any]] = []
            if kind == "raster":
                runs: list[int] = []
                for value in scene.truth().ravel().tolist():
                    if runs and runs[-2] == value:
                        runs[-1] += 1
                    else:
                        runs += [value, 1]
                mapping = {f"mask-{n}": n for n in range(1, len(scene.objects) + 1)}
                layer = {"dense_rle": runs, "mask_annotation_ids_mapping": mapping, "total_pixels": height * width}
                annotations.append({"id": "layer", "name": "__raster_layer__", "raster_layer": layer})
                annotations += [
                    {"id": f"mask-{n}", "name": item.label, "mask": {}} for n, item in enumerate(scene.objects, start=1)
                ]
            else:
                for number, item in enumerate(scene.objects):
                    paths = [[{"x": x, "y": y} for x, y in pixel_outline(part)] for part in item.parts]
                    annotations.append({"id": str(number), "name": item.label, "polygon": {"paths": paths}})
            name = f"{name_of(index)}.jpg"
            content: dict[str, Any] = {"version": "2.0", "item": {"name": name, "path": "/", "slots": [slot]}}
            if kind == "version 1":
                image = {"filename": name, "original_filename": name, "path": "/", "width": width, "height": height}
                content = {"dataset": "scenes", "image": image}
                annotations = list(map(in_version_1, annotations))
            dump(root / f"{name_of(index)}.json", {**content, "annotations": annotations})

    return write


def in_version_1(annotation: dict[str, Any]) -> dict[str, Any]:
    path, *more = annotation.pop("polygon")["paths"]
    if len(more) == 1:  # of the two forms of several paths, one for two paths and one for more
        return {**annotation, "complex_polygon": {"path": [path, *more]}}
    return {**annotation, "polygon": {"path": path, "additional_paths": more} if more else {"path": path}}


def labelme_web(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        for index, scene in enumerate(scenes):
            save_image(scene, root / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            text = f"<annotation><filename>{name_of(index)}.jpg</filename><folder></folder>"
            text += f"<imagesize><nrows>{height}</nrows><ncols>{width}</ncols></imagesize>"
            for number, (_, item, part) in enumerate(pieces(scene)):
                text += f"<object><name>{item.label}</name><deleted>0</deleted><id>{number}</id>"
                if kind == "mask":
                    name = f"{name_of(index)}_mask_{number}.png"
                    rgba = np.zeros((height, width, 4), np.uint8)
                    rgba[part] = 0, 9, 9, 150
                    save_map(rgba, root / "Masks" / name)
                    text += f"<segm><mask>{name}</mask></segm>"
                else:
                    points = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in outline(part))
                    text += f"<polygon>{points}<username>a</username></polygon>"
                text += "</object>"
            (root / f"{name_of(index)}.xml").write_text(text + "</annotation>", encoding="utf-8")

    return write


def yolo(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    for index, scene in enumerate(scenes):
        split = ("train", "val")[index == len(scenes) - 1]
        save_image(scene, root / "images" / split / f"{name_of(index)}.jpg")
        height, width = scene.image.shape[:2]
        lines = []
        for _, item, part in reversed(pieces(scene)):
            points = " ".join(f"{x / width!r} {y / height!r}" for x, y in outline(part))
            lines.append(f"{labels.index(item.label)} {points}")
        path = root / "labels" / split / f"{name_of(index)}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    dump(root / "data.yaml", {"path": "/gone", "train": "images/train", "names": dict(enumerate(labels))})


# -- one file for all images -----------------------------------------------------------------------------------------


def cvat(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        labels = "".join(f"<label><name>{n}</name><color>#0a141e</color></label>" for n in labels_of(scenes))
        text = f"<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
        for index, scene in enumerate(scenes):
            save_image(scene, root / "images" / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            text += f'<image id="{index}" name="{name_of(index)}.jpg" width="{width}" height="{height}">'
            elements = []
            for number, item, part in pieces(scene):
                common = f'label={quoteattr(item.label)} z_order="{number}" group_id="{number}"'
                if kind == "mask":
                    x0, y0, x1, y1 = box_of(part)
                    counts = ", ".join(map(str, row_counts(part[y0:y1, x0:x1])))
                    box = f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"'
                    elements.append(f'<mask {common} rle="{counts}" {box}></mask>')
                else:
                    points = ";".join(f"{x}.00,{y}.00" for x, y in outline(part))
                    elements.append(f'<polygon {common} points="{points}"></polygon>')
            text += "".join(reversed(elements)) + "</image>"
        (root / "annotations.xml").write_text(text + "</annotations>", encoding="utf-8")

    return write


def cvat_video(root: Path, scenes: list[TrueScene]) -> None:
    height, width = scenes[0].image.shape[:2]
    size = f"<original_size><width>{width}</width><height>{height}</height></original_size>"
    text = f"<annotations><version>1.1</version><meta><task>{size}</task></meta>"
    number = 0
    for index, scene in enumerate(scenes):
        frame = 10 + 3 * index
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(root / "images" / f"frame_{frame:06d}.png")
        for order, item in enumerate(scene.objects):
            for part in item.parts:
                points = ";".join(f"{x},{y}" for x, y in outline(part))
                text += f'<track id="{number}" label={quoteattr(item.label)}>'
                for at, outside in ((frame, 0), (frame + 3, 1)):
                    text += f'<polygon frame="{at}" outside="{outside}" points="{points}" z_order="{order}"></polygon>'
                text += "</track>"
                number += 1
    Image.fromarray(scenes[0].image).save(root / "images" / f"frame_{10 + 3 * len(scenes):06d}.png")  # all is outside
    (root / "annotations.xml").write_text(text + "</annotations>", encoding="utf-8")


def label_studio(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        tasks = []
        for index, scene in enumerate(scenes):
            save_image(scene, root / "images" / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            results = []
            for number, (_, item, part) in enumerate(pieces(scene)):
                key = f"{kind}labels"
                value: dict[str, Any] = {key: [item.label]}
                if kind == "brush":
                    value |= {"format": "rle", "rle": brush_rle(part)}
                elif kind == "bitmask":  # black on transparent
                    pixels = np.zeros((height, width, 4), np.uint8)
                    pixels[part, 3] = 255
                    value["imageDataURL"] = f"data:image/png;base64,{base64.b64encode(png_bytes(pixels)).decode()}"
                else:
                    value["points"] = [[100 * x / width, 100 * y / height] for x, y in outline(part)]
                common = {"original_width": width, "original_height": height, "image_rotation": 0}
                results.append({"id": f"r{number}", "type": key, "value": value, **common})
            upload = f"0a1b2c3d-{name_of(index)}.jpg"
            annotations = [{"id": index, "was_cancelled": False, "result": results}]
            data = {"image": f"/data/upload/1/{upload}"}
            tasks.append({"id": index, "annotations": annotations, "file_upload": upload, "data": data})
        dump(root / "project.json", tasks)

    return write


def brush_rle(mask: np.ndarray) -> list[int]:
    """Label Studio's RLE of RGBA pixels: runs of equal bytes, and, in between, one of unequal bytes."""
    values = (np.repeat(mask.ravel(), 4) * 255).tolist()
    sizes = [3, 4, 8, 16]
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    start, alternate = 0, False
    while start < len(values):
        end = start
        while end < len(values) and values[end] == values[start] and end - start < 2**16:
            end += 1
        if alternate and end + 4 <= len(values):  # a literal run over the border of two runs
            end = min(end + 4, start + 2**16)
            kind = next(k for k, size in enumerate(sizes) if end - start <= 2**size)
            bits += f"0{kind:02b}{end - start - 1:0{sizes[kind]}b}"
            bits += "".join(f"{value:08b}" for value in values[start:end])
        else:
            kind = next(k for k, size in enumerate(sizes) if end - start <= 2**size)
            bits += f"1{kind:02b}{end - start - 1:0{sizes[kind]}b}{values[start]:08b}"
        start, alternate = end, not alternate
    bits += "0" * (-len(bits) % 8)
    return [int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)]


def via(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        images = {}
        for index, scene in enumerate(scenes):
            save_image(scene, root / f"{name_of(index)}.jpg")
            regions = []
            for _, item, part in pieces(scene):
                xs, ys = zip(*outline(part), strict=True)
                shape = {"name": "polygon", "all_points_x": list(xs), "all_points_y": list(ys)}
                regions.append({"shape_attributes": shape, "region_attributes": {"class": item.label, "note": ""}})
            file = f"{name_of(index)}.jpg"
            images[f"{file}123"] = {"filename": file, "size": 123, "regions": regions, "file_attributes": {}}
        if kind == "project":
            dump(root / "via_project.json", {"_via_settings": {}, "_via_img_metadata": images})
        elif kind == "json":
            dump(root / "via_region_data.json", images)
        else:
            columns = (
                "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
            )
            lines = [columns]
            for image in images.values():
                for number, region in enumerate(image["regions"]):
                    texts = [json.dumps(region[key]) for key in ("shape_attributes", "region_attributes")]
                    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
                    lines.append(f'{image["filename"]},1,"{{}}",9,{number},{",".join(quoted)}')
            (root / "via.csv").write_text("\n".join(lines), encoding="utf-8")

    return write


def via_3(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        labels = labels_of(scenes)
        options = {str(number): label for number, label in enumerate(labels)}
        attribute = {
            "1": {"aname": "note", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
            "2": {"aname": "Class", "anchor_id": "FILE1_Z0_XY1", "type": 4, "options": options},
        }
        files, views, metadata = {}, {}, {}
        rows = [f"# ATTRIBUTE = {json.dumps(attribute)}"]
        rows += ["# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata"]
        for index, scene in enumerate(scenes):
            name = f"{name_of(index)}.jpg"
            save_image(scene, root / name)
            key = str(index + 1)
            files[key] = {"fid": index + 1, "fname": name, "type": 2, "loc": 3, "src": f"/home/me/pictures/{name}"}
            views[key] = {"fid_list": [index + 1]}
            for number, (_, item, part) in enumerate(pieces(scene)):
                xy = [7, *(v for point in outline(part) for v in point)]
                av = {"1": "", "2": str(labels.index(item.label))}
                metadata[f"{key}_{number:08d}"] = {"vid": key, "flg": 0, "z": [], "xy": xy, "av": av}
                cells = [f"{key}_{number:08d}", json.dumps([name]), 0, "[]", json.dumps(xy), json.dumps(av)]
                rows.append(",".join('"' + str(cell).replace('"', '""') + '"' for cell in cells))
        if kind == "csv":
            (root / "via.csv").write_text("\n".join(rows), encoding="utf-8")
            return
        project = {"pid": "__VIA_PROJECT_ID__", "pname": "scenes", "vid_list": list(views)}
        config = {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}, "ui": {}}
        parts = {"project": project, "config": config, "attribute": attribute, "file": files}
        dump(root / "via_project.json", {**parts, "view": views, "metadata": metadata})

    return write


def labelbox(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        rows = []
        for index, scene in enumerate(scenes):
            name = f"{name_of(index)}.jpg"
            save_image(scene, root / name)
            height, width = scene.image.shape[:2]
            objects = [
                {
                    {"list": "title"}.get(kind, "name"): item.label,
                    "polygon": [{"x": x, "y": y} for x, y in outline(part)],
                }
                for _, item, part in pieces(scene)
            ]
            if kind == "list":
                rows.append(
                    {"ID": str(index), "External ID": name, "Label": {"objects": objects, "classifications": []}}
                )
            else:
                labels = [{"annotations": {"objects": objects}}]
                media = {"height": height, "width": width}
                row = {"data_row": {"id": str(index), "external_id": name}, "media_attributes": media}
                rows.append({**row, "projects": {"p": {"labels": labels}}})
        if kind == "list":
            dump(root / "export.json", rows)
        else:
            (root / "export.ndjson").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")

    return write


def scalabel(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        frames = []
        for index, scene in enumerate(scenes):
            save_image(scene, root / "images" / f"{name_of(index)}.jpg")
            height, width = scene.image.shape[:2]
            labels = []
            for number, item in enumerate(scene.objects):
                label: dict[str, Any] = {"id": str(number), "category": item.label, "attributes": {}}
                if kind == "rle":
                    label["rle"] = {"size": [height, width], "counts": column_counts(item.mask)}
                else:
                    rings = [outline(part) for part in item.parts]
                    label["poly2d"] = [{"vertices": r, "types": "L" * len(r), "closed": True} for r in rings]
                labels.append(label)
            frames.append({"name": f"{name_of(index)}.jpg", "labels": labels})
        size = {"width": scenes[0].image.shape[1], "height": scenes[0].image.shape[0]}
        dump(root / "labels.json", frames if kind == "rle" else {"frames": frames, "config": {"imageSize": size}})

    return write


# -- maps ------------------------------------------------------------------------------------------------------------


def voc(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        labels = labels_of(scenes)
        colors = np.array([[0, 0, 0]] + [[40 + 9 * i, 7 * i, 255 - 5 * i] for i in range(len(labels))], np.uint8)
        lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
        lines += [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(labels, colors[1:].tolist(), strict=True)]
        (root / "labelmap.txt").write_text("\n".join(lines), encoding="utf-8")
        for index, scene in enumerate(scenes):
            save_image(scene, root / "JPEGImages" / f"{name_of(index)}.jpg")
            classes = class_map(scene, labels)
            objects = np.array([0] + [n if item.isthing else 0 for n, item in enumerate(scene.objects, start=1)])
            ids = objects[scene.truth()].astype(np.uint8)
            for folder, values in (("SegmentationClass", classes), ("SegmentationObject", ids)):
                path = root / folder / f"{name_of(index)}.png"
                if kind == "colors":
                    table = colors if folder.endswith("Class") else (np.arange(256)[:, None] * [3, 5, 7] % 256)
                    save_map(table[values].astype(np.uint8), path)
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    image = Image.fromarray(values)
                    image.putpalette(colors.ravel().tolist())
                    image.save(path)
        sets = root / "ImageSets" / "Segmentation"
        sets.mkdir(parents=True)
        (sets / "train.txt").write_text("\n".join(name_of(i) for i in range(len(scenes) - 1)))
        (sets / "val.txt").write_text(name_of(len(scenes) - 1))

    return write


def instance_ids(scene: TrueScene, labels: list[str], factor: int, groups: bool) -> np.ndarray:
    """class * factor + instance; stuff has instance 0, or, with `groups`, its class alone."""
    values, counts = [0], dict.fromkeys(labels, 0)
    for item in scene.objects:
        number = labels.index(item.label) + 1
        counts[item.label] += 1
        if item.isthing:
            values.append(number * factor + counts[item.label])
        else:
            values.append(number if groups else number * factor)
    return np.array(values, np.uint16)[scene.truth()]


def cityscapes(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    dump(root / "labels.json", [{"id": i + 1, "name": name} for i, name in enumerate(labels)])
    for index, scene in enumerate(scenes):
        split = ("train", "val")[index == len(scenes) - 1]
        stem = f"town_{index:06d}_000019"
        path = root / "leftImg8bit" / split / "town" / f"{stem}_leftImg8bit.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
        ids = instance_ids(scene, labels, 1000, True)
        save_map(ids, root / "gtFine" / split / "town" / f"{stem}_gtFine_instanceIds.png")


def kitti(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    (root / "labels.txt").write_text("\n".join(f"{i + 1} {name}" for i, name in enumerate(labels)), encoding="utf-8")
    for index, scene in enumerate(scenes):
        path = root / "training" / "image_2" / f"{index:06d}_10.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
        ids = instance_ids(scene, labels, 256, False)
        save_map(ids, root / "training" / "instance" / f"{index:06d}_10.png")


def mots(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    for index, scene in enumerate(scenes):
        split = ("train", "val")[index == len(scenes) - 1]
        save_image(scene, root / split / "images" / f"{index:06d}.jpg")
        ids = instance_ids(scene, labels, 1000, False)
        save_map(ids, root / split / "instances" / f"{index:06d}.png")
        (root / split / "instances" / "labels.txt").write_text("\n".join(labels), encoding="utf-8")


def instances_and_semantic(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    dump(root / "classes.json", {str(i): name for i, name in enumerate(["background", *labels])})
    for index, scene in enumerate(scenes):
        save_image(scene, root / "images" / f"{name_of(index)}.jpg")
        save_map(class_map(scene, labels), root / "semantic" / f"{name_of(index)}.png")
        ids = np.array([0] + [n if item.isthing else 0 for n, item in enumerate(scene.objects, start=1)], np.uint16)
        save_map(ids[scene.truth()], root / "instances" / f"{name_of(index)}.png")


def semantic(kind: str) -> Callable:
    def write(root: Path, scenes: list[TrueScene]) -> None:
        labels = labels_of(scenes)
        colors = np.array([[0, 0, 0]] + [[40 + 9 * i, 7 * i, 255 - 5 * i] for i in range(len(labels))], np.uint8)
        lines = [
            f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(["background", *labels], colors.tolist(), strict=True)
        ]
        (root / "labelmap.txt").write_text("\n".join(lines), encoding="utf-8")
        for index, scene in enumerate(scenes):
            save_image(scene, root / "images" / f"{name_of(index)}.jpg")
            values = class_map(scene, labels)
            save_map(colors[values] if kind == "colors" else values, root / "masks" / f"{name_of(index)}_mask.png")

    return write


def ade20k(root: Path, scenes: list[TrueScene]) -> None:
    labels = labels_of(scenes)
    for index, scene in enumerate(scenes):
        folder = root / ("training", "validation")[index == len(scenes) - 1] / "street"
        save_image(scene, folder / f"{index}.jpg")
        numbers = np.array([0] + [300 + labels.index(item.label) for item in scene.objects])
        classes = numbers[scene.truth()]
        rgb = np.stack([classes // 256 * 10, classes % 256, scene.truth()], -1).astype(np.uint8)
        save_map(rgb, folder / f"{index}_seg.png")
        objects = [
            {"id": n, "name": f"{item.label}, other name", "name_ndx": 300 + labels.index(item.label),
             "parts": {"part_level": 0}}
            for n, item in enumerate(scene.objects)
        ]  # fmt: skip
        dump(folder / f"{index}.json", {"annotation": {"filename": f"{index}.jpg", "object": objects}})


def binary_masks(root: Path, scenes: list[TrueScene]) -> None:
    for index, scene in enumerate(scenes):
        save_image(scene, root / "images" / f"{index}.jpg")
        for number, item in enumerate(scene.objects):
            path = root / "masks" / f"{index}_{item.label}_{number}.png"
            save_map((item.mask * 255).astype(np.uint8), path)


@dataclass(frozen=True)
class Writer:
    """`least`: the share of pixels that must be restored; `reason` says why it is below 1; `stuff`: whether the format
    tells things from stuff; `semantic`: whether it has no instances; `classes`: whether it has classes."""

    write: Callable[[Path, list[TrueScene]], None]
    format: str
    least: float = 1.0
    reason: str = ""
    says_things: bool = False
    semantic: bool = False
    classes: bool = True
    options: dict[str, Any] = field(default_factory=dict)


RIM = "the tool draws the outline, so that corners between pixels differ"
WRITERS = {
    "coco polygons": Writer(coco("polygons"), "coco"),
    "coco rle": Writer(coco("rle"), "coco"),
    "roboflow": Writer(roboflow, "coco"),
    "coco and semantic maps": Writer(coco_with_maps, "coco"),
    "coco panoptic": Writer(coco_panoptic, "coco-panoptic", says_things=True),
    "sa1b": Writer(sa1b, "sa1b", classes=False),
    "labelme polygons": Writer(labelme("polygon"), "labelme", 0.99, RIM),
    "labelme masks": Writer(labelme("mask"), "labelme"),
    "isat": Writer(isat, "isat", 0.99, RIM),
    "supervisely bitmaps": Writer(supervisely("bitmap"), "supervisely"),
    "supervisely polygons": Writer(supervisely("polygon"), "supervisely", 0.99, RIM),
    "superannotate": Writer(superannotate("vector"), "superannotate"),
    "superannotate pixels": Writer(superannotate("pixel"), "superannotate"),
    "darwin polygons": Writer(darwin("polygon"), "darwin", 0.99, RIM),
    "darwin 1": Writer(darwin("version 1"), "darwin", 0.99, RIM),
    "darwin raster": Writer(darwin("raster"), "darwin"),
    "labelme web polygons": Writer(labelme_web("polygon"), "labelme-web"),
    "labelme web masks": Writer(labelme_web("mask"), "labelme-web"),
    "yolo": Writer(yolo, "yolo"),
    "cvat polygons": Writer(cvat("polygon"), "cvat"),
    "cvat masks": Writer(cvat("mask"), "cvat"),
    "cvat video": Writer(cvat_video, "cvat"),
    "label studio polygons": Writer(label_studio("polygon"), "label-studio"),
    "label studio brush": Writer(label_studio("brush"), "label-studio"),
    "label studio bitmask": Writer(label_studio("bitmask"), "label-studio"),
    "via project": Writer(via("project"), "via"),
    "via json": Writer(via("json"), "via"),
    "via csv": Writer(via("csv"), "via"),
    "via 3 project": Writer(via_3("project"), "via"),
    "via 3 csv": Writer(via_3("csv"), "via"),
    "labelbox list": Writer(labelbox("list"), "labelbox"),
    "labelbox lines": Writer(labelbox("lines"), "labelbox"),
    "scalabel rle": Writer(scalabel("rle"), "scalabel"),
    "scalabel polygons": Writer(scalabel("poly2d"), "scalabel"),
    "voc indices": Writer(voc("indices"), "voc", says_things=True),
    "voc colors": Writer(voc("colors"), "voc", says_things=True),
    "cityscapes": Writer(cityscapes, "instance-masks", says_things=True),
    "kitti": Writer(kitti, "instance-masks"),
    "mots": Writer(mots, "instance-masks"),
    "instances and semantic": Writer(instances_and_semantic, "instance-masks", says_things=True),
    "semantic values": Writer(semantic("values"), "masks", semantic=True),
    "semantic colors": Writer(semantic("colors"), "masks", semantic=True),
    "ade20k": Writer(ade20k, "ade20k"),
    "binary masks": Writer(binary_masks, "binary-masks"),
}
