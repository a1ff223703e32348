"""SOLVER.GRADIENT_BALANCE_PERIOD: the numbers, that training stays as it is, two processes, what cannot be measured."""

import json
from types import SimpleNamespace

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from panoptic_fusion import resolve_config
from panoptic_fusion.engine import PanopticTrainer
from panoptic_fusion.engine.gradient_balance import GradientBalance, branch_gradients
from panoptic_fusion.errors import ConfigError
from panoptic_fusion.networks.freeze import freeze_parts

BRANCHES = {"instance": {"loss_rpn_cls", "loss_cls", "loss_mask"}, "stuff": {"loss_sem_seg"}}
NAMES = {"gradient_balance/instance", "gradient_balance/stuff", "gradient_balance/equal_loss_weight"}


def changed(cfg, **keys):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list([str(x) for key, value in keys.items() for x in (key.replace("__", "."), value)])
    return cfg


# -- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_by_hand(scale):
    feature = torch.tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    weight = torch.tensor(2.0, requires_grad=True)
    losses = {
        "loss_rpn_cls": (weight * feature[0]).sum(),  # gradients 2 2 / 0 0
        "loss_mask": -3 * feature[0, 1],  # 0 -3 / 0 0
        "loss_cls": 4 * feature[1, 0],  # 0 0 / 4 0;   all three: 2 -1 / 4 0, mean of absolute values 7/4
        "loss_sem_seg": 0.25 * (feature**2).sum(),  # 0.5 -1 / 1.5 2: 5/4
        "loss_sem_seg_roi": 100 * feature.sum(),  # has another weight
        "loss_tasc": 1000 * feature.sum(),  # of neither branch
    }
    found = branch_gradients(losses, feature, BRANCHES, scale=scale)
    assert {k: v.item() for k, v in found.items()} == {"instance": 7 / 4, "stuff": 5 / 4}
    assert weight.grad is None and feature.grad is None
    sum(losses.values()).backward()  # the graph is still there
    assert weight.grad == -1


def test_losses_that_do_not_reach_the_map():
    feature = torch.ones(3, requires_grad=True)
    other = torch.ones(3, requires_grad=True)
    losses = {"loss_sem_seg": other.sum(), "loss_cls": torch.tensor(2.0)}
    assert branch_gradients(losses, feature, BRANCHES) == {"instance": 0, "stuff": 0}
    assert branch_gradients({}, feature, BRANCHES) == {"instance": 0, "stuff": 0}


def batch(cfg, seed: int) -> list[dict]:
    seed_all_rng(seed)
    return next(iter(PanopticTrainer.build_train_loader(cfg)))


def mean_gradient_at_res5(model, inputs, is_own) -> float:
    """By a whole backward pass of the branch's losses into res5's `grad`."""
    maps = []
    handle = model.backbone.bottom_up.res5.register_forward_hook(lambda module, args, result: maps.append(result))
    torch.manual_seed(0)
    with EventStorage(0):
        losses = model(inputs)
    handle.remove()
    maps[0].retain_grad()
    total = torch.zeros(())
    for name, loss in losses.items():
        if is_own(name):
            total = total + loss
    total.backward()
    gradient = maps[0].grad.double().flatten().tolist()
    return sum(abs(g) for g in gradient) / len(gradient)


@pytest.mark.parametrize(("sharing", "weight"), [("skip", 1.0), ("skip", 0.25), ("backbone", 0.5)])
def test_of_a_network(tiny_cfg, one_thread, sharing, weight):
    cfg = changed(tiny_cfg, MODEL__SHARING=sharing, MODEL__SEM_SEG_HEAD__LOSS_WEIGHT=weight)
    cfg.MODEL.PANOPTIC_FUSION.NAME = "MaskGuidedFusion"  # whose loss belongs to no branch
    cfg = resolve_config(cfg)
    inputs = batch(cfg, 5)
    torch.manual_seed(1)
    model = build_model(cfg).train()
    hook = GradientBalance(1, weight)
    hook.trainer = SimpleNamespace(model=model, iter=0, _trainer=None)
    hook.before_train()
    hook.before_step()
    torch.manual_seed(0)
    with EventStorage(0) as storage:
        assert "loss_tasc" in model(inputs)
        hook.after_step()
    logged = {name: storage.latest()[name][0] for name in NAMES}
    assert all(p.grad is None for p in model.parameters())

    instance = mean_gradient_at_res5(model, inputs, lambda n: n in INSTANCE_LOSSES)
    stuff = mean_gradient_at_res5(model, inputs, lambda n: n == "loss_sem_seg") / weight
    assert logged["gradient_balance/instance"] == pytest.approx(instance, rel=1e-4)
    assert logged["gradient_balance/stuff"] == pytest.approx(stuff, rel=1e-4)
    assert logged["gradient_balance/equal_loss_weight"] == pytest.approx(instance / stuff, rel=1e-4)
    assert instance > 0 and stuff > 0
    assert not model._forward_hooks and not model.backbone.bottom_up._forward_hooks


INSTANCE_LOSSES = ("loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask")


# -- in training -----------------------------------------------------------------------------------------------------


