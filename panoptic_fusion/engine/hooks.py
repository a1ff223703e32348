"""Hooks that show the course of training: progress on the console, and predictions in TensorBoard."""

import datetime
import logging
import sys
import time

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from tqdm import tqdm

from panoptic_fusion.data.mapper import PanopticDatasetMapper, read_image
from panoptic_fusion.evaluation import restrict_outputs
from panoptic_fusion.visualization import draw_comparison, ground_truth_panoptic

logger = logging.getLogger(__name__)

MAX_HEIGHT = 512  # maximum height of the images in TensorBoard, in pixels


class Progress(HookBase):
    """Hook that shows iteration, total loss and ETA: a bar on a terminal, otherwise a log line every few seconds."""

    def __init__(self, interval: float = 10.0):
        """Initializes the hook.

        Args:
            interval: time between two log lines, in seconds.
        """
        self._interval = interval

    def before_train(self) -> None:
        """Opens the bar."""
        self._bar = tqdm(
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="it",
            desc="training",
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        self._start = self._last = time.monotonic()

    def after_step(self) -> None:
        """Updates the bar, or writes a line if one is due."""
        self._bar.update()
        if not self._bar.disable:
            if self.trainer.iter % 20 == 0 and (loss := self._loss()) is not None:
                self._bar.set_postfix(loss=f"{loss:.3f}")
            return
        now, done = time.monotonic(), self.trainer.iter + 1
        if now - self._last < self._interval and done < self.trainer.max_iter:
            return
        self._last = now
        left = (now - self._start) / (done - self.trainer.start_iter) * (self.trainer.max_iter - done)
        loss = self._loss()
        logger.info(
            "iteration %d of %d%s, ETA %s", done, self.trainer.max_iter, "" if loss is None else f", loss {loss:.3f}",
            datetime.timedelta(seconds=round(left)),
        )  # fmt: skip

    def after_train(self) -> None:
        """Closes the bar."""
        self._bar.close()

    def _loss(self) -> float | None:
        history = get_event_storage().histories().get("total_loss")
        return None if history is None else history.median(20)


class VisualizePredictions(HookBase):
    """Hook that draws image, ground truth and prediction of a few test images every VIS_PERIOD iterations.

    The images come from DATASETS.TEST[0] (DATASETS.TRAIN[0] if there is no test dataset). They are always the same, so
    that TensorBoard's slider shows how the prediction develops. Large images are reduced.
    """

    def __init__(self, cfg: CfgNode, num_images: int = 2):
        """Initializes the hook.

        Args:
            cfg: resolved config.
            num_images: number of images.
        """
        name = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
        self._metadata = MetadataCatalog.get(name)
        dicts = DatasetCatalog.get(name)
        self._dicts = dicts[:: max(len(dicts) // num_images, 1)][:num_images]
        self._mapper = PanopticDatasetMapper(cfg, is_train=False)
        self._period = cfg.VIS_PERIOD

    def after_step(self) -> None:
        """Writes the figures if they are due."""
        if (self.trainer.iter + 1) % self._period:
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        training = model.training
        model.eval()
        try:
            for i, dataset_dict in enumerate(self._dicts):
                with torch.no_grad(), restrict_outputs(model, ["panoptic"]):
                    output = model([self._mapper(dataset_dict)])[0]
                image = read_image(dataset_dict, "RGB", max_pixels=self._mapper.max_pixels)
                panel = draw_comparison(
                    image, ground_truth_panoptic(dataset_dict), output["panoptic_seg"], self._metadata
                )
                if panel.shape[0] > MAX_HEIGHT:
                    factor = MAX_HEIGHT / panel.shape[0]
                    panel = cv2.resize(panel, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
                get_event_storage().put_image(f"panoptic/{i}", torch.from_numpy(panel.transpose(2, 0, 1).copy()))
        finally:
            model.train(training)
