"""Plugins: how they are named and found, what they may add, what a config records, and what errors say."""

import multiprocessing
import os
import sys
from pathlib import Path

import pytest
from detectron2.config import CfgNode

import panoptic_fusion
from panoptic_fusion import get_cfg, load_plugins, resolve_config
from panoptic_fusion.config import plugins
from panoptic_fusion.config.read import read_config
from panoptic_fusion.errors import ConfigError

KEY = "def add_config(cfg):\n    cfg.MODEL.{name} = {value!r}\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes an importable module: module("name", "source"); the process is as before afterwards."""
    monkeypatch.setattr(plugins, "_loaded", {})
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, source: str = "") -> str:
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    before = set(sys.modules)
    yield write
    for name in {path.stem for path in tmp_path.glob("*.py")} - before:
        sys.modules.pop(name, None)


def installed(folder: Path, name: str, value: str) -> None:
    """An entry point as a package manager installs it."""
    info = folder / f"{name}_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-package\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {value}\n")


def test_keys_of_several_plugins(module):
    one, two = (
        module("plug_one", KEY.format(name="ONE", value=1)),
        module("plug_two", KEY.format(name="TWO", value="x")),
    )
    assert load_plugins([one]) == [one] and load_plugins([two, one]) == [one, two] == load_plugins()
    cfg = get_cfg()
    assert (cfg.MODEL.ONE, cfg.MODEL.TWO, cfg.PLUGINS) == (1, "x", [])
    cfg = read_config(opts=["MODEL.ONE", "2"])
    assert cfg.MODEL.ONE == 2


def test_one_name_is_no_list_of_letters(module):
    assert load_plugins(module("plug_text")) == ["plug_text"]


def test_a_plugin_is_imported_once_and_needs_no_keys(module, tmp_path):
    count = tmp_path / "count"
    module("plug_count", f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n")
    load_plugins(["plug_count"])
    get_cfg()
    load_plugins(["plug_count"])
    assert count.read_text() == "x"


def test_entry_points_are_loaded_with_the_first_config(module, tmp_path):
    module("plug_entry", KEY.format(name="ENTRY", value=3))
    installed(tmp_path, "entry", "plug_entry")
    assert "plug_entry" not in sys.modules
    assert get_cfg().MODEL.ENTRY == 3
    assert os.environ[plugins.VARIABLE] == ""  # other processes find it themselves


@pytest.mark.parametrize(
    ("source", "reason"),
    [(None, "No module named 'plug_bad'"), ("1 / 0", "ZeroDivisionError"), ("import missing_module", "missing_module")],
)
def test_a_plugin_that_cannot_be_imported(module, source, reason):
    if source is not None:
        module("plug_bad", source)
    with pytest.raises(ConfigError, match=f"plugin 'plug_bad' cannot be imported .*{reason}.*PYTHONPATH"):
        load_plugins(["plug_bad"])
    assert load_plugins() == [] and os.environ[plugins.VARIABLE] == ""  # children would fail, too


@pytest.mark.parametrize("name", ["", ".relative", "folder/module.py", "plug_good "])
def test_names_that_are_no_module(module, name):
    module("plug_good")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load_plugins([name])


def test_an_entry_point_that_cannot_be_imported_names_its_package(module, tmp_path):
    installed(tmp_path, "broken", "plug_missing")
    with pytest.raises(ConfigError, match="plug_missing.*'broken' of the package broken-package.*uninstall"):
        get_cfg()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def add_config(cfg):\n    cfg.MODEL.DEVICE = 'meta'\n", "add_config changed MODEL.DEVICE"),
        ("def add_config(cfg):\n    del cfg.SOLVER['BASE_LR']\n", "add_config changed SOLVER.BASE_LR"),
        ("def add_config(cfg):\n    cfg.INPUT = type(cfg)()\n", "add_config changed INPUT"),
        ("def add_config(cfg):\n    cfg.MODEL.NO.KEY = 1\n", "add_config raised AttributeError"),
        ("def add_config():\n    pass\n", "add_config raised TypeError"),
        ("add_config = 3\n", "add_config raised TypeError"),
    ],
)
def test_hooks_that_cannot_work(module, source, says):
    load_plugins([module("plug_hook", source)])
    with pytest.raises(ConfigError, match=f"plugin plug_hook: {says}"):
        get_cfg()


# -- what a config records -------------------------------------------------------------------------------------------


def test_a_resolved_config_records_what_is_loaded(module, tiny_cfg):
    assert tiny_cfg.PLUGINS == []
    load_plugins([module("plug_record")])
    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.PLUGINS = ["plug_of_another_machine"]  # every key and part is known without it
    assert resolve_config(cfg).PLUGINS == ["plug_record"]


