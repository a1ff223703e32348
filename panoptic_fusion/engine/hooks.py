"""What training shows of itself: a bar on a terminal, and pictures of predictions in TensorBoard."""

import sys

import cv2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils.events import get_event_storage
from tqdm import tqdm

from panoptic_fusion.data.mapper import PanopticDatasetMapper, read_image
from panoptic_fusion.evaluation import only_needed_outputs
from panoptic_fusion.visualization import draw_comparison, ground_truth_panoptic

MAX_HEIGHT = 512  # pixels of the pictures in TensorBoard


class ProgressBar(HookBase):
    """A bar with ETA and the total loss; only where stderr is a terminal (logs have detectron2's ETA lines)."""

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

    def after_step(self) -> None:
        """Moves the bar."""
        self._bar.update()
        if not self._bar.disable and self.trainer.iter % 20 == 0:
            history = get_event_storage().histories().get("total_loss")
            if history is not None:
                self._bar.set_postfix(loss=f"{history.median(20):.3f}")

    def after_train(self) -> None:
        """Closes the bar."""
        self._bar.close()


class VisualizePredictions(HookBase):
    """Every VIS_PERIOD iterations: image, ground truth and prediction side by side, for a few test images.

    The images come from DATASETS.TEST[0] (DATASETS.TRAIN[0] if there is none) and stay the same, so that TensorBoard's
    slider shows how the prediction develops. Large ones are made smaller.
    """

    def __init__(self, cfg: CfgNode, num_images: int = 2):
        """
        Args:
            cfg: a resolved config.
            num_images: how many images.
        """
        name = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)[0]
        self._metadata = MetadataCatalog.get(name)
        dicts = DatasetCatalog.get(name)
        self._dicts = dicts[:: max(len(dicts) // num_images, 1)][:num_images]
        self._mapper = PanopticDatasetMapper(cfg, is_train=False)
        self._period = cfg.VIS_PERIOD

    def after_step(self) -> None:
        """Writes the pictures, if it is time."""
        if (self.trainer.iter + 1) % self._period:
            return
        model = getattr(self.trainer.model, "module", self.trainer.model)
        training = model.training
        model.eval()
        try:
            for i, dataset_dict in enumerate(self._dicts):
                with torch.no_grad(), only_needed_outputs(model, ["panoptic"]):
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
