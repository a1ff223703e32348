"""The mean residual between the two heads' things masks over a data set (TASCNet, section 3.2 and figure 3)."""

from collections import OrderedDict

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .repeated_images import first_of_each


class ResidualEvaluator(DatasetEvaluator):
    """Mean of |semantic things mask - flattened instances| over the pixels of each image, then over the images.

    It reads the output `things_masks` of PanopticRCNN (see `modeling.fusion.tasc_loss.things_masks`). No ground truth
    is used: two heads that both miss a thing agree, so the number says something only next to PQ. An image that is
    shown twice counts once.
    """

    def __init__(self, *, distributed: bool = True):
        """
        Args:
            distributed: collect from all processes.
        """
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Forgets all images."""
        self._means = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Adds a batch of images."""
        for image, output in zip(inputs, outputs, strict=True):
            semantic, instance = output["things_masks"]
            self._means.setdefault(image["image_id"], (semantic - instance).abs().mean())

    def evaluate(self) -> OrderedDict:
        """{"residual": {"mean": in percent}}, NaN without an image; in the first process only, elsewhere empty."""
        kept = first_of_each(self._means) if self._distributed else self._means
        means = [float(self._means[image_id]) for image_id in kept]
        if self._distributed:
            means = [mean for part in comm.gather(means) for mean in part]
            if not comm.is_main_process():
                return OrderedDict()
        mean = sum(means) / len(means) if means else float("nan")
        return OrderedDict({"residual": {"mean": 100 * mean}})
