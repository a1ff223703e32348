"""A fixture that registers the ground truth of pairs of panoptic maps."""

import uuid

import pytest
from panoptic_cases import NUM_STUFF, NUM_THINGS, write_data_set

from panoptic_fusion.data import register_panoptic


@pytest.fixture
def registered(tmp_path):
    """A function that registers the ground truth of pairs and returns the name of the dataset."""

    def register(pairs, num_things=NUM_THINGS, num_stuff=NUM_STUFF):
        name = f"pairs {uuid.uuid4().hex}"
        register_panoptic(name, **write_data_set(tmp_path / name, pairs, num_things, num_stuff))
        return name

    return register
