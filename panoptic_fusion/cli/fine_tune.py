#!/usr/bin/env python
"""Fine-tunes a model on your own data: checks it, trains, evaluates, draws pictures. What `make demo-real` runs.

    python tools/fine_tune.py --data FOLDER --output output/mine [--iterations 1000] [KEY VALUE ...]

FOLDER holds a COCO panoptic data set: train/{images,panoptic,panoptic.json} and val/..., or images/{train,val} and
annotations/panoptic_{train,val}{,.json}, or without a validation part images, panoptic and panoptic.json; then about
20 % of the images are set apart, always the same ones. docs/your_own_data.md says more. Called again, it goes on with
what was interrupted.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from detectron2.config import CfgNode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from panoptic_fusion import resolve_config  # noqa: E402
from panoptic_fusion.config.read import read_config  # noqa: E402
from panoptic_fusion.data.checks import check_dataset, format_result, format_summary  # noqa: E402
from panoptic_fusion.data.coco_json import read_panoptic_json  # noqa: E402
from panoptic_fusion.data.coco_panoptic import PanopticFiles  # noqa: E402
from panoptic_fusion.data.own_folder import find_data, registration, split_data  # noqa: E402
from panoptic_fusion.engine.preflight import check_writable  # noqa: E402
from panoptic_fusion.engine.same_training import check_same_data, check_same_network  # noqa: E402
from panoptic_fusion.errors import UserError, run_cli  # noqa: E402

CONFIG = ROOT / "configs" / "camvid" / "panoptic_fpn_lite0.yaml"


def main() -> int:
    """Runs the command line; the exit code of the first step that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.add_argument("--output", required=True, help="folder for the model, the table and the pictures")
    parser.add_argument("--config-file", default=str(CONFIG), help="default: %(default)s")
    parser.add_argument("--iterations", type=int, help="length of the training; default: the config's")
    parser.add_argument("--val-share", type=float, default=0.2, help="share of images set apart if there is no val")
    parser.add_argument("--num-gpus", type=int, default=1, help="as in train_net.py")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs that change the config")
    args = parser.parse_args()
    if args.iterations is not None and args.iterations < 1:
        raise UserError(f"--iterations is {args.iterations}: use 1 or more")
    cfg = read_config(args.config_file, args.opts)
    check_writable(args.output, "--output")
    say("1/4 reading the data set through")
    data = find_data(args.data)
    if not check(data):
        print("nothing was trained: mend these faults first, or leave the images at fault out of the jsons")
        return 1
    print(sizes(data["train"], cfg))
    check_same_data(args.output, data, args.val_share)
    if "val" not in data:
        os.makedirs(os.path.join(args.output, "data"), exist_ok=True)
        data = split_data(data["train"], os.path.join(args.output, "data"), args.val_share)
        print(f"{args.data} has no validation part: about {args.val_share:.0%} of its images, chosen by their names,")
        print(f"are set apart, see {args.output}/data; give a val where images of one video would be on both sides")
    entries = [registration(f"own_{split}", files) for split, files in data.items()]
    opts = ["DATASETS.REGISTER", str(entries), "DATASETS.TRAIN", "('own_train',)", "DATASETS.TEST", "('own_val',)"]
    if args.iterations is not None:
        period = max(1, min(cfg.SOLVER.CHECKPOINT_PERIOD, args.iterations // 4))
        opts += ["SOLVER.MAX_ITER", str(args.iterations), "SOLVER.CHECKPOINT_PERIOD", str(period)]
    opts += [*args.opts, "OUTPUT_DIR", args.output]
    check_same_network(args.output, resolve_config(read_config(args.config_file, opts)))
    say(f"2/4 training and evaluation -> {args.output}")
    train = ["train_net.py", "--config-file", args.config_file, "--resume", "--num-gpus", str(args.num_gpus)]
    code = run(*train, *opts)
    if code:
        return code
    pictures = os.path.join(args.output, "pictures")
    say(f"3/4 pictures: input, ground truth, prediction -> {pictures}")
    code = run("tools/compare_pictures.py", "--model", args.output, "--dataset", "own_val", "--output", pictures)
    say("4/4 results")
    print(Path(args.output, "results.md").read_text())
    print(f"model: {args.output} (try: {sys.executable} demo.py --model {args.output} --input IMAGE --output FOLDER)")
    return code


def check(data: dict[str, PanopticFiles]) -> bool:
    """Prints what is in the data set, or every fault; whether it can be trained."""
    results = {files.panoptic_json: check_dataset(files, show_progress=True) for files in data.values()}
    for name, result in results.items():
        text = format_summary(name, result) if result.can_be_trained() else format_result(name, result)
        print(text, flush=True)
    return all(result.can_be_trained() for result in results.values())


def sizes(files: PanopticFiles, cfg: CfgNode) -> str:
    """The median size of the images and what the config makes of it."""
    images = read_panoptic_json(files.panoptic_json).images.values()
    width, height = (round(median(image[key] for image in images)) for key in ("width", "height"))
    crop = cfg.INPUT.CROP
    cut = f", crops of {crop.SIZE} ({crop.TYPE}; height, width)" if crop.ENABLED else ""
    return (
        f"median image: {width} x {height}; short side in training (INPUT.MIN_SIZE_TRAIN): {cfg.INPUT.MIN_SIZE_TRAIN}"
        f"{cut}; in evaluation (INPUT.MIN_SIZE_TEST): {cfg.INPUT.MIN_SIZE_TEST}"
    )


def run(script: str, *arguments: str) -> int:
    """Runs a script of the repository; its exit code."""
    return subprocess.run([sys.executable, str(ROOT / script), *arguments]).returncode


def say(text: str) -> None:
    print(f"== {text}", flush=True)


if __name__ == "__main__":
    run_cli(main)
