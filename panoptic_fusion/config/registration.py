"""Fills the registries of the parts that configs refer to by name."""

import importlib

# Imported by name: the networks depend on the config package, which only needs their names to be registered.
OWN_PARTS = ("panoptic_fusion.modeling", "panoptic_fusion.networks", "panoptic_fusion.data.datasets")


def register_parts() -> None:
    """Registers this project's networks, heads, fusions and datasets in detectron2's and the project's registries."""
    for name in OWN_PARTS:
        importlib.import_module(name)
