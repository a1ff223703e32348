"""A panoptic network end to end beside two separate networks and the heuristic, in turns, in one process.

    python benchmarks/end_to_end.py --model output/camvid_upsnet_r18 [--size 1024 2048]

The separate networks (`IndependentPanoptic`) have the parts and the weights of the same model: one backbone and pyramid
for the instances, one for the semantic segmentation, and HeuristicFusion. So both find the same instances and the same
semantic logits, and what is compared is sharing the backbone and the fusion, nothing else. UPSNet's comparison on
Cityscapes (section 4.3, 3.7 times faster) is another one: its separate networks are Mask R-CNN on ResNet-50 and a
PSPNet on ResNet-101, whose last stages are computed at an eighth of the image's size.
"""

import argparse
import itertools
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[i]) for i in (0, 1)]

import torch  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402
from fusion import seconds  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from panoptic_fusion import load_trained  # noqa: E402
from panoptic_fusion.engine import PanopticTrainer  # noqa: E402
from panoptic_fusion.errors import run_cli  # noqa: E402
from panoptic_fusion.trained import build_predictor  # noqa: E402

OUTPUTS = ["MODEL.PANOPTIC_FUSION.OUTPUTS", "['panoptic_seg']"]


def independent(model: str) -> torch.nn.Module:
    """The two networks with the heuristic on the values of the model's config."""
    opts = ["MODEL.META_ARCHITECTURE", "IndependentPanoptic", "MODEL.PANOPTIC_FUSION.NAME", "HeuristicFusion"]
    opts += ["MODEL.INDEPENDENT.INSTANCES", model, "MODEL.INDEPENDENT.SEMANTIC", model]
    return build_model(load_trained(model, [*opts, *OUTPUTS])).eval()


def at_size(batch: list[dict], size: list[int] | None) -> list[dict]:
    """The batch with its images at `size` (height, width)."""
    if size is None:
        return batch
    resized = [F.interpolate(x["image"][None].float(), size=size, mode="bilinear")[0] for x in batch]
    return [{"image": image.round().byte(), "height": size[0], "width": size[1]} for image in resized]


@torch.no_grad()
def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="OUTPUT_DIR of a training")
    parser.add_argument("--size", type=int, nargs=2, help="height and width to resize images to")
    parser.add_argument("--images", type=int, default=20, help="of the validation set")
    parser.add_argument("--repeats", type=int, default=3, help="of each image; the median counts")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = load_trained(args.model, OUTPUTS)
    models = {"one network": build_predictor(cfg).model, "two networks": independent(args.model)}
    names, rows = list(models), []
    for batch in itertools.islice(PanopticTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]), args.images):
        batch = at_size(batch, args.size)
        functions = [lambda net=net, batch=batch: net(batch) for net in models.values()]
        rows.append(seconds(functions, args.repeats, cfg.MODEL.DEVICE))
    one, two = zip(*rows, strict=True)
    size = "x".join(map(str, args.size)) if args.size else "the size of the config"
    print(
        f"{args.model} ({cfg.MODEL.PANOPTIC_FUSION.NAME}), {len(rows)} images of {cfg.DATASETS.TEST[0]} at {size}, "
        f"{cfg.MODEL.DEVICE}, {args.threads} thread(s), torch {torch.__version__}, median of {args.repeats}, in turns\n"
    )
    for name, times in zip(names, (one, two), strict=True):
        print(f"{name}: {1e3 * statistics.mean(times):.1f} ms an image")
    print(f"ratio: {sum(two) / sum(one):.2f} times faster as one network")


if __name__ == "__main__":
    run_cli(main)
