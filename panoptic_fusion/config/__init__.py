"""Configuration: keys and their defaults, reading YAML files, checks, and values that follow from the data."""

from .defaults import add_panoptic_fusion_config, config_file, default_output_dir, find_config, get_cfg
from .plugins import load_plugins
from .read import merge_opts, read_config
from .resolve import resolve_config, with_values

__all__ = [
    "add_panoptic_fusion_config",
    "config_file",
    "default_output_dir",
    "find_config",
    "get_cfg",
    "load_plugins",
    "merge_opts",
    "read_config",
    "resolve_config",
    "with_values",
]
