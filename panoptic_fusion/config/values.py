"""Accepted values of config keys, detectron2's and the project's: a table with a rule per key or kind of key.

Ranges have an upper limit if a greater value could only exhaust the machine.
"""

from fnmatch import fnmatchcase

from panoptic_fusion.checkpoint.class_rows import LAYOUTS
from panoptic_fusion.checkpoint.transfer import TRANSFERS
from panoptic_fusion.data.label_space import IGNORE_LABEL, ONTOLOGIES
from panoptic_fusion.layers.activated_norm import ACTIVATED_NAMES
from panoptic_fusion.modeling.backbone.branches import SHARING_MODES
from panoptic_fusion.modeling.things.box_convention import BOX_CONVENTIONS

from .rules import DEVICE, ENTRY, FLAG, NAME, NONE, PATH, TEXT, Rule, choice, each, either, number, only, whole

CHANNELS = whole(1, 2**14)
LAYERS = whole(0, 100)
SIDE = whole(1, 2**16)  # side of an image, in pixels
COUNT = whole(1)
PERIOD = whole(0, note=" (0: never)")
FACTOR = number(0, 1e9, words="a number of 0 or more")
POSITIVE = number(0, 1e9, above=0, words="a number above 0")
SHARE = number(0, 1, words="a number in [0, 1]")
NORM = choice("", "LN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", *ACTIVATED_NAMES)
NAMES = each(NAME, "a list of names")
SOME_NAMES = each(NAME, "a list of one or more names", length=range(1, 100))
THRESHOLDS = each(SHARE, "one or more numbers in [0, 1], ascending", length=range(1, 10), ascending=True)
LABELS = each(only(lambda v: v in (-1, 0, 1), "-1, 0 or 1"), "a list of -1, 0 and 1, one more than IOU_THRESHOLDS")
BOX_WEIGHTS = each(POSITIVE, "four numbers above 0", length=4)
ANCHORS = each(POSITIVE, "numbers above 0", length=range(1, 100))
ANCHORS_BY_LEVEL = either(
    ANCHORS, each(ANCHORS, "lists", length=range(1, 10)), words="a list with a list of numbers above 0 for each level"
)
BOX_LOSS = choice("smooth_l1", "giou", "diou", "ciou")
OF_FUSION = "or None: the fusion's"
MISSING = "False, since this project does not have it"


def _off(words: str) -> Rule:
    return only(lambda v: v is False, words)


