"""The names of version 0.1.0 still work, with a warning that points at the code that uses them."""

import importlib
import sys

import pytest

from panoptic_fusion.moved import MOVED


@pytest.mark.parametrize("name", MOVED)
def test_the_former_name_of_a_module(name, monkeypatch):
    former, new = f"panoptic_fusion.{name}", f"panoptic_fusion.{MOVED[name]}"
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=f"^{former} is {new} since") as warned:
        module = importlib.import_module(former)
    assert module is sys.modules[new] and module.__name__ == new and module.__spec__.name == new
    assert [w.category for w in warned].count(DeprecationWarning) == 1


def test_what_code_of_010_imports():
    code = (
        "from panoptic_fusion.read_config import read_config\n"
        "from panoptic_fusion.evaluation.report import results_table\n"
    )
    sys.modules.pop("panoptic_fusion.read_config", None)
    names = {}
    with pytest.warns(DeprecationWarning) as warned:
        exec(compile(code, "their_code.py", "exec"), names)
    assert {(w.filename, w.lineno) for w in warned} == {("their_code.py", 1), ("their_code.py", 2)}
    from panoptic_fusion.config.read import read_config
    from panoptic_fusion.evaluation.results import results_table

    assert names["read_config"] is read_config and names["results_table"] is results_table


@pytest.mark.parametrize("name", ["panoptic_fusion.no_such", "panoptic_fusion.data.read_config"])
def test_any_other_name_is_an_error_as_before(name):
    with pytest.raises(ModuleNotFoundError, match=name):
        importlib.import_module(name)


def test_any_other_name_in_report_is_an_error_as_before():
    import panoptic_fusion.evaluation.report as report

    with pytest.raises(AttributeError, match="panoptic_fusion.evaluation.report' has no attribute 'no_such'"):
        report.no_such  # noqa: B018
