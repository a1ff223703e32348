"""Trainer based on detectron2's DefaultTrainer, with the project's data, checkpoints and evaluators."""

import contextlib
import logging
import os
import weakref
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.evaluation import DatasetEvaluators
from detectron2.modeling import build_model
from detectron2.utils import comm

from panoptic_fusion.checkpoint import last_checkpoint
from panoptic_fusion.config import with_values
from panoptic_fusion.data.mapper import PanopticDatasetMapper
from panoptic_fusion.data.training_data import training_data
from panoptic_fusion.errors import ConfigError, UserError
from panoptic_fusion.evaluation import build_evaluators, restrict_outputs
from panoptic_fusion.files import remove_partial_files, safe_name
from panoptic_fusion.layers import freeze_norm_parameters
from panoptic_fusion.locks import locked_folder
from panoptic_fusion.networks.freeze import freeze_parts

from .best_checkpoint import BestCheckpoint
from .divergence import StopOnDivergence
from .gradient_balance import GradientBalance
from .hooks import Progress, VisualizePredictions
from .initial_weights import training_checkpointer
from .loss_metrics import LOG_PERIOD, LossMetrics
from .mixed_precision import DTYPES, MixedPrecisionTrainer
from .schedule import build_scheduler, warn_of_low_rate


class FullPrecisionTrainer(LossMetrics, SimpleTrainer):
    """Variant of detectron2's SimpleTrainer that records the losses, see `LossMetrics`."""


