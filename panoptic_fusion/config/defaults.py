"""Config keys that the project adds to detectron2's, each with a short description."""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from .plugins import add_plugin_configs

CONFIG_ROOTS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def add_panoptic_fusion_config(cfg: CfgNode) -> None:
    """Adds the project's keys to `cfg` in place and changes the few detectron2 defaults that must differ."""
    model, sem_seg, data = cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD, cfg.DATASETS

    # Plugin modules that were loaded when the config was written. This is only a record; reading it imports nothing.
    cfg.PLUGINS = []

    # Output folder of a run. Empty: output/ and the name of the config (`default_output_dir`).
    cfg.OUTPUT_DIR = ""

    # -- data -------------------------------------------------------------------------------------------------
    # Datasets to register: a list of keyword arguments of `panoptic_fusion.data.register_panoptic`.
    data.REGISTER = []
    # Training images that a JSON lists without an annotation: "skip" leaves them out; "negatives" adds them as images
    # without things whose pixels are all void for the semantic loss.
    data.UNANNOTATED = "skip"
    # Factors (low, high) of MIN_SIZE_TRAIN[0] between which the short side is sampled, limited by MAX_SIZE_TRAIN.
    # Empty: detectron2's MIN_SIZE_TRAIN and MIN_SIZE_TRAIN_SAMPLING decide.
    cfg.INPUT.SCALE_JITTER = []
    # Maximum number of pixels of images and PNGs. Larger files are refused by their header, before they are decoded: a
    # few kilobytes can contain billions of pixels.
    cfg.INPUT.MAX_PIXELS = 2**28
    # For large images, `panoptic-fusion fine-tune` increases the sizes below INPUT until the median image has at most
    # this many pixels. 0 keeps the sizes.
    cfg.INPUT.PIXEL_BUDGET = 524288
    # Images without a thing are used for training like all others. True leaves them out.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False

    # -- label space ------------------------------------------------------------------------------------------
    # Categories (id, name, isthing, color) of the model. Empty: the categories of DATASETS.TRAIN[0]. The number of
    # classes of every head follows from them. The config.yaml of a trained model contains them.
    model.CATEGORIES = []

    # -- network ----------------------------------------------------------------------------------------------
    model.META_ARCHITECTURE = "PanopticRCNN"
    model.ROI_HEADS.NAME = "PanopticROIHeads"
    model.MASK_ON = True
    # Modules that the instance and stuff branches share: "skip" (ResNet and FPN), "backbone" (the ResNet, with two
    # FPNs) or "none".
    model.SHARING = "skip"
    # Modules to freeze, by name, such as "backbone.bottom_up" or "roi_heads", for staged training. The losses of a head
    # that is listed as a whole are left out.
    model.FREEZE = []
    # Freezes the weights and biases of all norms; their statistics are still used and updated.
    model.FREEZE_NORMS = False
    # Accepts MODEL.WEIGHTS in which some tensors have a different shape (fine-tuning on other classes) and skips these
    # tensors. MODEL.TRANSFER "names" keeps more of them.
    model.ALLOW_SHAPE_MISMATCH = False
    # Class rows to copy from MODEL.WEIGHTS of other classes: "none" or "names" (the rows of each class whose name
    # matches). The remaining rows are reinitialized; a table in the log lists them. See
    # `panoptic_fusion.checkpoint.transfer`.
    model.TRANSFER = "none"
    # Synonyms for "names": a YAML file, or the name of one of the project's, with {name: [other names]}.
    model.TRANSFER_SYNONYMS = ""
    # Order of the semantic channels in MODEL.WEIGHTS, if the file does not specify it: "panoptic_fusion" (stuff, then
    # things) or "detectron2" (all things, then stuff).
    model.WEIGHTS_LAYOUT = ""

    # Convention of the box ends x1, y1: "exclusive" (after the last pixel, as in detectron2) or "inclusive" (on the
    # last pixel, for weights trained that way, UPSNet's). It determines where the poolers sample, how boxes are
    # clipped, and how UPSNetFusion resizes its labels.
    model.BOX_CONVENTION = "exclusive"
    model.PROPOSAL_GENERATOR.NAME = "PanopticRPN"

    # Builder of the network below the pyramid of MODEL.BACKBONE.NAME: "build_resnet_backbone" (detectron2's),
    # "build_deformable_resnet_backbone" (the same, with RESNETS.DEFORM_ON_PER_STAGE), "build_abn_resnet_backbone",
    # "build_narrow_resnet_backbone", "build_narrow_abn_resnet_backbone" or "build_timm_backbone".
    model.BACKBONE.BOTTOM_UP = "build_resnet_backbone"

    # -- timm networks (build_timm_backbone) ------------------------------------------------------------------
    # Empty MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT are filled in from timm's metadata of the model.
    timm = model.TIMM = CfgNode()
    # Name of the model in timm, such as "convnext_tiny" or "convnext_tiny.in12k_ft_in1k".
    timm.NAME = ""
    # Indices of timm's feature maps, each with twice the stride of the previous one. Empty: strides 4, 8, 16, 32.
    timm.OUT_INDICES = []
    # Initializes the network with timm's weights (from the Hugging Face hub or its cache).
    timm.PRETRAINED = False
    # Weights to use instead: a .safetensors or .pth file, or "efficientnet-lite0", which is installed with pip.
    timm.WEIGHTS = ""
    # Number of leading feature maps up to which the network is frozen. 0: all of it is trained.
    timm.FROZEN_STAGES = 0
    # Freezes weights, biases and statistics of all batch norms of the network.
    timm.FROZEN_BN = False
    # Stochastic depth rate of the last block.
    timm.DROP_PATH = 0.0
    # Stores fewer activations and recomputes them in the backward pass.
    timm.GRADIENT_CHECKPOINTING = False
    # With pretrained weights, accepts a PIXEL_MEAN, PIXEL_STD or INPUT.FORMAT that differs from timm's metadata.
    timm.ALLOW_NORMALIZATION_MISMATCH = False

    # Seamless's RPN head: norm with activation after its 3x3 convolution (see layers.get_activated_norm).
    model.RPN.NORM = "InPlaceABN"

    # Runs the mask head on all sampled regions in training and selects the positive ones afterwards, so that the
    # statistics of its norms cover all regions (Seamless). False runs it on the positive regions.
    model.ROI_MASK_HEAD.RUN_ON_ALL_REGIONS = False

    # Name of the stuff head, in detectron2's SEM_SEG_HEADS_REGISTRY.
    sem_seg.NAME = "PanopticFPNHead"
    # Semantic channels: "full" (stuff, then things), "collapsed" (stuff, then one for all things) or "stuff".
    sem_seg.ONTOLOGY = "full"
    # Fraction of an image's pixels, the hardest ones, that the semantic loss averages over. 1.0: plain cross entropy.
    sem_seg.HARD_PIXEL_FRACTION = 1.0
    # Weight of each semantic channel in the semantic loss, stuff first, then things (for rare classes). Empty: all 1.
    sem_seg.CLASS_WEIGHTS = []
    # Seamless's MiniDL head: side of the average pooling window, in pixels of each feature map.
    sem_seg.MINIDL_POOL_SIZE = 64
    # Seamless's MiniDL head: size of the kernel that fuses a level's three branches, 1 (the numbers of the paper) or 3
    # (its text).
    sem_seg.MINIDL_FUSE_KERNEL = 1
    # UPSNet's deformable head: number of deformable layers, 2 (the paper's Cityscapes) or 3 (the published models on
    # COCO).
    sem_seg.NUM_CONVS = 2
    # UPSNet's deformable head: weight of the cross entropy inside the ground-truth boxes. 0 disables it.
    sem_seg.ROI_LOSS_WEIGHT = 0.0

    # -- fusion -----------------------------------------------------------------------------------------------
    fusion = model.PANOPTIC_FUSION = CfgNode()
    # Name of the fusion, in PANOPTIC_FUSION_REGISTRY.
    fusion.NAME = "HeuristicFusion"
    # Thresholds of the fusion. None, the default: the value of the fusion class (its attribute `thresholds`), filled in
    # when the network is built, so that each NAME has its own defaults.
    # Score threshold: instances with a lower score do not enter the panoptic map.
    fusion.INSTANCES_CONFIDENCE_THRESH = None
    # Overlap threshold in [0, 1]: an instance is dropped if others already cover more of it. Each rule defines how the
    # overlap is measured.
    fusion.OVERLAP_THRESH = None
    # Stuff segments with fewer pixels become void, at output resolution (Seamless: at the resolution of its fusion).
    fusion.STUFF_AREA_LIMIT = None
    # Pixels that no instance covers get the best stuff class, even if a thing channel is higher (OANet). If False,
    # pixels with a higher thing channel become void. Used by the rules that paint instances one after another.
    fusion.STUFF_CHANNELS_ONLY = None
    # What STUFF_AREA_LIMIT applies to: all pixels of a "class", or each connected "region" of it (OANet's text). Used
    # by the rules that paint instances one after another.
    fusion.STUFF_AREA_OF = "class"
    # Fuses at input resolution and resizes the labels (nearest), instead of fusing at output resolution.
    fusion.AT_INPUT_RESOLUTION = None
    # Outputs of inference: "sem_seg", "instances", "panoptic_seg" and "things_masks" (the two masks that TASCNet
    # compares). Fewer outputs save time and memory.
    fusion.OUTPUTS = ["sem_seg", "instances", "panoptic_seg"]

    # TASCNet's MaskGuidedFusion
    tasc = fusion.TASC = CfgNode()
    # Weight of the loss on the residual between semantic and instance things masks. 0 disables it.
    tasc.LOSS_WEIGHT = 1.0
    # Stride of the compared masks relative to the network input: 1, 2, 4 (as the semantic logits) or 8.
    tasc.STRIDE = 4
    # Measure of agreement between an instance and the semantic things mask: "coverage" (of its own pixels) or "iou"
    # (the literal one).
    tasc.AGREEMENT = "coverage"
    # Instances with this agreement or less do not enter the panoptic map.
    tasc.AGREEMENT_THRESH = 0.7
    # What OVERLAP_THRESH applies to: "coverage" (fraction of the instance that is painted) or "iou" with all painted
    # pixels (the literal one).
    tasc.OVERLAP = "coverage"
    # Semantic things mask of the loss: the probability of all thing classes ("sum") or of the most probable one
    # ("winner", the literal one), where it is above 0.5.
    tasc.THINGS_PROBABILITY = "sum"

    # UPSNet's UPSNetFusion
    upsnet = fusion.UPSNET = CfgNode()
    # Weight of the panoptic loss. 0 disables it (UPSNet-C and UPSNet-CP).
    upsnet.LOSS_WEIGHT = 1.0
    # Whether the panoptic head has an unknown channel, in training and at inference.
    upsnet.UNKNOWN = True
    # Fraction of an image's ground-truth instances that become unknown in training.
    upsnet.UNKNOWN_FRACTION = 0.3
    # Whether an instance becomes stuff if the stuff head predicts one stuff class for at least half of its pixels
    # (instance class assignment).
    upsnet.CLASS_ASSIGNMENT = True

    # OANet's SpatialRankingFusion
    srm = fusion.SRM = CfgNode()
    # Convolution of the module: "1x1", "3x3" or "1x7+7x1" (large kernel).
    srm.KERNEL = "1x7+7x1"
    # Stride of the module's cells relative to the network input: 1 (the paper), 2, 4 or 8.
    srm.STRIDE = 4
    # Weight of the module's loss. 0 does not train the module.
    srm.LOSS_WEIGHT = 1.0
    # Paint order of the instances: by "ranking" score (the paper) or by the "product" of ranking and detection score.
    srm.ORDER = "ranking"
    # Cells of an instance that its ranking score averages over: all of its "mask" (the paper), or the "contested" ones,
    # which masks of several classes claim.
    srm.SCORE_OVER = "mask"
    # Generates overlapping masks to train the module on if an image has none. False trains on the masks of the dataset
    # (the paper).
    srm.GENERATE_OVERLAPS = True

    # -- two networks (IndependentPanoptic) -------------------------------------------------------------------
    independent = model.INDEPENDENT = CfgNode()
    # Network that predicts the instances: the OUTPUT_DIR of its training run, or a config file (then MODEL.WEIGHTS has
    # the weights of both networks).
    independent.INSTANCES = ""
    # Network that predicts the semantic segmentation, in the same format. With two folders, MODEL.WEIGHTS has the
    # weights of the fusion; it is empty if the fusion has none.
    independent.SEMANTIC = ""

    # -- training ---------------------------------------------------------------------------------------------
    # Half-precision type of training with SOLVER.AMP.ENABLED: "float16" (CUDA) or "bfloat16" (CUDA and CPU).
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Number of iterations between two logs of the gradients that the losses of the instances and of the stuff head send
    # into the last feature map of the shared backbone. They help to choose MODEL.SEM_SEG_HEAD.LOSS_WEIGHT (OANet,
    # figure 5). 0: never.
    cfg.SOLVER.GRADIENT_BALANCE_PERIOD = 0

    # -- evaluation -------------------------------------------------------------------------------------------
    # With TEST.AUG.ENABLED: short sides of the views that the instances are predicted on, and whether these are also
    # mirrored. Empty: the same views as the semantic segmentation (MIN_SIZES and FLIP).
    cfg.TEST.AUG.INSTANCE_MIN_SIZES = []
    cfg.TEST.AUG.INSTANCE_FLIP = True
    # What is averaged over the views of the semantic segmentation: "probabilities" or "logits" (TASCNet, UPSNet).
    cfg.TEST.AUG.AVERAGE = "probabilities"
    # Evaluators: "panoptic" (PQ, PQ-dagger, boundary PQ, mIoU), "instances" (mask AP), "cityscapes" (with
    # cityscapesscripts, on datasets whose metadata identify them as Cityscapes), "semantic" (mIoU of the semantic head,
    # whose logits then take classes x pixels of memory), "residual" (between TASCNet's two masks, the output
    # "things_masks").
    cfg.TEST.EVALUATORS = ["panoptic", "instances", "cityscapes"]
    # Result, such as "panoptic_seg/PQ", whose best checkpoint (the highest value) is kept as model_best.pth, which
    # inference then uses. It is measured every TEST.EVAL_PERIOD iterations and at the end. Empty: the last checkpoint
    # is used.
    cfg.TEST.BEST_METRIC = ""
    # Also writes the predictions to OUTPUT_DIR/inference/<dataset>, in the format of submission servers.
    cfg.TEST.WRITE_PREDICTIONS = False
    # Also computes boundary PQ in the evaluator "panoptic".
    cfg.TEST.BOUNDARY_PQ = True


