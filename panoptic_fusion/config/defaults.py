"""Every config key that the project adds to detectron2's, one sentence each."""

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg

from .plugins import add_plugin_configs

CONFIG_ROOTS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def add_panoptic_fusion_config(cfg: CfgNode) -> None:
    """Adds the project's keys to `cfg` and sets the few detectron2 defaults that must differ, in place."""
    model, sem_seg, data = cfg.MODEL, cfg.MODEL.SEM_SEG_HEAD, cfg.DATASETS

    # Modules of other packages that were loaded when the config was written: a record; reading it imports nothing.
    cfg.PLUGINS = []

    # Folder of what a run writes; empty: output/ and the name of the config (`default_output_dir`).
    cfg.OUTPUT_DIR = ""

    # -- data -------------------------------------------------------------------------------------------------
    # Data sets to register: a list of keyword arguments of `panoptic_fusion.data.register_panoptic`.
    data.REGISTER = []
    # Training images that a JSON lists without an annotation: "skip" leaves them out, "negatives" adds them as images
    # without things, all void for the semantic loss.
    data.UNANNOTATED = "skip"
    # Factors (low, high) of MIN_SIZE_TRAIN[0] between which the short side is drawn, capped by MAX_SIZE_TRAIN;
    # empty: detectron2's MIN_SIZE_TRAIN and MIN_SIZE_TRAIN_SAMPLING decide.
    cfg.INPUT.SCALE_JITTER = []
    # Images and PNGs of more pixels are refused by their header, before they are decoded: a few kilobytes can hold
    # billions of pixels.
    cfg.INPUT.MAX_PIXELS = 2**28
    # `panoptic-fusion fine-tune` enlarges the sizes below INPUT for large images, until the median image has this many
    # pixels at most; 0: it leaves them as they are.
    cfg.INPUT.PIXEL_BUDGET = 524288
    # Images without a thing are trained on like all others; True leaves them out.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False

    # -- label space ------------------------------------------------------------------------------------------
    # The categories (id, name, isthing, color) of the model; empty: those of DATASETS.TRAIN[0]. The number of
    # classes of every head follows from them. A trained model carries them in its config.yaml.
    model.CATEGORIES = []

    # -- network ----------------------------------------------------------------------------------------------
    model.META_ARCHITECTURE = "PanopticRCNN"
    model.ROI_HEADS.NAME = "PanopticROIHeads"
    model.MASK_ON = True
    # What instances and stuff share: "skip" (ResNet and FPN), "backbone" (the ResNet, with two FPNs) or "none".
    model.SHARING = "skip"
    # Parts that training leaves as they are (module names, such as "backbone.bottom_up" or "roi_heads"); the losses of
    # a head that is listed as a whole are left out: for staged training.
    model.FREEZE = []
    # Leave the weights and biases of all norms as they are; their statistics are still used and updated.
    model.FREEZE_NORMS = False
    # Accept MODEL.WEIGHTS in which some tensors have another shape (fine-tuning on other classes): they are skipped.
    # MODEL.TRANSFER "names" keeps more of them.
    model.ALLOW_SHAPE_MISMATCH = False
    # What is taken over from MODEL.WEIGHTS of other classes: "none" or "names" (the rows of each class whose name
    # agrees; the rest starts new, and a table in the log says which). See `panoptic_fusion.checkpoint.transfer`.
    model.TRANSFER = "none"
    # With "names": a yaml file, or one of the project's, of names that mean the same, {name: [other names]}.
    model.TRANSFER_SYNONYMS = ""
    # In which order the semantic channels of MODEL.WEIGHTS are, if the file does not say it: "panoptic_fusion" (stuff,
    # then things) or "detectron2" (all things, then stuff).
    model.WEIGHTS_LAYOUT = ""

    # Builder of the network under the pyramid that MODEL.BACKBONE.NAME names: "build_resnet_backbone" (detectron2's),
    # "build_deformable_resnet_backbone" (the same, with RESNETS.DEFORM_ON_PER_STAGE), "build_abn_resnet_backbone",
    # "build_narrow_resnet_backbone", "build_narrow_abn_resnet_backbone" or "build_timm_backbone".
    model.BACKBONE.BOTTOM_UP = "build_resnet_backbone"

    # -- networks of timm (build_timm_backbone) ---------------------------------------------------------------
    # Empty MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT are filled in from timm's metadata of the model.
    timm = model.TIMM = CfgNode()
    # The model's name in timm, such as "convnext_tiny" or "convnext_tiny.in12k_ft_in1k".
    timm.NAME = ""
    # Numbers of timm's feature maps, each of twice the stride of the one before; empty: those of stride 4, 8, 16, 32.
    timm.OUT_INDICES = []
    # Start from timm's weights (from the Hugging Face hub or its cache).
    timm.PRETRAINED = False
    # Start from these weights instead: a .safetensors or .pth file, or "efficientnet-lite0", which comes with pip.
    timm.WEIGHTS = ""
    # Feature maps, counted from the first, up to which nothing is trained; 0: all is trained.
    timm.FROZEN_STAGES = 0
    # Leave weights, biases and statistics of all batch norms of the network as they are.
    timm.FROZEN_BN = False
    # Rate of stochastic depth of the last block.
    timm.DROP_PATH = 0.0
    # Keep fewer activations and compute them again in the backward pass.
    timm.GRADIENT_CHECKPOINTING = False
    # Accept another PIXEL_MEAN, PIXEL_STD or INPUT.FORMAT than that of timm's metadata with pretrained weights.
    timm.OWN_NORMALIZATION = False

    # Seamless's RPN head: the norm with activation behind its 3x3 convolution (see layers.get_activated_norm).
    model.RPN.NORM = "InPlaceABN"

    # Name of the stuff head, in detectron2's SEM_SEG_HEADS_REGISTRY.
    sem_seg.NAME = "PanopticFPNHead"
    # Semantic channels: "full" (stuff, then things), "collapsed" (stuff, then one for all things) or "stuff".
    sem_seg.ONTOLOGY = "full"
    # Share of an image's pixels, the hardest ones, that the semantic loss averages over; 1.0 is plain cross entropy.
    sem_seg.HARD_PIXEL_FRACTION = 1.0
    # Factors of the semantic loss for each semantic channel, stuff first, then things (rare classes); empty: all 1.
    sem_seg.CLASS_WEIGHTS = []
    # Seamless's MiniDL head: side of the average pooling, in pixels of each feature map.
    sem_seg.MINIDL_POOL_SIZE = 64
    # Seamless's MiniDL head: kernel that fuses a level's three branches, 1 (the paper's numbers) or 3 (its text).
    sem_seg.MINIDL_FUSE_KERNEL = 1
    # UPSNet's deformable head: number of deformable layers, 2 (the paper's Cityscapes) or 3 (its COCO).
    sem_seg.NUM_CONVS = 2
    # UPSNet's deformable head: factor of the cross entropy inside the ground-truth boxes; 0 trains without it.
    sem_seg.ROI_LOSS_WEIGHT = 0.0

    # -- fusion -----------------------------------------------------------------------------------------------
    fusion = model.PANOPTIC_FUSION = CfgNode()
    # Name of the fusion, in PANOPTIC_FUSION_REGISTRY.
    fusion.NAME = "HeuristicFusion"
    # The fusion's thresholds. None, the default: those of the fusion class (its attribute `thresholds`), filled in when
    # the network is built, so that another NAME brings its own.
    # Instances with a lower score do not enter the panoptic map.
    fusion.INSTANCES_CONFIDENCE_THRESH = None
    # How much of an instance others may cover already, in [0, 1], before it is dropped; each rule says its measure.
    fusion.OVERLAP_THRESH = None
    # Stuff segments of fewer pixels become void: at the size of the output (Seamless: at the size at which it fuses).
    fusion.STUFF_AREA_LIMIT = None
    # Pixels that no instance takes get the best stuff class, also where a thing channel is higher (OANet); else they
    # become void there. For the rules that paint instances one after another.
    fusion.STUFF_CHANNELS_ONLY = None
    # Fuse at the size of the network's input and resize the labels (nearest), instead of fusing at the output size.
    fusion.AT_INPUT_RESOLUTION = None
    # What inference returns, of "sem_seg", "instances", "panoptic_seg" and "things_masks" (the two masks that TASCNet
    # compares); fewer is faster and smaller.
    fusion.OUTPUTS = ["sem_seg", "instances", "panoptic_seg"]

    # TASCNet's MaskGuidedFusion
    tasc = fusion.TASC = CfgNode()
    # Factor of the loss on the residual between semantic and instance things masks; 0 trains without it.
    tasc.LOSS_WEIGHT = 1.0
    # Pixels of the network's input per pixel of the compared masks: 1, 2, 4 (as the semantic logits) or 8.
    tasc.STRIDE = 4
    # How an instance is compared with the semantic things mask: "coverage" (of its own pixels) or "iou" (the literal
    # one).
    tasc.AGREEMENT = "coverage"
    # Instances of this agreement or less do not enter the panoptic map.
    tasc.AGREEMENT_THRESH = 0.7

    # UPSNet's UPSNetFusion
    upsnet = fusion.UPSNET = CfgNode()
    # Factor of the panoptic loss; 0 trains without it (UPSNet-C and UPSNet-CP).
    upsnet.LOSS_WEIGHT = 1.0
    # Whether the panoptic head has an unknown channel, in training and at inference.
    upsnet.UNKNOWN = True
    # Share of an image's ground-truth instances that training makes unknown.
    upsnet.UNKNOWN_FRACTION = 0.3

    # OANet's SpatialRankingFusion
    srm = fusion.SRM = CfgNode()
    # The module's convolution: "1x1", "3x3" or "1x7+7x1" (large kernel).
    srm.KERNEL = "1x7+7x1"
    # Pixels of the network's input per cell of the module: 1 (the paper), 2, 4 or 8.
    srm.STRIDE = 4
    # Factor of the module's loss; 0 leaves the module as it is.
    srm.LOSS_WEIGHT = 1.0
    # Instances are painted by "ranking" score (the paper) or by the "product" of ranking and detection score.
    srm.ORDER = "ranking"

    # -- two networks (IndependentPanoptic) -------------------------------------------------------------------
    independent = model.INDEPENDENT = CfgNode()
    # The network that gives the instances: the OUTPUT_DIR of its training, or a config file (then MODEL.WEIGHTS has the
    # weights of both networks).
    independent.INSTANCES = ""
    # The network that gives the semantic segmentation, in the same way. With two folders MODEL.WEIGHTS has the weights
    # of the fusion, and is empty if that has none.
    independent.SEMANTIC = ""

    # -- training ---------------------------------------------------------------------------------------------
    # With SOLVER.AMP.ENABLED, the half precision of training: "float16" (CUDA) or "bfloat16" (CUDA and CPU).
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Every so many iterations, log what the losses of the instances and of the stuff head each send into the last
    # feature map of the shared backbone, to set MODEL.SEM_SEG_HEAD.LOSS_WEIGHT by (OANet, figure 5); 0: never.
    cfg.SOLVER.GRADIENT_BALANCE_PERIOD = 0

    # -- evaluation -------------------------------------------------------------------------------------------
    # What is measured after training: "panoptic" (PQ, PQ-dagger, mIoU), "instances" (mask AP), "cityscapes" (with
    # cityscapesscripts, on data sets whose metadata say that they are Cityscapes), "residual" (between TASCNet's two
    # masks, the output "things_masks").
    cfg.TEST.EVALUATORS = ["panoptic", "instances", "cityscapes"]
    # Keep the checkpoint for which this result is highest, such as "panoptic_seg/PQ", as model_best.pth, which
    # inference then uses; measured every TEST.EVAL_PERIOD iterations and at the end. Empty: the last one is used.
    cfg.TEST.BEST_METRIC = ""
    # Also write the predictions as submission servers take them into OUTPUT_DIR/inference/<data set>.
    cfg.TEST.WRITE_PREDICTIONS = False
    # Also compute boundary PQ in the evaluator "panoptic"; it takes several times as long as PQ.
    cfg.TEST.BOUNDARY_PQ = False


