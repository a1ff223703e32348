"""Box head of Seamless Scene Segmentation (section 3.2): two linear layers with norm and LeakyReLU, and the predictor.

Shapes: R is the number of regions in all images, T the number of thing classes.
"""

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers, fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from panoptic_fusion.layers import check_norm, get_activated_norm
from panoptic_fusion.layers.activated_norm import ROI_NAMES

from .seamless_proposals import nms_threshold

LEAKY_GAIN = nn.init.calculate_gain("leaky_relu", 0.01)


@ROI_BOX_HEAD_REGISTRY.register()
class SeamlessBoxHead(nn.Module):
    """Average pooling by 2 (14x14 to 7x7), then two linear layers, each with norm and LeakyReLU.

    The norm is InPlaceABN in the published models; the paper's text has GroupNorm ("GN", with the published 16 groups).
    """

    @configurable
    def __init__(self, *, input_shape: ShapeSpec, fc_dim: int = 1024, norm: str = "InPlaceABN"):
        """Builds the layers.

        Args:
            input_shape: channels, height and width of the pooled features.
            fc_dim: width of both layers.
            norm: "InPlaceABN" or "GN", see `get_activated_norm`.
        """
        super().__init__()
        in_channels = input_shape.channels * (input_shape.height // 2) * (input_shape.width // 2)
        self.fc1 = nn.Linear(in_channels, fc_dim, bias=False)
        self.norm1 = get_activated_norm(norm, fc_dim)
        self.fc2 = nn.Linear(fc_dim, fc_dim, bias=False)
        self.norm2 = get_activated_norm(norm, fc_dim)
        for fc in (self.fc1, self.fc2):
            nn.init.xavier_normal_(fc.weight, LEAKY_GAIN)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        """Returns the constructor arguments from a config."""
        head = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "fc_dim": head.FC_DIM,
            "norm": check_norm("MODEL.ROI_BOX_HEAD.NORM", head.NORM, ROI_NAMES),
        }

    def forward(self, x: Tensor) -> Tensor:
        """Maps (R, C, 14, 14) to (R, fc_dim). R may be 0."""
        x = F.avg_pool2d(x, 2).flatten(1)
        x = self.norm1(self.fc1(x))
        return self.norm2(self.fc2(x))

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of the output (channels)."""
        return ShapeSpec(channels=self.fc2.out_features)


class SeamlessBoxPredictor(FastRCNNOutputLayers):
    """detectron2's class scores (background last) and class-specific deltas, with the published initialization.

    At inference, boxes without an area after clipping are dropped before NMS, and NMS also drops at the threshold.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, **kwargs):
        """Builds the predictor; arguments are forwarded to FastRCNNOutputLayers."""
        super().__init__(input_shape, **kwargs)
        nn.init.xavier_normal_(self.cls_score.weight, 0.01)
        nn.init.xavier_normal_(self.bbox_pred.weight, 0.001)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """Returns the detections and the indices of their proposals, as FastRCNNOutputLayers does."""
        image_sizes = [x.image_size for x in proposals]
        all_boxes, all_scores = [], []
        outputs = (self.predict_boxes(predictions, proposals), self.predict_probs(predictions, proposals))
        for raw_boxes, probs, size in zip(*outputs, image_sizes, strict=True):
            boxes = Boxes(raw_boxes.reshape(-1, 4))
            boxes.clip(size)
            has_area = boxes.nonempty().view(-1, raw_boxes.shape[1] // 4)
            # A score of 0 is never above the threshold, so these boxes are dropped. The last column is the background.
            all_scores.append(torch.cat([probs[:, :-1] * has_area, probs[:, -1:]], dim=1))
            all_boxes.append(boxes.tensor.view_as(raw_boxes))
        return fast_rcnn_inference(
            all_boxes,
            all_scores,
            image_sizes,
            self.test_score_thresh,
            nms_threshold(self.test_nms_thresh),
            self.test_topk_per_image,
        )
