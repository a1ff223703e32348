"""Models that commit 1dabfec trained: their config.yaml and the names and shapes of their weights still load.

trained_1dabfec/ holds, of one iteration of two systems on tiny scenes, the config.yaml (with other paths) and
{name: shape} of model_final.pth, both as that commit wrote them.
"""

import json
from pathlib import Path

import pytest
import torch

from panoptic_fusion import load_trained
from panoptic_fusion.networks.trained import build_predictor

FOLDER = Path(__file__).with_name("trained_1dabfec")


def weights(name: str) -> dict[str, torch.Tensor]:
    """Random ones in [0, 1), which variances can be, too; a norm's number of batches is a whole number."""
    generator = torch.Generator().manual_seed(0)
    shapes = json.loads((FOLDER / f"{name}.json").read_text())
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


@pytest.fixture
def output_dir(tmp_path, request) -> Path:
    """An OUTPUT_DIR as 1dabfec left it, but for the values of the weights."""
    (tmp_path / "config.yaml").write_text((FOLDER / f"{request.param}.yaml").read_text())
    torch.save({"model": weights(request.param)}, tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    return tmp_path


@pytest.mark.parametrize(
    ("output_dir", "fusion", "thresholds"),
    [
        ("oanet_r18", "SpatialRankingFusion", [0.5, 0.5, 64, True, False]),
        ("seamless_r18", "SeamlessFusion", [0.5, 0.5, 64, False, True]),
    ],
    indirect=["output_dir"],
)
def test_loads_and_infers(output_dir, fusion, thresholds):
    cfg = load_trained(output_dir, ["MODEL.DEVICE", "cpu"])
    keys = ("INSTANCES_CONFIDENCE_THRESH", "OVERLAP_THRESH", "STUFF_AREA_LIMIT", "STUFF_CHANNELS_ONLY")
    settings = cfg.MODEL.PANOPTIC_FUSION
    assert [settings[key] for key in (*keys, "AT_INPUT_RESOLUTION")] == thresholds
    predictor = build_predictor(cfg)
    assert type(predictor.model.fusion).__name__ == fusion
    assert predictor.model.fuse_at_input_resolution == thresholds[-1]
    loaded = predictor.model.state_dict()
    before = torch.load(output_dir / "model_final.pth", weights_only=True)["model"]
    assert loaded.keys() == before.keys() and all(torch.equal(loaded[key], value) for key, value in before.items())
    panoptic_seg, _ = predictor(torch.zeros(64, 96, 3, dtype=torch.uint8).numpy())["panoptic_seg"]
    assert panoptic_seg.shape == (64, 96)


@pytest.mark.parametrize("output_dir", ["oanet_r18"], indirect=True)
def test_its_thresholds_are_explicit(output_dir):
    """That commit wrote every threshold; swapping the fusion keeps them, and None asks for the fusion's own."""
    swapped = ["MODEL.DEVICE", "cpu", "MODEL.PANOPTIC_FUSION.NAME", "UPSNetFusion"]
    fusion = load_trained(output_dir, swapped).MODEL.PANOPTIC_FUSION
    assert (fusion.INSTANCES_CONFIDENCE_THRESH, fusion.STUFF_CHANNELS_ONLY) == (0.5, True)
    opts = [*swapped, "MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH", "None"]
    assert load_trained(output_dir, opts).MODEL.PANOPTIC_FUSION.INSTANCES_CONFIDENCE_THRESH is None
