"""The files that people expect of a project: they are valid, and agree with each other."""

import re

import pytest
import yaml
from doc_blocks import ROOT

import panoptic_fusion

YAML_FILES = [
    *sorted((ROOT / ".github").rglob("*.yml")),
    ROOT / ".pre-commit-config.yaml",
    ROOT / "mkdocs.yml",
    ROOT / "CITATION.cff",
]


def read(path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_yaml(path):
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("name", ["lint", "tests", "wheel"])
def test_workflows(name):
    content = read(ROOT / ".github" / "workflows" / f"{name}.yml")
    assert set(content[True]) == {"push", "pull_request"}  # YAML reads the key `on` as true
    for job in content["jobs"].values():
        assert job["runs-on"].startswith("ubuntu") and job["steps"][0]["uses"].startswith("actions/checkout@")
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        if name != "lint":
            assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12", "3.13"]


def test_workflows_install_the_pinned_torch():
    pins = re.findall(r"^(torch(?:vision)?==\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert len(pins) == 2
    for path in [ROOT / "README.md", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]:
        assert " ".join(pins) in path.read_text(encoding="utf-8"), f"{path.name} installs another torch than {pins}"


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_issue_templates(path):
    content = read(path)
    if path.stem == "config":
        return
    assert {"name", "description", "body"} <= set(content)
    names = [element["id"] for element in content["body"]]
    assert len(names) == len(set(names)) and all(element["attributes"]["label"] for element in content["body"])


def test_pre_commit_has_the_pinned_ruff():
    (pin,) = re.findall(r"^ruff==(\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    (repo,) = [r for r in read(ROOT / ".pre-commit-config.yaml")["repos"] if r["repo"].endswith("ruff-pre-commit")]
    assert repo["rev"] == f"v{pin}"


def test_versions_agree():
    citation = read(ROOT / "CITATION.cff")
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert citation["version"] == newest[1] == panoptic_fusion.__version__


def test_citation():
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert len(citation["references"]) == 4 and all(r["authors"] for r in citation["references"])


def test_copyright():
    line = "Copyright 2026 The panoptic_fusion authors"
    assert line in (ROOT / "NOTICE").read_text() and line in (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_installs_detectron2_as_the_program_says():
    from panoptic_fusion.errors import INSTALL_DETECTRON2

    def commands(text: str) -> list[str]:
        return [
            line.strip().rstrip("\\").strip() for line in text.splitlines() if re.match(r"\s+(echo|pip|--target)", line)
        ]

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    expected = commands(INSTALL_DETECTRON2)
    assert len(expected) == 3 and "--hash=sha256:" in expected[0]
    for line in expected:
        assert line in readme, f"README.md lacks: {line}"
