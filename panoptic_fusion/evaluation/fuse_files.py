"""Fuses the result files of any instance model and any semantic model into COCO panoptic files, image by image.

Each PNG is written atomically, and then a line is appended to `finished.jsonl`. A run with the same arguments resumes
after the last line. Images whose semantic file has changed are fused again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..data.coco_json import images_of, lists_of, load_json
from ..data.journal import append_record, read_records
from ..data.label_space import LabelSpace
from ..errors import UserError, one_line
from ..files import file_state, remove_partial_files, unused_name, write_atomically, write_json
from ..locks import locked_folder
from ..modeling.fusion.rules import RULES
from ..processes import map_in_processes, use_one_thread, with_progress
from .model_outputs import ImageOutputs, decode_outputs, read_results
from .submission import coco_segments, write_panoptic_png


def fuse_files(
    instances: str | os.PathLike,
    semantic: str | os.PathLike,
    images: str | os.PathLike,
    output: str | os.PathLike,
    *,
    categories: str | os.PathLike | None = None,
    rule: str = "heuristic",
    processes: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Fuses two models' result files and writes `output`/panoptic.json and the PNGs in `output`/panoptic.

    If no two semantic masks overlap, the rule "heuristic" produces the same segments as panopticapi's
    combine_semantic_and_instance_predictions.py. Entries that cannot be used and images whose semantic file cannot be
    read are left out and listed in the result.

    Args:
        instances: COCO result JSON: a list of image_id, category_id, score and segmentation (RLE or polygons).
        semantic: COCO result JSON without scores; or folder with one PNG of category ids, or one .npy file of logits,
            per image. See `decode_semantic`. The files are named after the images. Subfolders in these names may be
            left out unless two images have the same name.
        images: JSON with the list `images` (id, file_name, height, width).
        output: folder of the result, new or of an earlier run with the same arguments.
        categories: JSON with the COCO panoptic categories (id, name, isthing): a list, or an object with the list
            `categories`. None: the categories in `images`.
        rule: name of the rule, see `panoptic_fusion.fuse`. "spatial_ranking" requires a number `ranking` per instance.
        processes: number of processes; None: one per CPU core.
        options: options of the rule, see `panoptic_fusion.fuse`.

    Returns:
        {"images": number of fused images, "problems": list of texts}.

    Raises:
        UserError: a file cannot be used at all, an option is invalid, or `output` was written with other arguments.
    """
    if rule not in RULES:
        raise UserError(f"rule is {rule!r}: available: {', '.join(RULES)}")
    values = RULES[rule].read_options(options)  # checks them before long work
    if rule == "upsnet" and not Path(semantic).is_dir():
        raise UserError(f"rule 'upsnet' needs semantic logits, but {semantic} is not a folder of .npy files")
    listed, space, problems = read_images(images, categories)
    settings = {
        "rule": rule,
        "options": values,
        "categories": space.to_categories(),
        "files": [state_of(path) for path in (instances, semantic, images)],
    }
    tasks, lost = make_tasks(instances, semantic, listed)
    problems += lost
    png_root = Path(output) / "panoptic"
    png_root.mkdir(parents=True, exist_ok=True)
    with locked_folder(output, f"the folder {output}"):
        remove_partial_files(png_root)
        finished = _finished_before(Path(output), settings, tasks)
        left = [task for task in tasks if task.image["id"] not in finished]
        one = partial(fuse_image, png_root=str(png_root), space=space, rule=rule, options=options)
        for result in with_progress(map_in_processes(one, left, processes), len(left), "fusing"):
            finished[result["image"]["id"]] = result
            append_record(Path(output) / "finished.jsonl", result)
        results = [finished[task.image["id"]] for task in tasks]
        problems += [problem for result in results for problem in result["problems"]]
        results = [result for result in results if result["annotation"] is not None]
        content = {"images": [r["image"] for r in results], "annotations": [r["annotation"] for r in results]}
        write_json(Path(output) / "panoptic.json", {**content, "categories": space.to_categories()})
    return {"images": len(results), "problems": problems}


def read_images(
    images: str | os.PathLike, categories: str | os.PathLike | None
) -> tuple[dict[Any, dict[str, Any]], LabelSpace, list[str]]:
    """Reads the images and the categories, each file once; see `fuse_files`.

    Returns:
        {image id: its entry}, the classes, and the problems of the images that are left out.

    Raises:
        UserError: a file cannot be read, a category is invalid, or no image remains; the message names the file.
    """
    path = os.fspath(images)
    content = load_json(path)
    space = _classes_of(content, path) if categories is None else read_categories(categories)
    problems: list[str] = []
    listed = images_of(content, path, lambda error: problems.append(str(error)))
    if not listed:
        raise UserError(problems[0] if problems else f"{path}: the list of images is empty")
    return listed, space, problems


def read_categories(path: str | os.PathLike) -> LabelSpace:
    """Reads COCO panoptic categories from a JSON; see `fuse_files` for its content and `read_images` for errors."""
    return _classes_of(load_json(os.fspath(path)), os.fspath(path))


