"""Every tool has a test module of its own, which starts it."""

from tiny_training import ROOT

SHARED = {"headless_browser", "ranking_pairs", "ranking_truth"}  # what tools import


def test_every_tool_has_a_test():
    tools = {path.stem for path in (ROOT / "tools").glob("*.py")} - SHARED
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "tools").glob("test_*.py")}
    assert tools and tools <= tested, sorted(tools - tested)
