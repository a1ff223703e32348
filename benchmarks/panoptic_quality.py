"""Compares PQ with the reference code (panopticapi) and detectron2's COCOPanopticEvaluator, on the same pairs.

    python benchmarks/panoptic_quality.py [--images 8] [--repeat 3]

Prints a Markdown table: CPU time of the matching alone (both with maps in memory), whether tp, fp and fn of every class
are identical, and the difference in PQ; the same for a complete evaluation per image, including ground-truth decoding
and detectron2's PNG round trip; and our numbers with two gloo processes. The exit code is 1 if a number differs.
"""

import argparse
import contextlib
import copy
import io
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from arguments import has_panopticapi, parse_arguments

NUM_THINGS, NUM_STUFF = 8, 11
HEIGHT, WIDTH = 1024, 2048


def street_pair(rng: np.random.Generator) -> tuple[np.ndarray, list, np.ndarray, list]:
    """Returns a ground truth of about 60 segments with void and crowds, and a prediction, a distorted copy of it.

    Returns gt_map, gt_segments, pred_map (both (H, W) int32) and pred_segments; segments are (id, class index, crowd).
    """
    size = (WIDTH, HEIGHT)
    coarse = [rng.random((6, 9), np.float32) for _ in range(NUM_STUFF)]
    label = np.argmax([cv2.resize(c, size, interpolation=cv2.INTER_CUBIC) for c in coarse], axis=0).astype(np.int32) + 1
    classes = [NUM_THINGS + c for c in range(NUM_STUFF)]
    for _ in range(50):
        centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT // 4, HEIGHT)))
        axes = tuple(int(v) for v in rng.integers(6, 110, size=2))
        classes.append(int(rng.integers(NUM_THINGS)))
        cv2.ellipse(label, centre, axes, int(rng.integers(180)), 0, 360, len(classes), -1)
    crowd = np.zeros(len(classes), bool)
    crowd[rng.choice(np.arange(NUM_STUFF, len(classes)), size=5, replace=False)] = True
    x, y = (cv2.resize(rng.normal(0, 9, (32, 64)).astype(np.float32), size) for _ in range(2))
    x, y = x + np.arange(WIDTH, dtype=np.float32), y + np.arange(HEIGHT, dtype=np.float32)[:, None]
    pred = cv2.remap(label.astype(np.int16), x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    gt = label.copy()
    gt[HEIGHT - 90 :] = 0  # the hood of the camera's car
    gt[cv2.morphologyEx(label.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = 0
    gt_ids = np.append(0, rng.permutation(np.unique(rng.integers(1, 256**3, size=len(classes) + 50)))[: len(classes)])
    pred_table, pred_segments = np.zeros(len(classes) + 1, np.int32), []
    for k, cls in enumerate(classes, 1):
        if rng.random() < 0.12:  # missed
            continue
        guess = int(rng.integers(NUM_THINGS)) if cls < NUM_THINGS and rng.random() < 0.15 else cls
        pred_table[k] = len(pred_segments) + 1
        pred_segments.append((len(pred_segments) + 1, guess, False))
    pred_map = pred_table[pred]
    present = set(np.unique(pred_map).tolist())
    gt_map = gt_ids[gt].astype(np.int32)
    in_gt = set(np.unique(gt_map).tolist())
    gt_segments = [(int(gt_ids[k]), c, bool(crowd[k - 1])) for k, c in enumerate(classes, 1) if int(gt_ids[k]) in in_gt]
    return gt_map, gt_segments, pred_map, [s for s in pred_segments if s[0] in present]


def write_predictions(folder: Path, pairs: list) -> dict[str, str]:
    """Writes ground truth and predictions in COCO panoptic format; returns the arguments of `evaluate_files`."""
    from panoptic_fusion.evaluation import write_panoptic_png

    truth = write_data_set(folder, pairs)
    (folder / "predicted").mkdir()
    annotations = []
    for i, (_, _, pred_map, pred_segments) in enumerate(pairs):
        write_panoptic_png(folder / "predicted" / f"{i}.png", pred_map)
        segments = infos(pred_map, pred_segments)
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    (folder / "predicted.json").write_text(json.dumps({"annotations": annotations}))
    return {
        "gt_json": truth["panoptic_json"],
        "gt_root": truth["panoptic_root"],
        "pred_json": str(folder / "predicted.json"),
        "pred_root": str(folder / "predicted"),
    }


def write_data_set(folder: Path, pairs: list) -> dict[str, str]:
    """Writes the ground truth in COCO panoptic format; returns the arguments of `register_panoptic`."""
    from panoptic_fusion.evaluation import write_panoptic_png

    (folder / "images").mkdir()
    (folder / "panoptic").mkdir()
    kinds = [1] * NUM_THINGS + [0] * NUM_STUFF
    categories = [{"id": i, "name": f"class {i}", "isthing": k, "color": [i, i, i]} for i, k in enumerate(kinds)]
    content = {"images": [], "annotations": [], "categories": categories}
    for i, (gt_map, gt_segments, _, _) in enumerate(pairs):
        write_panoptic_png(folder / "panoptic" / f"{i}.png", gt_map)
        content["images"].append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        segments = infos(gt_map, gt_segments)
        content["annotations"].append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
    (folder / "panoptic.json").write_text(json.dumps(content))
    return {
        "images": str(folder / "images"),
        "panoptic_root": str(folder / "panoptic"),
        "panoptic_json": str(folder / "panoptic.json"),
    }


def infos(segment_map: np.ndarray, segments: list) -> list[dict]:
    """Returns COCO's segments_info, with category id = class index."""
    ids, areas = np.unique(segment_map, return_counts=True)
    area = dict(zip(ids.tolist(), areas.tolist(), strict=True))
    return [{"id": i, "category_id": c, "iscrowd": int(crowd), "area": area[i]} for i, c, crowd in segments]


def model_outputs(pairs: list) -> list[dict]:
    """Returns the predictions in the format of a model's outputs."""
    outputs = []
    for _, _, pred_map, segments in pairs:
        info = [
            {"id": i, "isthing": c < NUM_THINGS, "category_id": c if c < NUM_THINGS else c - NUM_THINGS}
            for i, c, _ in segments
        ]
        outputs.append({"panoptic_seg": (torch.from_numpy(pred_map), info)})
    return outputs


def ours_in_memory(pairs: list):
    """Returns the accumulator and the CPU seconds of `update`."""
    from panoptic_fusion.evaluation import PanopticQuality

    quality, seconds = PanopticQuality(NUM_THINGS, NUM_STUFF), 0.0
    for gt_map, gt_segments, pred_map, pred_segments in pairs:
        start = time.process_time()
        quality.update(pred_map, {i: c for i, c, _ in pred_segments}, gt_map, gt_segments)
        seconds += time.process_time() - start
    return quality, seconds


def reference_in_memory(pairs: list):
    """Returns the reference code's PQStat and CPU seconds; maps replace its PNG decoding, so only matching is timed."""
    from panopticapi import evaluation

    annotations, maps = [], {}
    for i, (gt_map, gt_segments, pred_map, pred_segments) in enumerate(pairs):
        maps[f"/gt{i}"], maps[f"/pred{i}"] = gt_map.astype(np.uint32), pred_map.astype(np.uint32)
        gt = {"image_id": i, "file_name": f"gt{i}", "segments_info": infos(gt_map, gt_segments)}
        pred = {"image_id": i, "file_name": f"pred{i}", "segments_info": infos(pred_map, pred_segments)}
        annotations.append((gt, pred))
    categories = {c: {} for c in range(NUM_THINGS + NUM_STUFF)}
    with (
        mock.patch.object(evaluation, "Image", SimpleNamespace(open=maps.__getitem__)),
        mock.patch.object(evaluation, "rgb2id", lambda ids: ids),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        start = time.process_time()
        stat = evaluation.pq_compute_single_core(0, annotations, "/", "/", categories)
        return stat, time.process_time() - start


def timed_evaluation(evaluator, records: list, outputs: list) -> tuple[dict, float]:
    """Returns the results and CPU seconds of process and evaluate."""
    evaluator.reset()
    start = time.process_time()
    for record, output in zip(records, outputs, strict=True):
        evaluator.process([record], [output])
    results = evaluator.evaluate()
    return results["panoptic_seg"] if results else {}, time.process_time() - start


def detectron2_evaluation(name: str, records: list, outputs: list) -> tuple[dict, float]:
    """Runs detectron2's evaluator with the reference code's pool in this process, so that its CPU time is counted."""
    from detectron2.evaluation import COCOPanopticEvaluator
    from panopticapi import evaluation

    def one_process(annotations, gt_folder, pred_folder, categories):
        return evaluation.pq_compute_single_core(0, annotations, gt_folder, pred_folder, categories)

    with mock.patch.object(evaluation, "pq_compute_multi_core", one_process):
        return timed_evaluation(COCOPanopticEvaluator(name), records, copy.deepcopy(outputs))  # it modifies them


def one_of_two_processes(rank: int, files: dict, pairs: list, folder: str) -> None:
    """Evaluates in one of two gloo processes."""
    from detectron2.data import DatasetCatalog

    from panoptic_fusion.data import register_panoptic
    from panoptic_fusion.evaluation import PanopticQualityEvaluator

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    register_panoptic("pairs", **files)
    records = DatasetCatalog.get("pairs")[rank::2]
    results, _ = timed_evaluation(PanopticQualityEvaluator("pairs"), records, model_outputs(pairs[rank::2]))
    if rank == 0:
        Path(folder, "two_processes.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def largest_difference(a: dict, b: dict) -> float:
    """Returns the largest difference over the keys of `b`; two NaN are equal."""
    return max(0.0 if np.isnan(a[key]) and np.isnan(b[key]) else abs(a[key] - b[key]) for key in b)


def compare(folder: Path, pairs: list, repeat: int) -> bool:
    """Measures and prints the table; returns whether all numbers agree."""
    from detectron2.data import DatasetCatalog

    from panoptic_fusion.data import register_panoptic
    from panoptic_fusion.evaluation import PanopticQualityEvaluator

    files = write_data_set(folder, pairs)
    register_panoptic("pairs", **files)
    records, outputs = DatasetCatalog.get("pairs"), model_outputs(pairs)
    seconds = np.zeros((repeat, 4))
    for row in seconds:  # interleaved, so that other jobs affect all alike
        (quality, row[0]), (reference, row[1]) = ours_in_memory(pairs), reference_in_memory(pairs)
        ours, row[2] = timed_evaluation(PanopticQualityEvaluator("pairs"), records, outputs)
        theirs, row[3] = detectron2_evaluation("pairs", records, outputs)
    mp.start_processes(one_of_two_processes, (files, pairs, str(folder)), nprocs=2, start_method="spawn")
    two = json.loads((folder / "two_processes.json").read_text())

    result = quality.compute()
    counts = [(r["tp"], r["fp"], r["fn"]) for r in result["per_class"]]
    same_counts = counts == [(reference[c].tp, reference[c].fp, reference[c].fn) for c in range(len(counts))]
    categories = {c: {"isthing": int(c < NUM_THINGS)} for c in range(len(counts))}
    pq_difference = abs(result["all"]["pq"] - reference.pq_average(categories, None)[0]["pq"])
    d2_difference, two_difference = largest_difference(ours, theirs), largest_difference(two, ours)
    ms = np.median(seconds, axis=0) / len(pairs) * 1e3
    tp, fp, fn = np.sum(counts, axis=0)
    num_segments = np.mean([len(pair[1]) for pair in pairs])
    identical = "identical" if same_counts else "DIFFER"
    print(
        f"\n{len(pairs)} pairs of {HEIGHT}x{WIDTH} with {num_segments:.0f} ground-truth segments on average; "
        f"PQ {ours['PQ']:.4f}, TP {tp}, FP {fp}, FN {fn}; median of {repeat} runs\n\n"
        "| CPU time per image | reference | ours | ratio | target | numbers |\n|---|---|---|---|---|---|\n"
        f"| matching alone, against panopticapi | {ms[1]:.1f} ms | {ms[0]:.1f} ms | {ms[1] / ms[0]:.1f} | >= 6 "
        f"| tp, fp, fn {identical}, PQ differs by {pq_difference:.1e} |\n"
        f"| end to end, against COCOPanopticEvaluator | {ms[3]:.1f} ms | {ms[2]:.1f} ms | {ms[3] / ms[2]:.1f} | >= 4 "
        f"| PQ, SQ, RQ x 100 differ by at most {d2_difference:.1e} |\n"
        f"| two gloo processes, against one | | | | | results x 100 differ by at most {two_difference:.1e} |"
    )
    agree = same_counts and pq_difference < 1e-9 and max(d2_difference, two_difference) < 1e-7
    print(f"\nnumbers agree: {'yes' if agree else 'NO'}")
    return agree


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8, help="number of pairs")
    parser.add_argument("--repeat", type=int, default=3, help="number of timed runs")
    args = parse_arguments(parser, images=2, repeat=1)
    if not has_panopticapi():
        return 1
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pairs = [street_pair(rng) for _ in range(args.images)]
    with tempfile.TemporaryDirectory() as folder:
        return 0 if compare(Path(folder), pairs, args.repeat) else 1


if __name__ == "__main__":
    sys.exit(main())
