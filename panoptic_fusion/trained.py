"""What the command-line tools share when they use a trained model: its network with its weights, images to run on."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor

from .checkpoint import AtomicCheckpointer
from .data.label_space import LabelSpace
from .engine.preflight import check_data_set
from .errors import ConfigError, UserError
from .read_config import read_config
from .resolve import load_trained, loads_its_own_weights, resolve_config


def config_of(model_dir: str | None, config_file: str | None, opts: list[str]) -> CfgNode:
    """The resolved config that --model (an OUTPUT_DIR of a training) or --config-file names, with "KEY VALUE" pairs.

    Raises:
        UserError: neither is given, or a config file without weights.
    """
    if model_dir:
        read_config(opts=opts)  # an unknown key is reported before the model's own files are read
        return load_trained(model_dir, opts)
    if not config_file:
        raise UserError("give --model (the OUTPUT_DIR of a training), or --config-file and MODEL.WEIGHTS FILE")
    cfg = resolve_config(read_config(config_file, opts))
    if not cfg.MODEL.WEIGHTS and not loads_its_own_weights(cfg):
        raise UserError(f"{config_file} names no weights: add MODEL.WEIGHTS FILE, or give --model")
    return cfg


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """detectron2's predictor with the weights of `cfg`, which must be whole; its network is `predictor.model`.

    `predictor.metadata` has the classes, colours and category ids of the model (MODEL.CATEGORIES), whatever has become
    of the data set that it was trained on.

    Raises:
        FileNotFoundError, UserError: the checkpoint is missing, cannot be read or does not fit.
    """
    without_weights = cfg.clone()
    without_weights.defrost()
    without_weights.MODEL.WEIGHTS = ""
    predictor = DefaultPredictor(without_weights)
    predictor.metadata = LabelSpace.from_categories(cfg.MODEL.CATEGORIES).apply_to_metadata(Metadata())
    AtomicCheckpointer(predictor.model, require_complete=True).load(cfg.MODEL.WEIGHTS)
    return predictor


def images_of(cfg: CfgNode, dataset: str) -> list[dict]:
    """The dicts of a data set that is to be used with a trained model's config.

    Raises:
        ConfigError: no such data set (the message names those of the config), it has other classes than the model, no
            image, or not all files.
    """
    if dataset not in DatasetCatalog.list():
        raise ConfigError(
            f"data set {dataset!r} is not registered; the model's config registers "
            f"{', '.join(e['name'] for e in cfg.DATASETS.REGISTER) or 'none'}"
        )
    check_data_set(dataset, LabelSpace.from_categories(cfg.MODEL.CATEGORIES))
    return DatasetCatalog.get(dataset)
