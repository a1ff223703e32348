"""Keeps non-finite numbers out of every fusion; numpy twin of `modeling/fusion/finite.py`.

An instance with such a number in its box, score or mask is dropped. A pixel with a non-finite semantic logit becomes
void unless an instance covers it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from panoptic_fusion.decisions import FINITE_LIMIT

from .instances import Instances
from .labels import recount, resize_labels
from .painting import PanopticSeg
from .sem_seg_logits import SemSegLogits, Size


def fuse_finite(
    combine: Callable[[SemSegLogits, Instances, Size], PanopticSeg],
    sem_seg: SemSegLogits,
    instances: Instances,
    size: Size,
    num_stuff: int,
) -> PanopticSeg:
    """Runs a fusion rule on the finite part of its inputs.

    Args:
        combine: fusion rule.
        sem_seg, instances, size: arguments of the rule.
        num_stuff: S, the number of stuff classes.
    """
    rows = np.flatnonzero(_usable(instances))
    is_broken = ~(np.abs(sem_seg.logits) < FINITE_LIMIT).all(axis=0)
    some_broken = bool(is_broken.any())
    if some_broken:
        # The thing channels are just above the stuff, so that the semantic logits do not reject any instance.
        neutral = np.where(np.arange(len(sem_seg.logits)) < num_stuff, 0, 2.0**-10).astype(np.float32)
        where = resize_labels(sem_seg.depends_on(is_broken), size)
        sem_seg = replace(sem_seg, logits=np.where(is_broken, neutral[:, None, None], sem_seg.logits))
    panoptic_seg, segments_info = combine(sem_seg, instances[rows], size)
    if some_broken:
        where &= np.isin(panoptic_seg, [s["id"] for s in segments_info if not s["isthing"]])
        panoptic_seg = np.where(where, np.int32(0), panoptic_seg)
        segments_info = recount(panoptic_seg, segments_info)
    return panoptic_seg, [
        {**s, "instance_id": int(rows[s["instance_id"]])} if "instance_id" in s else s for s in segments_info
    ]


def _usable(instances: Instances) -> np.ndarray:
    """Returns which of R instances have a finite box, score and mask, (R,) bool."""
    is_usable = np.ones(len(instances), bool)
    for field in (instances.boxes, instances.scores, instances.mask_logits):
        is_usable &= (np.abs(field) < FINITE_LIMIT).all(axis=tuple(range(1, field.ndim)))
    return is_usable
