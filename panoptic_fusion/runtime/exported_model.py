"""Metadata of an exported model: classes, fusion, and how images are resized."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from panoptic_fusion.data.label_space import ONTOLOGIES, LabelSpace
from panoptic_fusion.errors import UserError

from .resize_image import ResizeRule
from .settings import FusionSettings

METADATA_KEY = "panoptic_fusion"
RANKING_MODULE_KEY = "panoptic_fusion.ranking_module"
FORMAT = 1
OUTPUTS = ("sem_seg", "instances", "panoptic_seg")


@dataclass(frozen=True)
class ExportedModel:
    """Metadata of an exported model.

    Attributes:
        label_space: thing and stuff classes.
        num_channels: number of semantic channels.
        fusion: fusion and its settings.
        channel_order: "BGR" or "RGB", the channels that the network expects.
        resize: size rule of the network's input.
        batch: number of images per run of the network.
        outputs: names of the outputs of the exported model.
    """

    label_space: LabelSpace
    num_channels: int
    fusion: FusionSettings
    channel_order: str
    resize: ResizeRule
    batch: int
    outputs: tuple[str, ...]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> ExportedModel:
        """Reads the metadata properties of a model file.

        Raises:
            UserError: if they are missing, written for another version, or invalid.
        """
        text = metadata.get(METADATA_KEY)
        if text is None:
            raise UserError(
                f"the model has no metadata {METADATA_KEY!r}, so its classes and fusion are unknown: export it with "
                "`panoptic-fusion export`"
            )
        try:
            content = json.loads(text)
        except ValueError:
            raise UserError(f"the metadata {METADATA_KEY!r} is not JSON: export the model again") from None
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise UserError(
                f"the metadata {METADATA_KEY!r} has the format {found!r}, but this version reads {FORMAT}: export the "
                "model again"
            )
        try:
            return cls._from_json(content)
        except UserError as error:
            raise UserError(f"the metadata {METADATA_KEY!r} is invalid: {error}") from None
        except KeyError as error:
            raise UserError(f"the metadata {METADATA_KEY!r} is invalid: {error.args[0]} is missing") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise UserError(f"the metadata {METADATA_KEY!r} is invalid: {error}") from None

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> ExportedModel:
        label_space = LabelSpace.from_categories(content["categories"])
        ontology, image, outputs = content["ontology"], content["input"], tuple(content["outputs"])
        if ontology not in ONTOLOGIES:
            raise UserError(f"ontology is {ontology!r}")
        if image["format"] not in ("BGR", "RGB"):
            raise UserError(f"input.format is {image['format']!r}")
        if image["interpolation"] != "bilinear":
            raise UserError(f"input.interpolation is {image['interpolation']!r}")
        if not outputs or not set(outputs) <= set(OUTPUTS):
            raise UserError(f"outputs is {list(outputs)}")
        size = image["size"]
        resize = ResizeRule(
            int(image["min_size"]), int(image["max_size"]), None if size is None else (int(size[0]), int(size[1]))
        )
        return cls(
            label_space,
            label_space.num_channels(ontology),
            FusionSettings.from_json(content["fusion"]),
            image["format"],
            resize,
            int(image["batch"]),
            outputs,
        )
