"""Mean residual between the things masks of the two heads over a dataset (TASCNet, section 3.2 and figure 3)."""

from collections import OrderedDict

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from .repeated_images import first_of_each


class ResidualEvaluator(DatasetEvaluator):
    """Evaluator of the mean of |semantic things mask - flattened instances| per image, then over the images.

    It reads the output `things_masks` of PanopticRCNN (see `modeling.fusion.tasc_loss.things_masks`). It uses no ground
    truth: two heads that both miss a thing agree, so the residual is meaningful only together with PQ. A repeated image
    counts once.
    """

    def __init__(self, *, distributed: bool = True):
        """Initializes the evaluator.

        Args:
            distributed: whether to collect from all processes.
        """
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Removes all images seen so far."""
        self._means = {}

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """Adds a batch of images."""
        for image, output in zip(inputs, outputs, strict=True):
            semantic, instance = output["things_masks"]
            self._means.setdefault(image["image_id"], (semantic - instance).abs().mean())

    def evaluate(self) -> OrderedDict:
        """Returns {"residual": {"mean": in percent}} on rank 0 (NaN without images), and an empty dict elsewhere."""
        kept = first_of_each(self._means) if self._distributed else self._means
        means = [float(self._means[image_id]) for image_id in kept]
        if self._distributed:
            means = [mean for part in comm.gather(means) for mean in part]
            if not comm.is_main_process():
                return OrderedDict()
        mean = sum(means) / len(means) if means else float("nan")
        return OrderedDict({"residual": {"mean": 100 * mean}})
