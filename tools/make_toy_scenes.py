"""Writes the toy scenes (small street scenes in COCO-panoptic format) to a folder."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panoptic_fusion.data.toy.scenes import generate_toy_scenes  # noqa: E402
from panoptic_fusion.errors import run_cli  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--output", required=True, help="folder to make; toy scenes in it of other parameters are replaced"
    )
    parser.add_argument("--num-train", type=int, default=400, help="images for training")
    parser.add_argument("--num-val", type=int, default=100, help="images for validation")
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), metavar=("HEIGHT", "WIDTH"), help="in pixels")
    args = parser.parse_args()
    numbers = {"num_train": args.num_train, "num_val": args.num_val, "seed": args.seed}
    for name, paths in generate_toy_scenes(args.output, **numbers, size=tuple(args.size)).items():
        print(f"{name}: {paths['panoptic_json']}, images in {paths['images']}")


if __name__ == "__main__":
    run_cli(main)
