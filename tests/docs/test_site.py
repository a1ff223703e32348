"""The website: it builds strictly, every public name has its page, and no page needs the network."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from doc_blocks import ROOT

pytest.importorskip("mkdocs", reason="make docs has not been run: pip install -r requirements-docs.txt")
pytestmark = pytest.mark.slow

SOURCES = ("docs", "panoptic_fusion", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "NOTICE")


def build(folder: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def public_names(package: Path) -> set[str]:
    """Dotted names of the public functions and classes of public modules, and of the classes' public methods."""
    names = set()
    for file in package.rglob("*.py"):
        parts = file.relative_to(package.parent).with_suffix("").parts
        if any(part.startswith("_") and part != "__init__" for part in parts):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                names.add(f"{module}.{node.name}")
                for child in node.body if isinstance(node, ast.ClassDef) else []:
                    if isinstance(child, ast.FunctionDef) and not child.name.startswith("_"):
                        names.add(f"{module}.{node.name}.{child.name}")
    return names


def test_every_public_name_has_its_page(site):
    inventory = zlib.decompress((site / "objects.inv").read_bytes().split(b"\n", 4)[4]).decode()
    documented = {}
    for line in inventory.splitlines():
        name, _, _, location, _ = line.split(" ", 4)
        documented[name] = location.split("#")[0]
    names = public_names(ROOT / "panoptic_fusion")
    assert len(names) > 300
    assert names - documented.keys() == set()
    for page in {documented[name] for name in names}:
        assert (site / page).is_file()


def test_pages_need_no_network(site):
    remote = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)")
    for page in site.rglob("*.html"):
        loaded = remote.findall(page.read_text(encoding="utf-8"))
        assert loaded == [], f"{page.relative_to(site)} loads {loaded}"


@pytest.mark.parametrize("text", ["[x](no_page.md)", "[x](tascnet.md#no-such-heading)", "![x](no_picture.png)"])
def test_a_broken_link_is_an_error(text, tmp_path):
    for name in (*SOURCES, "CITATION.cff"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    for file in (tmp_path / "panoptic_fusion").rglob("*.py"):
        if file.name != "__init__.py" or file.parent.name != "panoptic_fusion":
            file.unlink()  # the API pages are not what is tested
    with (tmp_path / "docs" / "upsnet.md").open("a") as page:
        page.write(f"\n{text}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0 and "upsnet.md" in done.stderr