# Patterns of keys. The first match applies. Keys without a match only need the type of their default.
VALUES: dict[str, Rule] = {
    # keys that this project does not support, or fixes to one value
    "MODEL.MASK_ON": only(lambda v: v is True, "True, since the fusions need mask logits"),
    "MODEL.KEYPOINT_ON": _off(MISSING),
    "MODEL.LOAD_PROPOSALS": _off(MISSING),
    "MODEL.ROI_BOX_HEAD.USE_FED_LOSS": _off("False, since only LVIS has the image counts that it needs"),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": only(lambda v: v == IGNORE_LABEL, f"{IGNORE_LABEL}, as the labels have"),
    # choices
    "MODEL.DEVICE": DEVICE,
    "MODEL.SEM_SEG_HEAD.ONTOLOGY": choice(*ONTOLOGIES),
    "MODEL.BOX_CONVENTION": choice(*BOX_CONVENTIONS),
    "MODEL.SHARING": choice(*SHARING_MODES),
    "MODEL.WEIGHTS_LAYOUT": choice("", *LAYOUTS),
    "MODEL.TRANSFER": choice(*TRANSFERS),
    "MODEL.FPN.FUSE_TYPE": choice("sum", "avg"),
    "*.BBOX_REG_LOSS_TYPE": BOX_LOSS,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": choice("ROIAlignV2", "ROIAlign", "ROIPool"),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": choice("ROIAlignV2", "ROIAlign", "ROIPool"),
    "DATASETS.UNANNOTATED": choice("skip", "negatives"),
    "DATALOADER.SAMPLER_TRAIN": choice("TrainingSampler", "RepeatFactorTrainingSampler"),
    "INPUT.FORMAT": choice("BGR", "RGB", ""),  # for empty values, also of MODEL.PIXEL_*, see `resolve_timm`
    "INPUT.MASK_FORMAT": choice("polygon", "bitmask"),
    "INPUT.RANDOM_FLIP": choice("none", "horizontal", "vertical"),
    "INPUT.CROP.TYPE": choice("relative_range", "relative", "absolute", "absolute_range"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": choice("choice", "range"),
    "SOLVER.LR_SCHEDULER_NAME": choice("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"),
    "SOLVER.WARMUP_METHOD": choice("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": choice("value", "norm"),
    "TEST.AUG.AVERAGE": choice("probabilities", "logits"),
    "MODEL.*.NORM": NORM,
    # files and names
    "MODEL.WEIGHTS": PATH,
    "MODEL.INDEPENDENT.*": PATH,
    "MODEL.TIMM.NAME": PATH,
    "MODEL.TIMM.WEIGHTS": PATH,
    "OUTPUT_DIR": PATH,
    # lists
    "PLUGINS": NAMES,
    "MODEL.CATEGORIES": each(ENTRY, "a list of categories: {id: ..., name: ..., isthing: ...}"),
    "DATASETS.REGISTER": each(ENTRY, "a list of datasets: {name: ..., panoptic_json: ..., ...}"),
    "DATASETS.TRAIN": NAMES,
    "DATASETS.TEST": NAMES,
    "DATASETS.PROPOSAL_FILES_*": NAMES,
    "MODEL.FREEZE": NAMES,
    "MODEL.PANOPTIC_FUSION.OUTPUTS": NAMES,
    "TEST.EVALUATORS": NAMES,
    "*.IN_FEATURES": SOME_NAMES,
    "*.OUT_FEATURES": SOME_NAMES,
    "MODEL.TIMM.OUT_INDICES": each(whole(0, 100), "a list of whole numbers", ascending=True),
    "MODEL.PIXEL_MEAN": each(number(words="a number"), "three numbers", length=(0, 3)),
    "MODEL.PIXEL_STD": each(POSITIVE, "three numbers above 0", length=(0, 3)),
    "MODEL.ANCHOR_GENERATOR.SIZES": ANCHORS_BY_LEVEL,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": ANCHORS_BY_LEVEL,
    "MODEL.ANCHOR_GENERATOR.OFFSET": only(lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "MODEL.RPN.CONV_DIMS": each(
        only(lambda v: type(v) is int and (v == -1 or 1 <= v <= 2**14), "channels"),
        "one or more numbers of channels, or -1 for the number of input channels",
        length=range(1, 20),
    ),
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS": each(BOX_WEIGHTS, "a list of four numbers above 0 for each stage"),
    "MODEL.ROI_BOX_CASCADE_HEAD.IOUS": each(SHARE, "numbers in [0, 1]"),
    "*.BBOX_REG_WEIGHTS": BOX_WEIGHTS,
    "*.IOU_THRESHOLDS": THRESHOLDS,
    "*.IOU_LABELS": LABELS,
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": each(FLAG, "four of True and False", length=4),
    "MODEL.SEM_SEG_HEAD.CLASS_WEIGHTS": each(FACTOR, "a list of numbers of 0 or more, one per channel, or []"),
    "INPUT.MIN_SIZE_TRAIN": each(SIDE, f"one or more numbers of 1 or more, up to {2**16}", length=range(1, 1000)),
    "INPUT.SCALE_JITTER": each(POSITIVE, "two factors [low, high] above 0, or []", length=(0, 2)),
    "INPUT.CROP.SIZE": each(POSITIVE, "two numbers above 0: height, width", length=2),
    "SOLVER.STEPS": each(whole(0), "iterations, ascending", ascending=True),
    "TEST.EXPECTED_RESULTS": each(
        each(either(TEXT, number(words=""), words=""), "", length=4), "a list of [task, metric, value, tolerance]"
    ),
    # the fusion; its class checks the thresholds, and provides the values of thresholds that are None
    "MODEL.PANOPTIC_FUSION.*_THRESH": either(NONE, number(words=""), words=f"a number in [0, 1], {OF_FUSION}"),
    "MODEL.PANOPTIC_FUSION.STUFF_AREA_LIMIT": either(NONE, whole(0), words=f"a number of pixels, {OF_FUSION}"),
    "MODEL.PANOPTIC_FUSION.STUFF_CHANNELS_ONLY": either(NONE, FLAG, words=f"True, False, {OF_FUSION}"),
    "MODEL.PANOPTIC_FUSION.AT_INPUT_RESOLUTION": either(NONE, FLAG, words=f"True, False, {OF_FUSION}"),
    # the network
    "MODEL.SEM_SEG_HEAD.HARD_PIXEL_FRACTION": number(0, 1, above=0, words="a number in (0, 1]"),
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": only(lambda v: v in (4, 8, 16, 32), "4, 8, 16 or 32"),
    "MODEL.SEM_SEG_HEAD.MINIDL_POOL_SIZE": SIDE,
    "MODEL.BACKBONE.FREEZE_AT": whole(0, 5),
    "MODEL.RESNETS.DEPTH": only(lambda v: v in (18, 34, 50, 101, 152), "18, 34, 50, 101 or 152"),
    "MODEL.RESNETS.RES5_DILATION": only(lambda v: v in (1, 2), "1 or 2"),
    "MODEL.TIMM.FROZEN_STAGES": whole(0, 100),
    "*.CONVS_DIM": CHANNELS,
    "*.CONV_DIM": CHANNELS,
    "*.FC_DIM": CHANNELS,
    "*.OUT_CHANNELS": CHANNELS,
    "MODEL.RESNETS.*_OUT_CHANNELS": CHANNELS,
    "MODEL.RESNETS.*GROUP*": CHANNELS,
    "*.NUM_CONV": LAYERS,
    "*.NUM_CONVS": LAYERS,
    "*.NUM_FC": LAYERS,
    "*.POOLER_RESOLUTION": whole(1, 256),
    "*.POOLER_SAMPLING_RATIO": whole(0, 64),
    "*.NUM_CLASSES": whole(0, 2**20),
    "*.BATCH_SIZE_PER_IMAGE": COUNT,
    "*_TOPK_TRAIN": COUNT,
    "*_TOPK_TEST": COUNT,
    "*.TOPK_CANDIDATES_TEST": COUNT,
    "TEST.DETECTIONS_PER_IMAGE": COUNT,
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE": whole(0),
    "*.POSITIVE_FRACTION": SHARE,
    "*.SCORE_THRESH_TEST": SHARE,
    "*.NMS_THRESH*": SHARE,
    "*.SMOOTH_L1_BETA": FACTOR,
    "*LOSS_WEIGHT": FACTOR,
    # images and the loader
    "INPUT.MAX_SIZE_TRAIN": whole(32, 2**16),
    "INPUT.MIN_SIZE_TEST": whole(0, 2**16, "; 0 for the size of the image"),
    "INPUT.MAX_SIZE_TEST": whole(32, 2**16),
    "INPUT.MAX_PIXELS": COUNT,
    "TEST.AUG.MIN_SIZES": each(whole(0, 2**16), "one or more sizes; 0 keeps the image's size", length=range(1, 100)),
    "TEST.AUG.INSTANCE_MIN_SIZES": each(whole(0, 2**16), "a list of sizes, or [] to use MIN_SIZES"),
    "TEST.AUG.MAX_SIZE": whole(32, 2**16),
    "INPUT.PIXEL_BUDGET": whole(0, note="; 0 keeps the sizes"),
    "DATALOADER.NUM_WORKERS": whole(0, 256),
    "DATALOADER.REPEAT_THRESHOLD": SHARE,
    # training
    "SOLVER.MAX_ITER": whole(1, note=" (--eval-only evaluates without a training)"),
    "SOLVER.IMS_PER_BATCH": whole(1, 2**16),
    "SOLVER.REFERENCE_WORLD_SIZE": whole(0, note=" (0: the batch is as it is)"),
    "SOLVER.CHECKPOINT_PERIOD": COUNT,
    "SOLVER.WARMUP_ITERS": whole(0),
    "SOLVER.WARMUP_FACTOR": SHARE,
    "SOLVER.NUM_DECAYS": whole(1, 10**6),
    "SOLVER.BASE_LR": number(0, above=0, words="a number above 0"),
    "SOLVER.BASE_LR_END": number(0, words="a number of 0 or more"),
    "SOLVER.MOMENTUM": only(lambda v: 0 <= v < 1, "a number in [0, 1)"),
    "SOLVER.WEIGHT_DECAY_BIAS": either(NONE, FACTOR, words="a number of 0 or more, or None"),
    "SOLVER.WEIGHT_DECAY*": number(0, words="a number of 0 or more"),
    "SOLVER.GAMMA": POSITIVE,
    "SOLVER.BIAS_LR_FACTOR": FACTOR,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": POSITIVE,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": only(lambda v: v > 0, "a number above 0, or .inf"),
    "SOLVER.GRADIENT_BALANCE_PERIOD": PERIOD,
    "VIS_PERIOD": PERIOD,
    "TEST.EVAL_PERIOD": PERIOD,
    "TEST.PRECISE_BN.NUM_ITER": COUNT,
    "SEED": only(lambda v: v < 2**31, "a number below 2**31; negative: another seed each time"),
}


def rule_of(key: str) -> Rule | None:
    """Returns the rule of a key, or None if it has none."""
    return next((rule for pattern, rule in VALUES.items() if fnmatchcase(key, pattern)), None)
