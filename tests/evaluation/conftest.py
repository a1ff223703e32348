"""A fixture that registers the ground truth of pairs of panoptic maps."""

import uuid

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panoptic_cases import NUM_STUFF, NUM_THINGS, write_data_set

from panoptic_fusion.data import register_panoptic


@pytest.fixture
def registered(tmp_path):
    """A function that registers the ground truth of pairs and returns the name of the dataset."""
    names = []

    def register(pairs, num_things=NUM_THINGS, num_stuff=NUM_STUFF):
        names.append(f"pairs {uuid.uuid4().hex}")
        register_panoptic(names[-1], **write_data_set(tmp_path / names[-1], pairs, num_things, num_stuff))
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
