"""Modules of version 0.1.0 that have moved: importing one gives its replacement and a DeprecationWarning."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "check_config": "config.check",
    "read_config": "config.read",
    "resolve": "config.resolve",
    "trained": "networks.trained",
    "data.toy_drawing": "data.toy.drawing",
    "data.toy_rendering": "data.toy.rendering",
    "data.toy_scenes": "data.toy.scenes",
    "modeling.freeze": "networks.freeze",
    "modeling.independent": "networks.independent",
    "modeling.meta_arch": "networks.panoptic_rcnn",
    "modeling.single_task": "networks.single_task",
    "modeling.fusion.class_assignment": "modeling.fusion.upsnet.class_assignment",
    "modeling.fusion.mask_guided": "modeling.fusion.tascnet.mask_guided",
    "modeling.fusion.mask_logit_crops": "modeling.fusion.upsnet.mask_logit_crops",
    "modeling.fusion.mask_pruning": "modeling.fusion.upsnet.mask_pruning",
    "modeling.fusion.overlapping_masks": "modeling.fusion.oanet.overlapping_masks",
    "modeling.fusion.panoptic_argmax": "modeling.fusion.upsnet.panoptic_argmax",
    "modeling.fusion.spatial_ranking": "modeling.fusion.oanet.spatial_ranking",
    "modeling.fusion.spatial_ranking_module": "modeling.fusion.oanet.spatial_ranking_module",
    "modeling.fusion.tasc_loss": "modeling.fusion.tascnet.tasc_loss",
    "modeling.fusion.unknown_channel": "modeling.fusion.upsnet.unknown_channel",
    "modeling.fusion.upsnet_boxes": "modeling.fusion.upsnet.boxes",
    "modeling.fusion.upsnet_training": "modeling.fusion.upsnet.training",
}
PACKAGE = __name__.partition(".")[0]


class MovedModules(MetaPathFinder, Loader):
    """Finds the former name of a module and loads the module that replaces it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns a spec for former names, else None."""
        package, _, name = fullname.partition(".")
        return importlib.util.spec_from_loader(fullname, self) if package == PACKAGE and name in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """Puts the new module in the place of the former one."""
        new = f"{PACKAGE}.{MOVED[module.__name__.partition('.')[2]]}"
        warn_of_move(module.__name__, new)
        sys.modules[module.__name__] = importlib.import_module(new)


def warn_of_move(former: str, new: str) -> None:
    """Warns the code that imports a former name."""
    warnings.warn(f"{former} is {new} since version 0.2.0", DeprecationWarning, stacklevel=3)
