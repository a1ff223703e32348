"""Panoptic segmentation on detectron2: TASCNet, Seamless Scene Segmentation, UPSNet and OANet in one network.

The network has two exchangeable parts, the stuff head and the fusion.

Importing the package is cheap: torch and detectron2 are loaded on the first use of one of the names below. This also
registers the meta-architectures, heads, fusions and datasets in detectron2's registries. Every command of
`panoptic-fusion` is also available as a function, such as `panoptic_fusion.demo`.
"""

import importlib
import sys
import warnings
from typing import TYPE_CHECKING, Any

from .errors import INSTALL_DETECTRON2
from .moved import MovedModules

if TYPE_CHECKING:
    from .cli.ablation import ablation
    from .cli.check import check
    from .cli.compare import compare
    from .cli.convert import convert
    from .cli.demo import demo
    from .cli.evaluate import evaluate
    from .cli.export import export
    from .cli.fine_tune import fine_tune
    from .cli.fuse_files import fuse_files
    from .cli.import_annotations import import_annotations
    from .cli.leaderboard import leaderboard
    from .cli.oracle import oracle
    from .cli.prepare import prepare
    from .cli.report import report, report_models
    from .cli.train import train
    from .cli.tune import tune, tune_files
    from .config import add_panoptic_fusion_config, config_file, get_cfg, load_plugins, resolve_config
    from .evaluation.files import evaluate_files
    from .modeling.fusion.functional import fuse
    from .networks import load_trained, load_zoo
    from .runtime import OnnxPredictor

__version__ = "0.2.0"

# Name -> the module of this package that defines it.
_EXPORTS = {
    "OnnxPredictor": "runtime",
    "ablation": "cli.ablation",
    "add_panoptic_fusion_config": "config",
    "check": "cli.check",
    "compare": "cli.compare",
    "config_file": "config",
    "convert": "cli.convert",
    "demo": "cli.demo",
    "evaluate": "cli.evaluate",
    "evaluate_files": "evaluation.files",
    "export": "cli.export",
    "fine_tune": "cli.fine_tune",
    "fuse": "modeling.fusion.functional",
    "fuse_files": "cli.fuse_files",
    "get_cfg": "config",
    "import_annotations": "cli.import_annotations",
    "leaderboard": "cli.leaderboard",
    "load_plugins": "config",
    "load_trained": "networks",
    "load_zoo": "networks",
    "oracle": "cli.oracle",
    "prepare": "cli.prepare",
    "report": "cli.report",
    "report_models": "cli.report",
    "resolve_config": "config",
    "train": "cli.train",
    "tune": "cli.tune",
    "tune_files": "cli.tune",
}
# Names that work without torch and detectron2; `demo` needs them for its other models only.
_WITHOUT_TORCH = ("OnnxPredictor", "demo")
__all__ = [
    "OnnxPredictor",
    "ablation",
    "add_panoptic_fusion_config",
    "check",
    "compare",
    "config_file",
    "convert",
    "demo",
    "evaluate",
    "evaluate_files",
    "export",
    "fine_tune",
    "fuse",
    "fuse_files",
    "get_cfg",
    "import_annotations",
    "leaderboard",
    "load_plugins",
    "load_trained",
    "load_zoo",
    "oracle",
    "prepare",
    "report",
    "report_models",
    "resolve_config",
    "train",
    "tune",
    "tune_files",
]

# detectron2 itself uses torch.jit.script, which torch 2.14 deprecates. A user cannot act on this warning.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
sys.meta_path.append(MovedModules())


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _WITHOUT_TORCH:
        try:
            import detectron2  # noqa: F401
        except ImportError as error:
            raise ImportError(INSTALL_DETECTRON2, name="detectron2") from error
        importlib.import_module("panoptic_fusion.config.registration").register_parts()
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
