"""The files of the report's page: what is copied, and what its scripts and libraries are."""

import hashlib
import json
import re

import pytest
from tiny_training import ROOT

from panoptic_fusion.evaluation.report.page import STATIC, write_page

VENDOR = STATIC / "vendor"
OWN = sorted(path for path in STATIC.rglob("*") if path.suffix in (".js", ".css", ".html") and path.parent != VENDOR)


def test_everything_that_the_page_names_is_there(tmp_path):
    page = write_page(tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    names = re.findall(r'(?:src|href)="(report_files/[^"]+)"', page.read_text())
    assert len(names) > 10 and all((page.parent / name).is_file() for name in names)
    static = page.parent / "report_files/static"
    written = {str(path.relative_to(page.parent)) for path in static.rglob("*") if path.suffix in (".js", ".css")}
    assert set(names) == written, "scripts or styles that report.html does not name"


def test_the_licenses_are_copied_with_the_libraries(tmp_path):
    write_page(tmp_path)
    copied = {path.name for path in (tmp_path / "report_files/static/vendor").iterdir()}
    assert {"LICENSE.vue", "LICENSE.chartjs", "LICENSE.kurkle-color", "manifest.json"} <= copied


def test_an_older_page_is_replaced_and_data_stay(tmp_path):
    write_page(tmp_path)
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "report_files/static/removed.js").write_text("old")
    (tmp_path / "report_files/index.js").write_text("data")
    write_page(tmp_path)
    assert "<html" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "report_files/static/removed.js").exists()
    assert (tmp_path / "report_files/index.js").read_text() == "data"


def test_the_libraries_are_the_published_builds():
    manifest = json.loads((VENDOR / "manifest.json").read_text())
    assert set(manifest) == {path.name for path in VENDOR.glob("*.js")}
    notice = (ROOT / "NOTICE").read_text()
    for name, entry in manifest.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == entry["sha256"], name
        assert entry["version"] in entry["source"] and "MIT" in entry["license"]
        assert entry["package"].lower() in notice.lower()
    assert sum(path.stat().st_size for path in VENDOR.iterdir()) < 500_000


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_script_makes_markup_of_text_or_uses_the_network(path):
    text = path.read_text()
    found = re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|v-html|document\.write|\beval\(|new Function|https?:", text
    )
    assert not found, found
