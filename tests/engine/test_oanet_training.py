"""OANet from train_net.py to DefaultPredictor, with and without object context, in all sharing modes."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from panoptic_fusion import config_file, load_trained


@pytest.fixture
def train(run_script, tiny_opts, tmp_path):
    """train(folder name, further opts) -> OUTPUT_DIR of two iterations of tiny training."""

    def run(folder: str, *opts: str):
        output = tmp_path / folder
        own = ("SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", output)
        config = config_file("toy/oanet_r18.yaml")
        code, _, err = run_script("train", "--config-file", config, *tiny_opts, *own, *opts)
        assert code == 0, err
        return output

    yield run
    logging.shutdown()


def predict(output) -> np.ndarray:
    predictor = DefaultPredictor(load_trained(output, ["MODEL.DEVICE", "cpu"]))
    return predictor(np.full((96, 128, 3), 90, np.uint8))["sem_seg"]


@pytest.mark.parametrize(
    "opts",
    [
        ("SOLVER.GRADIENT_BALANCE_PERIOD", "1"),
        ("MODEL.SEM_SEG_HEAD.ONTOLOGY", "stuff", "MODEL.PANOPTIC_FUSION.NAME", "HeuristicFusion"),
        ("MODEL.SHARING", "none"),
    ],
    ids=["paper", "stuff_only", "unshared"],
)
def test_from_train_net_to_predictor(train, opts):
    output = train("output", *opts)
    assert "PQ" in json.loads((output / "results.json").read_text())["panoptic_seg"]
    cfg = load_trained(output)
    logits = predict(output)
    assert logits.shape == (cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 96, 128)
    assert cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT == 0.25
    text = (output / "metrics.json").read_text()
    assert ("gradient_balance/equal_loss_weight" in text) == ("SOLVER.GRADIENT_BALANCE_PERIOD" in opts)
    assert ("loss_srm" in text) == ("HeuristicFusion" not in opts)


def test_a_shared_network_goes_on_as_two(train):
    """Both branches start from the checkpoint of a network that shares all."""
    no_test = ("DATASETS.TEST", "()")
    first = train("first", *no_test)
    no_rate = ("SOLVER.BASE_LR", "1e-9", "MODEL.WEIGHTS", str(first / "model_final.pth"))
    second = train("second", *no_test, *no_rate, "MODEL.SHARING", "none")
    names = torch.load(second / "model_final.pth", weights_only=True)["model"]
    assert "backbone.stuff.bottom_up.stem.conv1.weight" in names
    # At this rate two iterations move the statistics of BN, nothing else.
    state = torch.load(first / "model_final.pth", weights_only=True)["model"]
    for branch in ("instances", "stuff"):
        moved = names[f"backbone.{branch}.fpn_output2.weight"]
        torch.testing.assert_close(moved, state["backbone.fpn_output2.weight"], rtol=1e-4, atol=1e-5)
    head = "sem_seg_head.levels.{}p3.0.weight"
    torch.testing.assert_close(names[head.format("stuff_")], state[head.format("")], rtol=1e-4, atol=1e-5)