def get_cfg() -> CfgNode:
    """Returns detectron2's default config with the project's keys and those of the plugins (see `plugins.py`).

    Raises:
        ConfigError: a plugin cannot be imported or adds its keys wrongly.
    """
    cfg = get_detectron2_cfg()
    add_panoptic_fusion_config(cfg)
    add_plugin_configs(cfg)
    return cfg


def config_file(name: str) -> str:
    """Path of one of the project's configs, such as "toy/panoptic_fpn_r18.yaml".

    Raises:
        FileNotFoundError: there is no such config; the message lists those that exist.
    """
    known: set[str] = set()
    for root in CONFIG_ROOTS:
        if (root / name).is_file():
            return str(root / name)
        known.update(str(p.relative_to(root)) for p in root.glob("*/*.yaml"))
    raise FileNotFoundError(f"no config {name!r}; there are: {', '.join(sorted(known))}")


def config_root() -> Path:
    """Returns the folder of the project's configs: of the wheel, else of the clone."""
    return next(root for root in CONFIG_ROOTS if root.is_dir())


def find_config(name: str | os.PathLike) -> str:
    """Returns the path of a yaml file: `name` itself, or the project's config of that name.

    Args:
        name: such as "mine.yaml", "toy/panoptic_fpn_r18.yaml" or "configs/toy/panoptic_fpn_r18.yaml".

    Raises:
        FileNotFoundError: there is neither.
    """
    name = os.fspath(name)
    candidates = [Path(name), *(folder / name for root in CONFIG_ROOTS for folder in (root, root.parent))]
    for path in candidates[:1] if os.path.isabs(name) else candidates:
        if path.is_file() and (path == candidates[0] or path.suffix == ".yaml"):
            return str(path)
    raise FileNotFoundError(f"config file {name} does not exist, neither as a file nor among the project's configs")


def default_output_dir(config_file: str | os.PathLike) -> str:
    """Returns where a config without OUTPUT_DIR writes, such as "output/toy_panoptic_fpn_r18" for
    toy/panoptic_fpn_r18.yaml of this project and "output/mine" for another mine.yaml."""
    path = Path(find_config(config_file)).resolve()
    for root in CONFIG_ROOTS:
        if path.is_relative_to(root.resolve()):
            path = path.relative_to(root.resolve())
            return os.path.join("output", "_".join(path.with_suffix("").parts))
    return os.path.join("output", path.stem)