def test_reading_a_config_imports_nothing(module, tmp_path):
    module("plug_evil", "raise SystemExit('imported')")
    path = tmp_path / "config.yaml"
    path.write_text("PLUGINS: ['plug_evil', 'os; 1']\nSEED: 7\nVERSION: 2\n")
    assert read_config(path).SEED == 7 and "plug_evil" not in sys.modules


def test_an_unknown_key_names_the_missing_plugins(module, tmp_path):
    load_plugins([module("plug_here")])
    (tmp_path / "base.yaml").write_text("PLUGINS: ['plug_a', 'plug_here', 'plug_b']\nVERSION: 2\n")
    path = tmp_path / "config.yaml"
    path.write_text("_BASE_: base.yaml\nMODEL:\n  OWN: 7\n")
    with pytest.raises(ConfigError) as error:
        read_config(path)
    assert "MODEL.OWN" in str(error.value) and "plugins plug_a, plug_b, not loaded" in str(error.value)
    assert "--plugin plug_a --plugin plug_b" in str(error.value) and "plug_here" not in str(error.value)


@pytest.mark.parametrize("key", ["MODEL.SEM_SEG_HEAD.NAME", "MODEL.PANOPTIC_FUSION.NAME", "MODEL.META_ARCHITECTURE"])
def test_an_unknown_part_names_the_missing_plugin(module, tiny_cfg, key):
    cfg = tiny_cfg.clone()
    cfg.defrost()
    cfg.PLUGINS = ["plug_gone"]
    cfg.merge_from_list([key, "OwnPart"])
    with pytest.raises(ConfigError, match=f"{key} is 'OwnPart'.*plugin plug_gone, not loaded.*--plugin plug_gone"):
        resolve_config(cfg)


@pytest.mark.parametrize("recorded", ["3", "'plug'", "{plug: 1}", "[[1], null]", "null"])
def test_a_record_of_another_type(module, tmp_path, recorded):
    """One line, whatever a file has there."""
    path = tmp_path / "config.yaml"
    path.write_text(f"PLUGINS: {recorded}\nMODEL:\n  OWN: 7\nVERSION: 2\n")
    with pytest.raises(ConfigError, match="config.yaml"):
        read_config(path)


def test_a_config_without_the_key(tiny_cfg):
    """Such as one that 1dabfec wrote and that was not merged into `get_cfg`'s."""
    content = CfgNode.load_cfg(tiny_cfg.dump())
    del content["PLUGINS"]
    assert resolve_config(content).PLUGINS == []


# -- the command line ------------------------------------------------------------------------------------------------


def test_plugin_of_the_command_line(module, run_script, toy_config):
    """It may be given twice; its key is known to the options that follow."""
    module("plug_cli", KEY.format(name="CLI", value=1))
    module("plug_two", KEY.format(name="TWO", value=1))
    flags = ["--plugin", "plug_cli", "--plugin", "plug_two"]
    code, _, err = run_script("train", "--config-file", toy_config, *flags, "MODEL.CLI", "2", "MODEL.TWO", "[")
    assert code == 2 and "MODEL.TWO" in err and "MODEL.CLI" not in err and len(err.splitlines()) == 1
    assert load_plugins() == ["plug_cli", "plug_two"]


def test_a_plugin_that_does_not_exist_ends_a_command_with_one_line(module, run_script):
    code, _, err = run_script("demo", "--plugin", "plug_no", "--model", "x", "--input", "y", "--output", "z")
    assert code == 2 and "plugin 'plug_no' cannot be imported" in err and len(err.splitlines()) == 1


@pytest.mark.parametrize("words", [["--help"], ["--no-such-argument"]])
def test_help_and_usage_errors_load_none(module, run_script, tmp_path, words):
    installed(tmp_path, "entry", module("plug_entry"))
    code, _, _ = run_script("evaluate", "--plugin", module("plug_help"), *words)
    assert code == (2 if len(words[0]) > 6 else 0)
    assert not {"plug_help", "plug_entry"} & set(sys.modules)


# -- processes -------------------------------------------------------------------------------------------------------


def value_in_a_process(queue) -> None:
    """What a process that has been spawned finds."""
    queue.put((get_cfg().MODEL.SPAWNED, load_plugins()))


def test_spawned_processes_load_them_too(module):
    load_plugins([module("plug_spawned", KEY.format(name="SPAWNED", value=5))])
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=value_in_a_process, args=(queue,))
    process.start()
    try:
        assert queue.get(timeout=120) == (5, ["plug_spawned"])
    finally:
        process.join()


def test_it_is_part_of_the_public_names():
    assert panoptic_fusion.load_plugins is load_plugins and "load_plugins" in panoptic_fusion.__all__
