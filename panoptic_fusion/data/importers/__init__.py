"""From the files of annotation tools to a COCO panoptic data set: one reader per format, one way to paint."""

from .formats import FORMATS
from .run import ImportResult, import_annotations

__all__ = ["FORMATS", "ImportResult", "import_annotations"]
