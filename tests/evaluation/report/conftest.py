"""A browser, and the report's page in it."""

import pytest
from headless_browser import missing_browser, open_browser


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Without one, the tests of the page are skipped."""
    if missing_browser():
        pytest.skip(f"the page is not tested: {missing_browser()}")
    with open_browser() as opened:
        yield opened


@pytest.fixture
def open_page(browser):
    """Opens report.html of a folder. At the end no console holds an error, and no request has left the folder."""
    opened, errors = [], []

    def load(folder, address="", *, width=1280, allowed=None, **options):
        page = browser.new_page(viewport={"width": width, "height": 860}, **options)
        page.set_default_timeout(15_000)
        page.on(
            "console",
            lambda m: m.type in ("error", "warning") and not (allowed and allowed in m.text) and errors.append(m.text),
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or errors.append(r.url))
        page.goto(f"{(folder / 'report.html').as_uri()}{address}")
        page.wait_for_selector("main section, [role=alert]")
        opened.append(page)
        return page

    yield load
    pwned = [page.evaluate("window.pwned") for page in opened]
    for page in opened:
        page.close()
    assert errors == [] and not any(pwned)