def _classes_of(content: Any, path: str) -> LabelSpace:
    """Returns the classes of a JSON: a list of COCO panoptic categories, or an object with the list `categories`."""
    categories = content if isinstance(content, list) else lists_of(content, path, ("categories",))["categories"]
    try:
        return LabelSpace.from_categories(categories)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def make_tasks(
    instances: str | os.PathLike, semantic: str | os.PathLike, listed: Mapping[Any, Mapping[str, Any]]
) -> tuple[list[ImageOutputs], list[str]]:
    """Pairs the outputs of the two models per image; for arguments and errors see `fuse_files`.

    Args:
        instances, semantic: see `fuse_files`.
        listed: {image id: its entry in the images JSON}.

    Returns:
        One task per image, and the problems of the entries that are left out.
    """
    ids = set(listed)
    by_image, problems = read_results(instances, ids)
    is_folder = Path(semantic).is_dir()
    semantic_by_image, lost = ({}, []) if is_folder else read_results(semantic, ids)
    problems += lost
    stems = Counter(Path(image["file_name"]).stem for image in listed.values())
    used: set[str] = set()
    tasks = []
    for image_id, image in listed.items():
        entry = {key: image[key] for key in ("id", "file_name", "height", "width")}
        stem = Path(image["file_name"]).stem
        source: Sequence[Any] | str = semantic_by_image.get(image_id, [])
        if is_folder:
            source = _semantic_file(Path(semantic), Path(image["file_name"]), stems[stem] == 1)
        tasks.append(ImageOutputs(entry, by_image.get(image_id, []), source, f"{unused_name(stem, used)}.png"))
    return tasks, problems


def _semantic_file(folder: Path, file_name: Path, is_unique: bool) -> str:
    """Returns the path of an image's .npy or PNG; the subfolder of `file_name` is optional if the name is unique."""
    places = [folder / file_name, *([folder / file_name.name] if is_unique else [])]
    files = [place.with_suffix(suffix) for place in places for suffix in (".npy", ".png")]
    return str(next((file for file in files if file.is_file()), files[-1]))


def fuse_image(
    outputs: ImageOutputs, *, png_root: str, space: LabelSpace, rule: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Fuses one image and writes its PNG.

    Returns:
        {"image": entry of the image, "annotation": its entry in COCO panoptic format, or None if it could not be fused,
        "problems": list of texts, "source": state of its semantic file}.
    """
    use_one_thread()
    image, problems, source = outputs.image, [], _semantic_state(outputs)
    try:
        ranked = rule == "spatial_ranking"
        decoded, problems = decode_outputs(outputs, space, ("score", "ranking") if ranked else ("score",))
        panoptic_map, segments_info = decoded.inputs(space, ranked=ranked).fuse(rule, **options)
    except UserError as error:
        problems = [*problems, f"{image['file_name']}: {one_line(error)}"]
        return {"image": image, "annotation": None, "problems": problems, "source": source}
    write_panoptic_png(Path(png_root) / outputs.png_name, panoptic_map.numpy())
    segments = coco_segments(segments_info, space)
    annotation = {"image_id": image["id"], "file_name": outputs.png_name, "segments_info": segments}
    return {"image": image, "annotation": annotation, "problems": problems, "source": source}


def state_of(path: str | os.PathLike) -> list:
    """Returns values that identify an input: its path and, for a file, its size and modification time."""
    return [os.path.realpath(path), *((Path(path).is_file() and file_state(path)) or [])]


def _semantic_state(outputs: ImageOutputs) -> list | None:
    """Returns `state_of` the semantic file of an image; None if the semantic results are in a JSON."""
    return state_of(outputs.semantic) if isinstance(outputs.semantic, str) else None


def _finished_before(
    output: Path, settings: dict[str, Any], tasks: Sequence[ImageOutputs]
) -> dict[Any, dict[str, Any]]:
    """Returns {image id: result} of an earlier run with the same settings and unchanged semantic files.

    Images with problems are fused again.

    Raises:
        UserError: the folder was written with other settings.
    """
    state, lines = output / "settings.json", output / "finished.jsonl"
    found: dict[Any, dict[str, Any]] = {}
    sources = {task.image["id"]: _semantic_state(task) for task in tasks}
    if state.is_file():
        if json.loads(state.read_text()) != json.loads(json.dumps(settings)):
            raise UserError(f"{output} has the result of other files or options: choose a different output folder")
        for result in read_records(lines) if lines.is_file() else ():
            image_id = result["image"]["id"]
            if result["problems"] or result.get("source") != sources.get(image_id):
                continue
            if (output / "panoptic" / result["annotation"]["file_name"]).is_file():
                found[image_id] = result
    text = "".join(json.dumps(result) + "\n" for result in found.values())
    write_atomically(lines, lambda file: file.write(text.encode()))
    write_json(state, settings)
    return found
