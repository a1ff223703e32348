"""Reads a config from a YAML file and KEY VALUE pairs, with one-line errors that name the file or the key."""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode

from panoptic_fusion.config.defaults import find_config, get_cfg
from panoptic_fusion.errors import ConfigError, one_line
from panoptic_fusion.modeling.fusion import PanopticFusion

from .plugins import missing_plugins

# Errors of yacs, fvcore and detectron2 for an unknown key, a wrong type, an odd number of words, a missing base, ...
_MERGE_ERRORS = (
    KeyError,
    ValueError,
    AssertionError,
    TypeError,
    AttributeError,
    SyntaxError,
    RecursionError,
    MemoryError,
)

# Keys of configs that were saved before: their names now.
RENAMED_KEYS = {"MODEL.TIMM.OWN_NORMALIZATION": "MODEL.TIMM.ALLOW_NORMALIZATION_MISMATCH"}


def read_config(config_file: str | os.PathLike | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Returns the default config, changed by a YAML file and then by KEY VALUE pairs. Not resolved, not frozen.

    Args:
        config_file: path to a YAML file or the name of one of the project's configs (see `find_config`); None or "" for
            the defaults.
        opts: KEY, VALUE, KEY, VALUE, ...

    Raises:
        FileNotFoundError: if the file does not exist.
        ConfigError: if the file is not a YAML file of known keys, or if `opts` has an unknown key or a value of the
            wrong type, or requests a GPU on a machine without one (a GPU in a file is replaced by the CPU, see
            `resolve_config`).
    """
    cfg = get_cfg()
    if config_file:
        merge_file(cfg, config_file)
    merge_opts(cfg, opts)
    return cfg


def merge_file(cfg: CfgNode, config_file: str | os.PathLike) -> None:
    """Merges a YAML file into `cfg`, in place. Tags that run code are refused. For errors see `read_config`."""
    config_file = find_config(config_file)
    check_bases(config_file)
    try:
        loaded = CfgNode(cfg.load_yaml_with_base(config_file, allow_unsafe=False))
        if rename_keys(loaded) or loaded.get("VERSION") == cfg.VERSION:
            cfg.merge_from_other_cfg(loaded)
        else:  # detectron2 reads the file again, and upgrades it if it is of an older version
            cfg.merge_from_file(config_file, allow_unsafe=False)
    except _MERGE_ERRORS as error:
        hint = _missing_plugins_of(config_file) or similar_key(cfg, error)
        raise ConfigError(f"{config_file}: {one_line(error)}{hint}") from error


def check_bases(config_file: str | os.PathLike, inner: tuple[str, ...] = ()) -> None:
    """Checks a YAML file and, recursively, the files that `_BASE_` names in it. Nothing is downloaded.

    Args:
        config_file: existing file.
        inner: real paths of the files that have it as a base.

    Raises:
        FileNotFoundError: if a base does not exist or is not a file.
        ConfigError: if a file is not YAML, has no keys, or is its own base, or if a base is a URL.
    """
    config_file = os.fspath(config_file)
    inner = (*inner, os.path.realpath(config_file))
    try:
        content = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{config_file} is not valid yaml: {one_line(error)[:500]}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{config_file}: the file has no config keys")
    bases = content.get("_BASE_", [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str) or not base:
            raise ConfigError(f"{config_file}: _BASE_ is {base!r}: name a yaml file")
        if "://" in base:
            raise ConfigError(f"{config_file}: _BASE_ is {base}, which is never downloaded: name a file")
        path = os.path.join(os.path.dirname(config_file), os.path.expanduser(base))  # resolved as in detectron2
        if not os.path.isfile(path):
            what = "is a folder" if os.path.isdir(path) else "does not exist"
            raise FileNotFoundError(f"{config_file}: _BASE_ {path} {what}: name a yaml file")
        if os.path.realpath(path) in inner:
            raise ConfigError(
                f"{config_file}: _BASE_ {base} leads back to this file: choose another file, or remove it"
            )
        check_bases(path, inner)


def similar_key(cfg: CfgNode, error: BaseException) -> str:
    """Returns "; did you mean KEY?" for an error about an unknown key that resembles one of `cfg`, else ""."""
    unknown = re.search(r"Non-existent (?:config )?key: ?(\S+)", str(error))
    if unknown is None:
        return ""
    keys = [key for key, _ in leaves(cfg)]
    known = list(dict.fromkeys(key[: dot.start()] for key in keys for dot in re.finditer(r"\.|$", key)))
    found = difflib.get_close_matches(unknown[1].strip("'\"").upper(), known, n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def rename_keys(loaded: CfgNode) -> bool:
    """Moves the values of `RENAMED_KEYS` to the new names, in place. Returns whether there was one."""
    found = False
    for old, new in RENAMED_KEYS.items():
        *sections, name = old.split(".")
        node = loaded
        for section in sections:
            node = node.get(section) if isinstance(node, dict) else None
        if isinstance(node, dict) and name in node:
            found = True
            node[new.rpartition(".")[2]] = node.pop(name)
    return found


def _missing_plugins_of(config_file: str) -> str:
    try:
        return missing_plugins(CfgNode.load_yaml_with_base(config_file, allow_unsafe=False).get("PLUGINS"))
    except Exception:  # the file itself could not be read: the first error states the reason
        return ""


def merge_opts(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Merges KEY VALUE pairs into `cfg`, in place. For errors see `read_config`."""
    opts = list(opts)
    if len(opts) % 2:
        raise ConfigError(f"options come in pairs KEY VALUE; {len(opts)} words were given: {' '.join(map(str, opts))}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        key = RENAMED_KEYS.get(key, key)
        if key == "MODEL.DEVICE" and str(value).startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"option {key} {value}: no GPU is available; remove it, or use cpu")
        section, _, name = str(key).rpartition(".")
        if section == "MODEL.PANOPTIC_FUSION" and name in PanopticFusion.thresholds:
            cfg.MODEL.PANOPTIC_FUSION[name] = None  # None accepts an int instead of a float, see `check_values`
        try:
            cfg.merge_from_list([key, value])
        except _MERGE_ERRORS as error:
            raise ConfigError(
                f"option {key} {' '.join(str(value).split())[:200]}: {one_line(error)[:500]}{similar_key(cfg, error)}"
            ) from error


def leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (KEY, value) of all keys, such as ("MODEL.DEVICE", "cpu"), each with `prefix` before it."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
