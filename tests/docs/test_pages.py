"""The pages of the documentation: links, anchors, and the files and config keys that they name exist."""

import re
from pathlib import Path

import pytest
from doc_blocks import CONFIG_KEY, PAGES, ROOT, page_name

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:panoptic_fusion|tools|tests|configs|docs|benchmarks)/[\w/.-]+\.(?:py|yaml|md|csv)")
# Made by the reader, or by the commands that the page gives.
NOT_OURS = {"configs/mine/panoptic_fpn_r50.yaml"}


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and the website give to a page's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: set[str] = set()
    for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        title = LINK.sub(lambda match: match[0][1 : match[0].index("]")], title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        found.add(slug)
    return found


def test_anchors_by_hand(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Any [link](x.md)?\n```bash\n# no heading\n```\n## Setting λ (figure 5)\n### OANet's module\n")
    assert anchors(page) == {"any-link", "setting-λ-figure-5", "oanets-module"}


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links(path):
    for target in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file(), f"{page_name(path)} links to {target}, which does not exist"
        if anchor:
            assert anchor in anchors(file), f"{page_name(path)} links to {target}: {name} has no such heading"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_that_are_named(path):
    for code in CODE.findall(path.read_text(encoding="utf-8")):
        for name in FILE.findall(code):
            gone = path.name == "CHANGELOG.md"  # it names files of earlier versions
            assert gone or name in NOT_OURS or (ROOT / name).is_file(), (
                f"{page_name(path)} names {name}, which does not exist"
            )


def test_architecture_names_every_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for package in sorted((ROOT / "panoptic_fusion").glob("*/__init__.py")):
        assert f"`panoptic_fusion/{package.parent.name}`" in text, package


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_config_keys_that_are_named(path):
    from panoptic_fusion import get_cfg

    cfg = get_cfg()
    for code in CODE.findall(path.read_text(encoding="utf-8")):
        for key in CONFIG_KEY.findall(code.replace(".md", "").replace(".cff", "")):
            node = cfg
            for part in key.split("."):
                assert part in node, f"{page_name(path)} names {key}, which is not a config key"
                node = node[part]
