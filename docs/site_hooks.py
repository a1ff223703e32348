"""Hooks of mkdocs.yml: the repository's own pages become pages of the website, and every module gets an API page."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "panoptic_fusion"
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "CONTRIBUTING.md", "CHANGELOG.md": "CHANGELOG.md"}
ROOT_FILES = ("LICENSE", "NOTICE", "CITATION.cff")
ROOT_LINK = re.compile(rf"\]\((?:\.\./)+({'|'.join(map(re.escape, [*ROOT_PAGES, *ROOT_FILES]))})")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the API pages to the navigation and gives headings the anchors that GitHub gives them."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    config.nav.append({"API": navigation(PACKAGE)})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages and files of the repository's root, and one API page per module."""
    for name, target in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, target, content=text.replace("](docs/", "](")))
    for name in ROOT_FILES:
        files.append(File.generated(config, name, content=(ROOT / name).read_text(encoding="utf-8")))
    for module, page in pages(PACKAGE).items():
        files.append(File.generated(config, page, content=f"# {module}\n\n::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, **_) -> str:
    """Points links to files of the repository's root, such as ../README.md, to their pages of the website."""
    folder = posixpath.dirname(page.file.src_uri)

    def target(match: re.Match) -> str:
        name = match[1]
        return f"]({posixpath.relpath(ROOT_PAGES.get(name, name), folder or '.')}"

    return ROOT_LINK.sub(target, markdown)


def pages(package: Path) -> dict[str, str]:
    """Returns the API page of every public module of a package; a package's own page is its index."""
    result = {}
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package.parent)
        parts = path.parent.parts if file.stem == "__init__" else path.with_suffix("").parts
        if not any(part.startswith("_") for part in parts):
            page = path.with_name("index.md") if file.stem == "__init__" else path.with_suffix(".md")
            result[".".join(parts)] = f"api/{page.as_posix()}"
    return result


def navigation(package: Path) -> list:
    """Returns the navigation of the API pages: a package's own page first, then its modules and packages."""
    of_module = pages(PACKAGE)
    name = ".".join(package.relative_to(ROOT).parts)
    entries: list = [of_module[name]]
    for path in sorted(package.iterdir()):
        if f"{name}.{path.stem}" in of_module:
            page = of_module[f"{name}.{path.stem}"]
            entries.append({path.stem: navigation(path) if path.is_dir() else page})
    return entries
