"""Fills the registries that configs name parts from."""

import importlib

# Imported by name: networks are built above the config, which only needs their names to be known.
OWN_PARTS = ("panoptic_fusion.modeling", "panoptic_fusion.networks", "panoptic_fusion.data.datasets")


def register_parts() -> None:
    """Registers this project's networks, heads, fusions and data sets in detectron2's registries and its own."""
    for name in OWN_PARTS:
        importlib.import_module(name)
