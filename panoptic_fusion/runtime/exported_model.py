"""Metadata of an exported model: classes, fusion, and how images are resized."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from panoptic_fusion.data.label_space import ONTOLOGIES, LabelSpace
from panoptic_fusion.errors import UserError

from .resize_image import ResizeRule
from .settings import FusionSettings, is_count, is_pair

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
        except (TypeError, AttributeError) as error:
            raise UserError(f"the metadata {METADATA_KEY!r} is invalid: {error}") from None

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> ExportedModel:
        label_space = LabelSpace.from_categories(content["categories"])
        ontology, image, outputs = content["ontology"], content["input"], tuple(content["outputs"])
        size = image["size"]
        for name, value, is_valid in (
            ("ontology", ontology, ontology in ONTOLOGIES),
            ("outputs", list(outputs), outputs and all(x in OUTPUTS for x in outputs)),
            ("input.format", image["format"], image["format"] in ("BGR", "RGB")),
            ("input.interpolation", image["interpolation"], image["interpolation"] == "bilinear"),
            ("input.min_size", image["min_size"], is_count(image["min_size"])),
            ("input.max_size", image["max_size"], is_count(image["max_size"])),
            ("input.size", size, size is None or is_pair(size)),
            ("input.batch", image["batch"], is_count(image["batch"], 1)),
        ):
            if not is_valid:
                raise UserError(f"{name} is {value!r}")
        return cls(
            label_space,
            label_space.num_channels(ontology),
            FusionSettings.from_json(content["fusion"]),
            image["format"],
            ResizeRule(image["min_size"], image["max_size"], None if size is None else (size[0], size[1])),
            image["batch"],
            outputs,
        )
