"""Fusions of the runtime without torch: equal to the torch modules on random raw outputs."""

import numpy as np
import pytest
import torch
from fusion_twins import (
    fuse_with_torch,
    fuse_without_torch,
    random_outputs,
    random_settings,
    ranking_module_of,
    torch_fusion,
)

from panoptic_fusion.runtime.settings import NEEDED


def assert_equal_on_a_random_scene(name, seed, largest=96, most=12):
    rng = np.random.default_rng(seed)
    num_stuff, num_things = int(rng.integers(name == "MaskGuidedFusion", 6)), int(rng.integers(1, 5))
    ontologies = {"UPSNetFusion": ["full"], "MaskGuidedFusion": ["full", "collapsed"]}
    ontology = str(rng.choice(ontologies.get(name, ["full", "collapsed", "stuff"] if num_stuff else ["full"])))
    channels = {"full": num_stuff + num_things, "collapsed": num_stuff + 1, "stuff": num_stuff}[ontology]
    settings = random_settings(rng, name)
    torch.manual_seed(seed)
    fusion = torch_fusion(settings, num_stuff, num_things, ontology)
    raw = random_outputs(rng, num_stuff, num_things, channels, largest, most)
    expected, expected_info = fuse_with_torch(fusion, raw, settings["at_input_resolution"])
    found, found_info = fuse_without_torch(settings, raw, num_stuff, num_things, ranking_module_of(fusion))
    assert found.dtype == np.int32
    assert found_info == expected_info, (seed, settings)
    assert np.array_equal(found, expected), (seed, settings)
    return found_info


@pytest.mark.parametrize("name", NEEDED)
def test_equals_torch_on_random_scenes(name, one_thread):
    check_random_scenes(name, range(400), largest=44)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDED)
def test_equals_torch_on_many_scenes(name, one_thread):
    check_random_scenes(name, range(1000, 3000))


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDED)
def test_equals_torch_on_large_scenes(name, one_thread):
    check_random_scenes(name, range(5000, 5040), largest=700, most=60)


def check_random_scenes(name, seeds, **sizes):
    found = [assert_equal_on_a_random_scene(name, seed, **sizes) for seed in seeds]
    things, stuff = (sum(len([s for s in x if s["isthing"] is kind]) for x in found) for kind in (True, False))
    assert min(things, stuff) > len(seeds) / 2  # the scenes mean something