def train(cfg, folder, **keys):
    cfg = changed(cfg, OUTPUT_DIR=folder, SOLVER__MAX_ITER=4, **keys)
    cfg.DATASETS.TEST = ()
    seed_all_rng(3)
    trainer = PanopticTrainer(resolve_config(cfg))
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def test_training_stays_as_it_is(tiny_cfg, tmp_path, one_thread):
    states = [
        train(tiny_cfg, tmp_path / str(period), SOLVER__GRADIENT_BALANCE_PERIOD=period).model.state_dict()
        for period in (0, 2)
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    lines = [json.loads(line) for line in (tmp_path / "2" / "metrics.json").read_text().splitlines()]
    assert {line["iteration"] for line in lines if NAMES <= line.keys()} == {3}  # the last of 1 and 3; the file has one
    assert "gradient_balance" not in (tmp_path / "0" / "metrics.json").read_text()


def test_every_second_iteration(tiny_cfg, tmp_path, one_thread):
    trainer = train(tiny_cfg, tmp_path, SOLVER__GRADIENT_BALANCE_PERIOD=2)
    history = trainer.storage.history("gradient_balance/stuff").values()
    assert [iteration for _, iteration in history] == [1, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(tiny_cfg, tmp_path, one_thread, dtype):
    """In half precision the same numbers, about: with float16 the losses are scaled by 65536 in the backward pass."""
    first = []
    for folder, keys in (("full", {}), ("half", {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": dtype})):
        trainer = train(tiny_cfg, tmp_path / folder, SOLVER__GRADIENT_BALANCE_PERIOD=1, **keys)
        first.append([trainer.storage.history(f"gradient_balance/{b}").values()[0] for b in ("instance", "stuff")])
    for (full, _), (half, iteration) in zip(*first, strict=True):
        assert iteration == 0 and half == pytest.approx(full, rel=0.2)


def in_each_process(configs: dict[str, str], folder: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for sharing, config in configs.items():
        seed_all_rng(100 + comm.get_rank())
        trainer = PanopticTrainer(resolve_config(CfgNode.load_cfg(config)))
        own = []
        for hook in trainer._hooks:
            if isinstance(hook, GradientBalance):
                keep_measurements(hook, own)
        trainer.resume_or_load(resume=False)
        trainer.train()
        histories = trainer.storage.histories()
        found[sharing] = own, {name: histories[name].values() for name in NAMES if name in histories}
    torch.save(found, f"{folder}/rank{comm.get_rank()}.pth")


def keep_measurements(hook: GradientBalance, results: list) -> None:
    measure = hook._measure

    def measure_and_keep(*args):
        measure(*args)
        results.append({k: v.item() for k, v in hook._gradients.items()})

    hook._measure = measure_and_keep


def test_two_processes(tiny_cfg, tmp_path, monkeypatch):
    """Also that both modes train: DDP raises in the second step if a parameter got no gradient in the first."""
    configs = {}
    for sharing, period in (("backbone", 2), ("none", 0)):
        cfg = changed(tiny_cfg, OUTPUT_DIR=tmp_path / sharing, SOLVER__MAX_ITER=3, MODEL__SHARING=sharing, SEED=-1)
        cfg.SOLVER.GRADIENT_BALANCE_PERIOD, cfg.MODEL.SEM_SEG_HEAD.LOSS_WEIGHT = period, 0.5
        cfg.DATASETS.TEST = ()
        configs[sharing] = cfg.dump()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(in_each_process, 2, dist_url="auto", args=(configs, str(tmp_path)))
    ranks = [torch.load(tmp_path / f"rank{i}.pth", weights_only=True) for i in range(2)]
    (first, logged), (second, nothing) = (rank["backbone"] for rank in ranks)
    assert nothing == {} and len(first) == len(second) == 1 and first != second
    for branch, weight in (("instance", 1), ("stuff", 0.5)):
        expected = (first[0][branch] + second[0][branch]) / 2 / weight
        assert logged[f"gradient_balance/{branch}"] == [(pytest.approx(expected, rel=1e-5), 1)]
    assert [rank["none"] for rank in ranks] == [([], {})] * 2


# -- what cannot be measured -------------------------------------------------------------------------------------------


def test_bad_settings_are_named(tiny_cfg):
    for keys, message in (
        ({"SOLVER__GRADIENT_BALANCE_PERIOD": -1}, "GRADIENT_BALANCE_PERIOD is -1"),
        ({"MODEL__SHARING": "none", "SOLVER__GRADIENT_BALANCE_PERIOD": 5}, "MODEL.SHARING 'none'"),
        ({"MODEL__SEM_SEG_HEAD__LOSS_WEIGHT": 0.0, "SOLVER__GRADIENT_BALANCE_PERIOD": 5}, "LOSS_WEIGHT is 0.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            GradientBalance.from_config(changed(tiny_cfg, **keys))
    hook = GradientBalance(1, 1.0)
    model = build_model(tiny_cfg)
    freeze_parts(model, ["backbone.bottom_up"])
    hook.trainer = SimpleNamespace(model=model)
    with pytest.raises(ConfigError, match="no layer of backbone.bottom_up is trained"):
        hook.before_train()
    hook.trainer.model = torch.nn.Linear(1, 1)
    with pytest.raises(ConfigError, match="has no backbone.bottom_up"):
        hook.before_train()


def test_a_frozen_branch_has_no_gradient(tiny_cfg, tmp_path, one_thread):
    trainer = train(tiny_cfg, tmp_path, SOLVER__GRADIENT_BALANCE_PERIOD=4, MODEL__FREEZE="['sem_seg_head']")
    latest = trainer.storage.latest()
    assert latest["gradient_balance/stuff"][0] == 0 and latest["gradient_balance/instance"][0] > 0
    assert "gradient_balance/equal_loss_weight" not in latest
