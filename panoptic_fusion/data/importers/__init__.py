"""Imports the files of annotation tools as a COCO panoptic dataset, with one reader per format."""

from .formats import FORMATS, UnknownFormat
from .run import ImportResult, import_annotations

__all__ = ["FORMATS", "ImportResult", "UnknownFormat", "import_annotations"]
