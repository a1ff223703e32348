"""The command line as a whole: what it answers at once, the exit codes, the functions, one resolved config."""

import argparse
import importlib
import inspect
import os
import subprocess
import sys

import pytest
from tiny_training import ROOT

import panoptic_fusion
from panoptic_fusion.cli import COMMANDS, entry
from panoptic_fusion.data.datasets import BUILTIN
from panoptic_fusion.errors import INSTALL_DETECTRON2, UserError

HEAVY = {"torch", "torchvision", "detectron2", "cv2", "numpy", "fvcore", "PIL", "matplotlib", "timm", "pycocotools"}

# Runs a command line and writes which heavy modules it has imported.
LOADED = f"""
import sys
from panoptic_fusion.cli import main
try:
    main(sys.argv[1:])
finally:
    print("LOADED", *sorted(set(sys.modules) & {HEAVY!r}))
"""


def loads(*words: str) -> tuple[int, str, str]:
    """(exit code, heavy modules, output) of a command line in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run([sys.executable, "-c", LOADED, *words], env=env, capture_output=True, text=True)
    *out, last = done.stdout.splitlines()
    return done.returncode, last.removeprefix("LOADED").strip(), "\n".join(out) + done.stderr


def test_help_and_version():
    code, heavy, out = loads("--help")
    assert (code, heavy) == (0, "")
    for name in COMMANDS:
        assert f"\n  {name} " in out
    code, heavy, out = loads("--version")
    assert (code, heavy, out.strip()) == (0, "", f"panoptic-fusion {panoptic_fusion.__version__}")


@pytest.mark.parametrize("script", ["demo.py", "train_net.py"])
def test_help_of_the_scripts_imports_nothing_heavy(script):
    """They load torch after `main` has set up what torch reads when it is loaded."""
    code = f"""
import runpy, sys
sys.argv = [{script!r}, "--help"]
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    print("LOADED", *sorted(set(sys.modules) & {HEAVY!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("LOADED\n"), done.stdout + done.stderr


def test_help_of_each_command_imports_nothing_heavy():
    """All in one process: each would take as long as the interpreter needs."""
    code = "\n".join(
        [
            "import contextlib, io, sys",
            "from panoptic_fusion.cli import COMMANDS, main",
            "for name in COMMANDS:",
            "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):",
            "        main([name, '--help'])",
            "    assert f'usage: panoptic-fusion {name}' in out.getvalue(), name",
            f"print(sorted(set(sys.modules) & {HEAVY!r}))",
        ]
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "panoptic-fusion: error: the following arguments are required: COMMAND"),
        (["trian"], "panoptic-fusion: error: argument COMMAND: invalid choice: 'trian'"),
        (["train"], "panoptic-fusion train: error: --config-file is missing"),
        (["train", "--num-gpus", "x"], "panoptic-fusion train: error: argument --num-gpus: invalid int value: 'x'"),
        (["evaluate"], "panoptic-fusion evaluate: error: pass --model"),
        (["evaluate"], "MODEL.WEIGHTS FILE, or --gt-json FILE and the options with it\n"),
        (["tune", "--output", "o"], "or --instances FILE and the options with it"),
        (["demo", "--input", "a.jpg", "--output", "out"], "panoptic-fusion demo: error: pass --model"),
        (["demo", "--input", "a.jpg", "--output", "out"], "or --zoo NAME, or --onnx FILE"),
        (["export", "--output", "o.onnx"], "MODEL.WEIGHTS FILE, or --zoo NAME\n"),
        (["demo", "--model", "m", "--input", "a", "--output", "o", "--alpha", "2"], "--alpha is 2.0: use a number"),
        (["check"], "panoptic-fusion check: error: pass a name, --config-file"),
        (["import", "a"], "panoptic-fusion import: error: the following arguments are required: --output"),
        (["import", "a", "--output", "b", "--workers", "0"], "panoptic-fusion import: error: --workers is 0"),
        (["fuse", "--instances", "a.json"], "panoptic-fusion fuse: error: the following arguments are required"),
        (["prepare", "nothing"], "panoptic-fusion prepare: error: argument DATASET: invalid choice: 'nothing'"),
        (["convert", "seamseg", "in", "out.txt"], "panoptic-fusion convert: error: out.txt: the name of the output"),
        (["fine-tune", "--data", "d", "--output", "o", "--iterations", "0"], "--iterations is 0: use 1 or more"),
        (["oracle", "--dataset", "d", "--output", "o"], "panoptic-fusion oracle: error: pass --model"),
        (["tune", "--model", "m", "--output", "o", "--folds", "1"], "panoptic-fusion tune: error: --folds is 1: use 2"),
        (["leaderboard", "s", "--output", "o", "--docs", "d", "--sizes", "1x1"], "'1x1' is not WIDTHxHEIGHT"),
    ],
)
def test_usage_errors_come_before_heavy_imports(words, says):
    code, heavy, out = loads(*words)
    assert (code, heavy) == (2, "") and says in out and "Traceback" not in out, out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_documented_function(name):
    module = importlib.import_module(COMMANDS[name])
    function = getattr(module, module.__name__.rpartition(".")[2])  # `import` is no name of a function
    assert getattr(panoptic_fusion, function.__name__) is function
    assert function.__name__ in panoptic_fusion.__all__
    assert inspect.getdoc(function) and module.__doc__ and f"panoptic-fusion {name} " in module.__doc__
    assert module.HELP and "\n" not in module.HELP


def test_names_that_are_spelled_twice_agree():
    from panoptic_fusion.cli import prepare

    assert set(prepare.PUBLIC) == set(BUILTIN)


def test_python_users_get_exports_that_exist():
    assert sorted(panoptic_fusion._EXPORTS) == sorted(panoptic_fusion.__all__)
    for name in panoptic_fusion.__all__:
        assert callable(getattr(panoptic_fusion, name))


@pytest.mark.parametrize("module", ["detectron2", "detectron2.config"])
def test_without_detectron2_the_command_line_says_how_to_install_it(module, capsys):
    def run(args: argparse.Namespace) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    with pytest.raises(UserError) as error:
        entry._run(argparse.Namespace(run=run), argparse.Namespace())
    assert str(error.value) == INSTALL_DETECTRON2
    assert "pip install --no-deps --require-hashes" in INSTALL_DETECTRON2


def test_another_missing_module_is_not_taken_for_detectron2():
    def run(args: argparse.Namespace) -> None:
        raise ModuleNotFoundError("No module named 'nothing'", name="nothing")

    with pytest.raises(ModuleNotFoundError):
        entry._run(argparse.Namespace(run=run), argparse.Namespace())


def test_omp_waits_passively_unless_the_user_says_otherwise(monkeypatch):
    seen = []
    module = argparse.Namespace(
        __doc__="", add_arguments=lambda parser: None, run=lambda args: seen.append(os.environ["OMP_WAIT_POLICY"])
    )
    monkeypatch.setitem(sys.modules, "a_command", module)
    monkeypatch.setitem(COMMANDS, "new", "a_command")
    for before, wanted in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        with monkeypatch.context() as patch:
            patch.delenv("OMP_WAIT_POLICY", raising=False)
            if before:
                patch.setenv("OMP_WAIT_POLICY", before)
            with pytest.raises(SystemExit) as exit_info:
                entry.main(["new"])
            assert exit_info.value.code == 0 and seen.pop() == wanted
            patch.delenv("OMP_WAIT_POLICY", raising=False)


def test_importing_the_library_sets_nothing():
    code = "import os, panoptic_fusion; panoptic_fusion.get_cfg; print(os.environ.get('OMP_WAIT_POLICY'))"
    env = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
