"""The two implementations of the fusions: a loop over instances, as on a CPU, and all at once, as on a GPU."""

import pytest


@pytest.fixture(params=["loop", "flat"])
def implementation(request, monkeypatch) -> str:
    """Runs a test with both implementations on the CPU; "flat" also for few instances."""
    from panoptic_fusion.modeling.fusion import flat_paint
    from panoptic_fusion.modeling.fusion.paint import FLAT_DEVICES

    if request.param == "flat":
        monkeypatch.setattr(flat_paint, "FEW", 0)
        FLAT_DEVICES.add("cpu")
    yield request.param
    FLAT_DEVICES.discard("cpu")
