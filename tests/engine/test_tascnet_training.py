"""TASCNet from train_net.py to DefaultPredictor in all ontologies, and staged training through MODEL.FREEZE."""

import json
import logging

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor

from panoptic_fusion import config_file, load_trained

STUFF_FIRST = "['proposal_generator', 'roi_heads', 'backbone.top_block']"
RESIDUAL = (
    "TEST.EVALUATORS",
    "['panoptic', 'residual']",
    "MODEL.PANOPTIC_FUSION.OUTPUTS",
    "['sem_seg', 'instances', 'panoptic_seg', 'things_masks']",
)


@pytest.fixture
def train(run_script, tiny_opts, tmp_path):
    """train(config name, folder name, further opts) -> OUTPUT_DIR of two iterations of tiny training."""

    def run(config: str, folder: str, *opts: str):
        output = tmp_path / folder
        two = ("SOLVER.MAX_ITER", "2", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", output)
        code, _, err = run_script("train", "--config-file", config_file(config), *tiny_opts, *two, *opts)
        assert code == 0, err
        return output

    yield run
    logging.shutdown()


@pytest.mark.parametrize("ontology", ["full", "collapsed", "stuff"])
def test_from_train_net_to_predictor(train, ontology):
    suffix = "" if ontology == "full" else f"_{ontology}"
    output = train(f"toy/tascnet_r18{suffix}.yaml", ontology, *(() if ontology == "stuff" else RESIDUAL))
    results = json.loads((output / "results.json").read_text())
    assert "PQ" in results["panoptic_seg"]
    if ontology != "stuff":
        assert 0 <= results["residual"]["mean"] <= 100
    predictor = DefaultPredictor(load_trained(output, ["MODEL.DEVICE", "cpu"]))
    prediction = predictor(np.zeros((96, 128, 3), np.uint8))
    panoptic, segments = prediction["panoptic_seg"]
    assert panoptic.shape == (96, 128)
    assert {s["id"] for s in segments} == set(panoptic.unique().tolist()) - {0}


def test_stuff_head_first_then_the_whole_network(train):
    config = "toy/tascnet_r18.yaml"
    no_test = ("DATASETS.TEST", "()")
    first = train(config, "first", *no_test, "MODEL.FREEZE", STUFF_FIRST)
    weights = ("MODEL.WEIGHTS", str(first / "model_final.pth"))
    second = train(config, "second", *no_test, *weights, "SOLVER.BASE_LR", "1e-9")
    a, b = (torch.load(x / "model_final.pth", weights_only=True)["model"] for x in (first, second))
    for key in ("sem_seg_head.predictor.weight", "backbone.bottom_up.res2.0.conv1.weight"):
        torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-4)  # it goes on from there
    losses = [set(json.loads((x / "metrics.json").read_text().splitlines()[-1])) for x in (first, second)]
    # detectron2 logs only the total where there is one loss.
    assert not any(name.startswith("loss_") for name in losses[0]) and "total_loss" in losses[0]
    assert {"loss_sem_seg", "loss_mask", "loss_tasc", "loss_rpn_cls"} <= losses[1]