def get_cfg() -> CfgNode:
    """Returns detectron2's default config with the keys of the project and of the plugins (see `plugins.py`).

    Raises:
        ConfigError: if a plugin cannot be imported or adds its keys incorrectly.
    """
    cfg = get_detectron2_cfg()
    add_panoptic_fusion_config(cfg)
    add_plugin_configs(cfg)
    return cfg


def config_file(name: str) -> str:
    """Returns the path of one of the project's configs, such as "toy/panoptic_fpn_r18.yaml".

    Raises:
        FileNotFoundError: if the config does not exist. The message lists the available configs.
    """
    known: set[str] = set()
    for root in CONFIG_ROOTS:
        if (root / name).is_file():
            return str(root / name)
        known.update(str(p.relative_to(root)) for p in root.glob("*/*.yaml"))
    raise FileNotFoundError(f"no config {name!r}; available: {', '.join(sorted(known))}")


def config_root() -> Path:
    """Returns the folder of the project's configs: in the installed wheel, otherwise in the clone."""
    return next(root for root in CONFIG_ROOTS if root.is_dir())


def find_config(name: str | os.PathLike) -> str:
    """Returns the path of a YAML file: `name` itself, or the project's config of that name.

    Args:
        name: path or name, such as "mine.yaml", "toy/panoptic_fpn_r18.yaml" or "configs/toy/panoptic_fpn_r18.yaml".

    Raises:
        FileNotFoundError: if neither exists.
    """
    name = os.fspath(name)
    candidates = [Path(name), *(folder / name for root in CONFIG_ROOTS for folder in (root, root.parent))]
    for path in candidates[:1] if os.path.isabs(name) else candidates:
        if path.is_file() and (path == candidates[0] or path.suffix == ".yaml"):
            return str(path)
    raise FileNotFoundError(f"config file {name} does not exist, neither as a file nor among the project's configs")


def default_output_dir(config_file: str | os.PathLike) -> str:
    """Returns the output folder of a config without OUTPUT_DIR.

    For example "output/toy_panoptic_fpn_r18" for this project's toy/panoptic_fpn_r18.yaml, and "output/mine" for any
    other file mine.yaml.
    """
    path = Path(os.path.realpath(find_config(config_file)))
    for root in CONFIG_ROOTS:
        if path.is_relative_to(root.resolve()):
            path = path.relative_to(root.resolve())
            return os.path.join("output", "_".join(path.with_suffix("").parts))
    return os.path.join("output", path.stem)
