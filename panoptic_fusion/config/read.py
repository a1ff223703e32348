"""A config from a yaml file and KEY VALUE pairs, with errors that name the file or the key in one line."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

from panoptic_fusion.config.defaults import find_config, get_cfg
from panoptic_fusion.errors import ConfigError, one_line
from panoptic_fusion.modeling.fusion import PanopticFusion

from .plugins import missing_plugins

# What yacs, fvcore and detectron2 raise for an unknown key, a wrong type, an odd number of words, a missing base, ...
_MERGE_ERRORS = (KeyError, ValueError, AssertionError, TypeError, AttributeError)


def read_config(config_file: str | os.PathLike | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """The project's default config, changed by a yaml file and then by KEY VALUE pairs. Not resolved, not frozen.

    Args:
        config_file: a yaml file or the name of one of the project's configs (see `find_config`); None or "" for the
            defaults.
        opts: KEY, VALUE, KEY, VALUE, ...

    Raises:
        FileNotFoundError: no such file.
        ConfigError: it is no yaml of known keys, or `opts` has an unknown key, a value of the wrong type, or asks for
            a GPU where there is none (that of a file gives way to the CPU, see `resolve_config`).
    """
    cfg = get_cfg()
    if config_file:
        merge_file(cfg, config_file)
    merge_opts(cfg, opts)
    return cfg


def merge_file(cfg: CfgNode, config_file: str | os.PathLike) -> None:
    """Merges a yaml file into `cfg`, in place. Tags that run code are refused. For errors see `read_config`."""
    config_file = find_config(config_file)
    try:
        if not isinstance(yaml.safe_load(open(config_file, encoding="utf-8")), dict):
            raise ConfigError(f"{config_file}: the file has no config keys")
        cfg.merge_from_file(config_file, allow_unsafe=False)
    except (ConfigError, FileNotFoundError):
        raise
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config_file} is not valid yaml: {one_line(error)}") from error
    except _MERGE_ERRORS as error:
        raise ConfigError(f"{config_file}: {one_line(error)}{_missing_plugins_of(config_file)}") from error


def _missing_plugins_of(config_file: str) -> str:
    try:
        return missing_plugins(CfgNode.load_yaml_with_base(config_file, allow_unsafe=False).get("PLUGINS"))
    except Exception:  # the file is what could not be read: the first error says why
        return ""


def merge_opts(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merges KEY VALUE pairs into `cfg`, in place. For errors see `read_config`."""
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"options come in pairs KEY VALUE; {len(opts)} words were given: {' '.join(map(str, opts))}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        if key == "MODEL.DEVICE" and str(value).startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"option {key} {value}: there is no GPU here; leave it out, or use cpu")
        section, _, name = str(key).rpartition(".")
        if section == "MODEL.PANOPTIC_FUSION" and name in PanopticFusion.thresholds:
            cfg.MODEL.PANOPTIC_FUSION[name] = None  # which takes an int in place of a float, see `check_values`
        try:
            cfg.merge_from_list([key, value])
        except _MERGE_ERRORS as error:
            raise ConfigError(f"option {key} {value}: {one_line(error)}") from error


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(KEY, value) of all keys, such as ("MODEL.DEVICE", "cpu"), each with `prefix` before it."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