class PanopticTrainer(DefaultTrainer):
    """Trainer that trains, evaluates and resumes a model of this project; supports CPUs with several gloo processes."""

    def __init__(self, cfg: CfgNode):
        """Initializes the trainer.

        Args:
            cfg: resolved config (`resolve_config`).
        """
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cpu = next(model.parameters()).device.type == "cpu"
        ddp_options = {"device_ids": None} if on_cpu else {}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp_options)
        if cfg.SOLVER.AMP.ENABLED:
            self._trainer = MixedPrecisionTrainer(model, data_loader, optimizer, DTYPES[cfg.SOLVER.AMP.DTYPE])
        else:
            self._trainer = FullPrecisionTrainer(model, data_loader, optimizer)
        self._trainer.gather_metric_period = 1 if on_cpu else LOG_PERIOD  # reading a loss on a CPU costs nothing
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        warn_of_low_rate(cfg)
        self.checkpointer = training_checkpointer(cfg, model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self._stop_on_divergence = StopOnDivergence(cfg, self.checkpointer, self._trainer.record)
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list:
        """Builds detectron2's hooks, this project's hooks that the config enables, and a progress display."""
        hooks = [self._stop_on_divergence, *super().build_hooks()]
        if self.cfg.SOLVER.GRADIENT_BALANCE_PERIOD:
            hooks.insert(0, GradientBalance.from_config(self.cfg))  # at the same position in all processes
        if comm.is_main_process():
            extra = [Progress()]
            if self.cfg.VIS_PERIOD > 0 and "panoptic_seg" in self.cfg.MODEL.PANOPTIC_FUSION.OUTPUTS:
                extra.append(VisualizePredictions(self.cfg))
            if self.cfg.TEST.BEST_METRIC:
                extra.insert(0, BestCheckpoint(self.checkpointer, self.cfg.TEST.BEST_METRIC, self.cfg.DATASETS.TEST))
            hooks[-1:-1] = extra  # before the writers, which come last
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Loads the last checkpoint or MODEL.WEIGHTS, see DefaultTrainer.

        Also removes partially written files of killed runs from OUTPUT_DIR. A resumed run takes learning rate, momentum
        and weight decay from the config, not from the checkpoint.

        Raises:
            ConfigError: if the config and the checkpoint have different parameter groups.
            UserError: if the processes of a job would resume from different checkpoints; raised in all processes.
        """
        check_same_start(last_checkpoint(self.cfg.OUTPUT_DIR) if resume else None)
        if comm.is_main_process():
            remove_partial_files(self.cfg.OUTPUT_DIR)
        try:
            super().resume_or_load(resume)
        except ValueError as error:
            if "parameter group" not in str(error):
                raise
            raise ConfigError(
                f"the optimizer in {self.cfg.OUTPUT_DIR} has other parameter groups than SOLVER specifies: keep "
                "SOLVER.BIAS_LR_FACTOR, WEIGHT_DECAY_BIAS and WEIGHT_DECAY_NORM, or train without --resume"
            ) from error
        if self.start_iter > 0:
            self._take_rates_of_config()
        if self.start_iter >= self.max_iter:
            logging.getLogger(__name__).warning(
                "%s has %d iterations, SOLVER.MAX_ITER is %d: nothing is left to train, it is only evaluated",
                self.cfg.OUTPUT_DIR, self.start_iter, self.max_iter,
            )  # fmt: skip

    def _take_rates_of_config(self) -> None:
        groups = self._trainer.optimizer.param_groups
        fresh = self.build_optimizer(self.cfg, self._trainer.model).param_groups
        self.scheduler.base_lrs = [group["lr"] for group in fresh]
        for group, new, rate in zip(groups, fresh, self.scheduler.get_lr(), strict=True):
            settings = {key: value for key, value in new.items() if key != "params"}
            group.update(settings, initial_lr=new["lr"], lr=rate)

    def run_step(self) -> None:
        """Runs one iteration, see DefaultTrainer.

        Raises:
            DivergenceError: if the iteration failed because numbers are no longer finite.
        """
        try:
            super().run_step()
            if self.iter + 1 == self.max_iter:
                self._trainer.write_pending_metrics()
        except Exception as error:
            self._stop_on_divergence.explain(error)
            raise

    @classmethod
    def test(cls, cfg: CfgNode, model: torch.nn.Module, evaluators: list | None = None) -> OrderedDict:
        """Evaluates a model, see DefaultTrainer.

        Without `evaluators`, it uses the evaluators of `build_evaluator`, and the model computes only the outputs that
        they need. All processes of a job evaluate with the buffers (BN running statistics) of rank 0, which the
        checkpoint also contains. During training, each process has its own buffers.
        """
        if comm.get_world_size() > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)
        if evaluators is not None:
            return super().test(cfg, model, evaluators)
        with contextlib.ExitStack() as stack:
            if comm.is_main_process():
                for name in dict.fromkeys(cfg.DATASETS.TEST):
                    folder = evaluation_folder(cfg, name)
                    os.makedirs(folder, exist_ok=True)
                    stack.enter_context(locked_folder(folder, f"the evaluation in {folder}"))
            stack.enter_context(restrict_outputs(model, cfg.TEST.EVALUATORS))
            return super().test(cfg, model)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Builds the model and logs its parameter count, but not its layers."""
        # detectron2's mask head would add images under a new name each time to TensorBoard
        model = build_model(with_values(cfg, {"VIS_PERIOD": 0}))
        freeze_parts(model, cfg.MODEL.FREEZE)
        if cfg.MODEL.FREEZE_NORMS:
            freeze_norm_parameters(model)
        count = sum(p.numel() for p in model.parameters())
        logging.getLogger(__name__).info("%s with %.2f M parameters", type(model).__name__, count / 1e6)
        return model

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer):
        """Builds the learning rate scheduler, see `build_scheduler`."""
        return build_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        """Builds the loader of batches of `PanopticDatasetMapper`'s dicts for the images of `training_data`."""
        mapper = PanopticDatasetMapper(cfg, is_train=True)
        dataset, sampler = training_data(cfg)
        return build_detection_train_loader(cfg, mapper=mapper, dataset=dataset, sampler=sampler)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        """Builds the loader of the images of one dataset, with one image per batch."""
        return build_detection_test_loader(cfg, dataset_name, mapper=PanopticDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluators:
        """Builds the evaluators that the dataset's metadata and TEST.EVALUATORS specify."""
        return build_evaluators(cfg, dataset_name, evaluation_folder(cfg, dataset_name))

    def train(self) -> OrderedDict | None:
        """Trains from the current to the last iteration.

        Returns:
            The results of the last evaluation, if any; with TEST.BEST_METRIC, the results of the best evaluation.
        """
        super().train()
        return getattr(self, "_last_eval_results", None)


def evaluation_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Returns the output folder of an evaluation on a dataset."""
    return os.path.join(cfg.OUTPUT_DIR, "inference", safe_name(dataset_name))


def check_same_start(mine: tuple[str, int] | None) -> None:
    """Checks that all processes resume from the same checkpoint, by its name and iteration; each process calls it.

    Raises:
        UserError: if they do not, for example because each machine has its own OUTPUT_DIR; raised in all processes.
    """
    starts = [f"{start[0]} of iteration {start[1]}" if start else "no checkpoint" for start in comm.all_gather(mine)]
    for rank, start in enumerate(starts):
        if start != starts[0]:
            raise UserError(
                f"--resume: process 0 resumes from {starts[0]}, process {rank} from {start}: OUTPUT_DIR must be a "
                "folder that all machines share, or copy last_checkpoint and the file it names to each machine"
            )
