"""Plugins: modules of other packages that add stuff heads, fusions, backbones, networks and config keys.

Importing a plugin registers its parts, as in detectron2. Its function `add_config(cfg)`, if it has one, adds its keys
to every config that `get_cfg` creates. A plugin is loaded only if the user requests it, in one of two ways:

- it is installed, and its package has an entry point in the group `panoptic_fusion.plugins`;
- `--plugin MODULE` on the command line, or `load_plugins(["MODULE"])` in Python before the first config is created.

Processes that a job starts load the same plugins, because they inherit the names in an environment variable. A
config.yaml contains the names of the plugins that were loaded when it was written (PLUGINS). Reading it imports
nothing. If a key or a part is unknown, the error names the plugins of the config that are not loaded.
"""

import importlib
import os
from collections.abc import Iterable
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode

from panoptic_fusion.errors import ConfigError, one_line

GROUP = "panoptic_fusion.plugins"
VARIABLE = "PANOPTIC_FUSION_PLUGINS"  # comma-separated module names, for the child processes of this process

_loaded: dict[str, ModuleType] = {}  # in the order of loading


def load_plugins(names: Iterable[str] = ()) -> list[str]:
    """Imports plugins, each once per process: from entry points, from the parent process, then `names`.

    Call this before creating configs: an existing config does not get the plugins' keys.

    Args:
        names: module names as after `import`, such as "my_package.my_module".

    Returns:
        The names of all loaded plugins.

    Raises:
        ConfigError: if a plugin cannot be imported. The message names the plugin and the reason.
    """
    if isinstance(names, str):
        names = [names]
    inherited = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    asked_for = list(dict.fromkeys([*inherited, *names]))
    for entry_point in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        package = f" of the package {entry_point.dist.name}" if entry_point.dist else ""
        _load(entry_point.module, f"entry point {entry_point.name!r}{package}; repair or uninstall it")
    for name in asked_for:
        _load(name, "name a module as after `import`, in an installed package or a folder of PYTHONPATH")
    if asked_for:
        os.environ[VARIABLE] = ",".join(asked_for)
    return list(_loaded)


def add_plugin_configs(cfg: CfgNode) -> None:
    """Loads the plugins and lets each add its keys to `cfg`, in place.

    Raises:
        ConfigError: if a plugin cannot be imported, or its `add_config` fails or changes keys that are not its own.
    """
    load_plugins()
    for name, module in _loaded.items():
        if not hasattr(module, "add_config"):
            continue
        before = cfg.clone()
        try:
            module.add_config(cfg)
        except Exception as error:
            raise ConfigError(f"plugin {name}: add_config raised {type(error).__name__}: {one_line(error)}") from error
        changed = _changed_key(before, cfg)
        if changed:
            raise ConfigError(
                f"plugin {name}: add_config changed {changed}, which it did not add: set that in a config file"
            )


def missing_plugins(recorded: Any) -> str:
    """Returns the part of an error message about plugins that a config names and that are not loaded, or "".

    Args:
        recorded: value of PLUGINS, as read from a file.
    """
    names = [str(name) for name in recorded] if isinstance(recorded, list | tuple) else []
    missing = [name for name in names if name not in _loaded]
    if not missing:
        return ""
    flags = " ".join(f"--plugin {name}" for name in missing)
    return (
        f" (the config was written with the plugin{'s' * (len(missing) > 1)} {', '.join(missing)}, not loaded now: add "
        f"{flags}, or call panoptic_fusion.load_plugins({missing}) first)"
    )


def _changed_key(before: CfgNode, after: CfgNode) -> str:
    """Returns a key of `before` that has a different value in `after` or no longer exists; "" if there is none."""
    for key, value in before.items():
        if isinstance(value, CfgNode) and isinstance(after.get(key), CfgNode):
            below = _changed_key(value, after[key])
            if below:
                return f"{key}.{below}"
        elif key not in after or after[key] != value:
            return key
    return ""


def _load(name: str, remedy: str) -> None:
    if name in _loaded:
        return
    try:
        _loaded[name] = importlib.import_module(name)
    except Exception as error:  # third-party code may raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"plugin {name!r} cannot be imported ({reason}): {remedy}") from error
