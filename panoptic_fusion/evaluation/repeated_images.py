"""Counts each image once: samplers that pad the last batch repeat some images, often in different processes."""

from collections.abc import Hashable, Iterable

from detectron2.utils import comm


def first_of_each(image_ids: Iterable[Hashable]) -> list[Hashable]:
    """Returns the images of this process that no process of a lower rank has; all processes must call it.

    Args:
        image_ids: distinct ids of the images that this process has seen.
    """
    of_rank = comm.all_gather(list(image_ids))
    before = set().union(*of_rank[: comm.get_rank()])
    return [image_id for image_id in of_rank[comm.get_rank()] if image_id not in before]
