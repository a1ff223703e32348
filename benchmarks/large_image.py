"""Measures memory and time of evaluating one 3000 x 4000 image with 65 classes and 200 instances, without the network.

    python benchmarks/large_image.py [--height 3000] [--width 4000] [--instances 200] [--threads 1]

Each row is measured in a separate process. The input is the output of a network: semantic logits at 1/4 of its input
resolution (the input has the image size, or the test size of configs/vistas) and 28 x 28 mask logits with boxes. The
process computes the panoptic map at full size and scores it with PanopticQualityEvaluator against a PNG on disk.
`+ mask AP` also encodes all masks and runs COCOEvaluator. The last two rows load the image with PanopticDatasetMapper
and configs/vistas, for testing and for training (all masks at input resolution).

Peak memory is ru_maxrss of the process, including imports. The limits, 2.5 GB and 30 s on 2 cores, are from the
project's issue 7. The exit code is 1 if a row exceeds them. The default is one thread: on a busy machine, two torch
threads spend most of their time waiting for each other.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# The parent does not import torch, because a child's ru_maxrss starts at the value of its parent.
from arguments import parse_arguments

MAX_GB, MAX_SECONDS = 2.5, 30.0
STRIDE, MASK_SIDE = 4, 28
TEST_SIZES = (1920, 2304)  # INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST of configs/vistas/panoptic_fpn_r50.yaml


def draw_scene(folder: Path, height: int, width: int, num_instances: int) -> None:
    """Writes a dataset of one image and a simulated network output for it to `folder`.

    Stuff consists of smooth regions of all stuff classes, things are ellipses of many sizes. The simulated output is
    imperfect: boxes are off by a few pixels, and 1 in 10 instances has a wrong class.
    """
    import cv2
    import numpy as np

    from panoptic_fusion.data.annotation import label_extents
    from panoptic_fusion.data.datasets.vistas import VISTAS
    from panoptic_fusion.evaluation import write_panoptic_png

    rng = np.random.default_rng(0)
    space = VISTAS.label_space()
    coarse = rng.random((16, 20, space.num_stuff), np.float32)
    best, label = np.full((height, width), -1, np.float32), np.zeros((height, width), np.int32)
    for s in range(space.num_stuff):
        plane = cv2.resize(coarse[..., s], (width, height), interpolation=cv2.INTER_LINEAR)
        label[plane > best] = s + 1
        np.maximum(best, plane, out=best)
    semantic = label.astype(np.uint8)  # 1 + channel: stuff first, then things
    things = rng.integers(0, space.num_things, num_instances)
    for k, thing in enumerate(things.tolist()):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = tuple(int(v) for v in rng.integers(10, max(12, height // 8), 2) * rng.random() + 5)
        angle = int(rng.integers(180))
        cv2.ellipse(label, centre, axes, angle, 0, 360, space.num_stuff + 1 + k, -1)
        cv2.ellipse(semantic, centre, axes, angle, 0, 360, space.num_stuff + 1 + thing, -1)
    boxes, areas = label_extents(label, space.num_stuff + num_instances)
    masks = np.zeros((num_instances, MASK_SIDE, MASK_SIDE), np.float32)
    for k, (x0, y0, x1, y1) in enumerate(boxes[space.num_stuff :].tolist()):
        if x1 > x0:
            mask = (label[y0:y1, x0:x1] == space.num_stuff + 1 + k).astype(np.float32)
            masks[k] = cv2.resize(mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA) * 8 - 4
    seen = areas[space.num_stuff :] > 0
    pred_boxes = boxes[space.num_stuff :].astype(np.float32) + rng.normal(0, 2, (num_instances, 4)).astype(np.float32)
    classes = np.where(rng.random(num_instances) < 0.1, rng.integers(0, space.num_things, num_instances), things)
    np.savez(
        folder / "predictions.npz",
        semantic=semantic[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] - 1,
        boxes=np.where(seen[:, None], pred_boxes, [0, 0, 20, 20]).astype(np.float32),
        masks=masks,
        classes=classes,
        scores=rng.uniform(0.5, 1, num_instances).astype(np.float32),
    )
    (folder / "images").mkdir()
    (folder / "panoptic").mkdir()
    cv2.imwrite(str(folder / "images" / "0.jpg"), cv2.applyColorMap(label.astype(np.uint8), cv2.COLORMAP_JET))
    write_panoptic_png(folder / "panoptic" / "0.png", label * 1009)
    segments = []
    for k in np.flatnonzero(areas).tolist():
        x0, y0, x1, y1 = boxes[k].tolist()
        ids = space.stuff_ids[k] if k < space.num_stuff else space.thing_ids[things[k - space.num_stuff]]
        segment = {"id": (k + 1) * 1009, "category_id": ids, "iscrowd": 0}
        segments.append({**segment, "area": int(areas[k]), "bbox": [x0, y0, x1 - x0, y1 - y0]})
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "height": height, "width": width}],
        "annotations": [{"image_id": 0, "file_name": "0.png", "segments_info": segments}],
        "categories": space.to_categories(),
    }
    (folder / "panoptic.json").write_text(json.dumps(content))


def network_output(folder: Path, size: tuple[int, int], at_test_size: bool):
    """Returns SemSegLogits with logits (65, h / 4, w / 4) for an output of `size`, and Instances with mask logits."""
    import numpy as np
    import torch
    from detectron2.structures import Boxes, Instances

    from panoptic_fusion.modeling.fusion import SemSegLogits

    with np.load(folder / "predictions.npz") as found:
        predictions = {key: torch.from_numpy(found[key]) for key in found}
    scale = min(1.0, TEST_SIZES[0] / min(size), TEST_SIZES[1] / max(size)) if at_test_size else 1.0
    image_size = tuple(round(side * scale) for side in size)
    padded_size = tuple(-(-side // 32) * 32 for side in image_size) if at_test_size else size
    shape = tuple(side // STRIDE for side in padded_size)
    labels = torch.nn.functional.interpolate(predictions["semantic"][None, None], size=shape, mode="nearest")[0, 0]
    logits = torch.randn(65, *shape, generator=torch.Generator().manual_seed(0))
    logits.scatter_(0, labels[None].long(), 6.0)
    instances = Instances(
        size,
        pred_boxes=Boxes(predictions["boxes"]),
        scores=predictions["scores"],
        pred_classes=predictions["classes"],
        pred_mask_logits=predictions["masks"],
    )
    instances.pred_boxes.clip(size)
    return SemSegLogits(logits, padded_size, image_size, size), instances


def load_in_this_process(folder: Path, is_train: bool) -> None:
    """Runs the mapper on the image once and prints the row as JSON."""
    import resource
    import time

    import cv2
    import numpy as np
    from detectron2.data import DatasetCatalog

    from panoptic_fusion.config.read import read_config
    from panoptic_fusion.data import register_panoptic
    from panoptic_fusion.data.mapper import PanopticDatasetMapper

    cv2.setNumThreads(1)
    np.random.seed(0)
    register_panoptic("large", str(folder / "images"), str(folder / "panoptic"), str(folder / "panoptic.json"))
    config = Path(__file__).resolve().parents[1] / "configs" / "vistas" / "panoptic_fpn_r50.yaml"
    mapper = PanopticDatasetMapper(read_config(config, ["DATASETS.TRAIN", "('large',)"]), is_train=is_train)
    record = DatasetCatalog.get("large")[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    start, cpu = time.perf_counter(), time.process_time()
    loaded = mapper(record)
    row = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "before_gb": before}
    row["gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    row["what"] = "image " + "x".join(map(str, loaded["image"].shape[1:]))
    if is_train:
        row["what"] += f", {len(loaded['instances'])} masks"
    print("ROW " + json.dumps(row))


def evaluate_in_this_process(
    folder: Path, size: tuple[int, int], fusion_name: str, at_test_size: bool, ap: bool
) -> None:
    """Measures one row of the table and prints it as JSON."""
    import resource
    import time

    import torch
    from detectron2.data import DatasetCatalog

    from panoptic_fusion import get_cfg
    from panoptic_fusion.data import register_panoptic
    from panoptic_fusion.data.datasets.vistas import VISTAS
    from panoptic_fusion.evaluation import InstancesEvaluator, PanopticQualityEvaluator
    from panoptic_fusion.modeling.fusion import build_panoptic_fusion

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2

    register_panoptic("large", str(folder / "images"), str(folder / "panoptic"), str(folder / "panoptic.json"))
    cfg = get_cfg()
    cfg.MODEL.CATEGORIES = VISTAS.label_space().to_categories()
    cfg.MODEL.PANOPTIC_FUSION.NAME = fusion_name
    fusion = build_panoptic_fusion(cfg).eval()
    sem_seg, instances = network_output(folder, size, at_test_size)
    before, start, cpu = peak(), time.perf_counter(), time.process_time()
    with torch.no_grad():
        evaluators = [PanopticQualityEvaluator("large", distributed=False)]
        if ap:
            evaluators.append(InstancesEvaluator("large", str(folder / "ap"), distributed=False))
        output = {"panoptic_seg": fusion(sem_seg, instances), "instances": instances}
        image = {key: DatasetCatalog.get("large")[0][key] for key in ("image_id", "file_name")}
        results = {}
        for evaluator in evaluators:
            evaluator.reset()
            evaluator.process([image], [output])
            results.update(evaluator.evaluate())
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    row = {"seconds": seconds, "cpu": cpu_seconds, "gb": peak(), "before_gb": before}
    row["pq"] = results["panoptic_seg"]["PQ"]
    row["segments"] = len(output["panoptic_seg"][1])
    print("ROW " + json.dumps(row))


def run_child(args: argparse.Namespace, folder: Path, *job: str) -> str:
    """Runs this file in a separate process; returns its output."""
    command = [sys.executable, __file__, "--folder", str(folder), "--job", *job]
    command += ["--height", str(args.height), "--width", str(args.width), "--instances", str(args.instances)]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(job)} failed:\n{done.stderr}")
    return done.stdout


def row_of(text: str) -> dict:
    """Returns the row that a child process printed as JSON."""
    return json.loads(next(line for line in text.splitlines() if line.startswith("ROW "))[4:])


def compare(args: argparse.Namespace, folder: Path) -> bool:
    """Prints the table; returns whether every row is within the limits."""
    run_child(args, folder, "draw")
    fusions = run_child(args, folder, "fusions").split()
    good = True
    size = f"{args.height}x{args.width}"
    print(f"One image of {size}, 65 classes, {args.instances} instances, {args.threads} thread(s).\n")
    print("| fusion | semantic logits | peak memory | imports, inputs | wall time | CPU time | PQ | segments |")
    print("|---|---|---|---|---|---|---|---|")
    rows = [(name, "full", "pq") for name in fusions]
    rows += [("HeuristicFusion", "test", "pq"), ("HeuristicFusion", "test", "ap")]
    if args.quick:
        rows = rows[-1:]
    for name, logits, measures in rows:
        row = row_of(run_child(args, folder, "evaluate", name, logits, measures))
        good &= row["gb"] <= MAX_GB and row["seconds"] <= MAX_SECONDS
        what = "of the image's size" if logits == "full" else "of the test size"
        measured = name + (" + mask AP" if measures == "ap" else "")
        cells = [measured, what, f"{row['gb']:.2f} GB", f"{row['before_gb']:.2f} GB", f"{row['seconds']:.1f} s"]
        cells += [f"{row['cpu']:.1f} s", f"{row['pq']:.1f}", str(row["segments"])]
        print(f"| {' | '.join(cells)} |", flush=True)
    for split in ("training",) if args.quick else ("test", "training"):
        row = row_of(run_child(args, folder, "load", split))
        good &= row["gb"] <= MAX_GB and row["seconds"] <= MAX_SECONDS
        cells = [f"loading for {split}", row["what"], f"{row['gb']:.2f} GB", f"{row['before_gb']:.2f} GB"]
        print(f"| {' | '.join(cells)} | {row['seconds']:.1f} s | {row['cpu']:.1f} s | | |", flush=True)
    print(f"\nall within {MAX_GB} GB and {MAX_SECONDS:.0f} s: {'yes' if good else 'NO'}")
    return good


def main() -> int:
    """Entry point of the command-line tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=3000, help="a multiple of 4")
    parser.add_argument("--width", type=int, default=4000, help="a multiple of 4")
    parser.add_argument("--instances", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--job", nargs="+", help=argparse.SUPPRESS)
    args = parse_arguments(parser, height=256, width=320, instances=5)
    if args.job is None:
        with tempfile.TemporaryDirectory() as folder:
            return 0 if compare(args, Path(folder)) or args.quick else 1
    if args.job[0] == "draw":
        draw_scene(args.folder, args.height, args.width, args.instances)
    elif args.job[0] == "fusions":
        from panoptic_fusion.modeling.fusion import PANOPTIC_FUSION_REGISTRY

        print(*sorted(name for name, _ in PANOPTIC_FUSION_REGISTRY))
    elif args.job[0] == "load":
        load_in_this_process(args.folder, args.job[1] == "training")
    else:
        _, name, logits, measures = args.job
        evaluate_in_this_process(args.folder, (args.height, args.width), name, logits == "test", measures == "ap")
    return 0


if __name__ == "__main__":
    sys.exit(main())
