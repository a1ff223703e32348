"""The report's page in headless Chromium, opened as a file: what it shows, and that text is never markup."""

import re

import numpy as np
import pytest
from fabricated_report import CATEGORIES, KINDS, script, write_report_data
from report_data import pixels_of, point_at, read_script

from panoptic_fusion.evaluation.report.page import write_page

EVIL = '<img src=x onerror="window.pwned = 1">'
EVIL_TEMPLATE = "{{ constructor.constructor('window.pwned = 2')() }}"
SECTIONS = ("summary", "classes", "confusion", "images", "worst", "compare")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(folder, index, image payloads) of two predictions on 6 images."""
    folder = tmp_path_factory.mktemp("report")
    index, payloads = write_report_data(folder, 6)
    write_page(folder)
    return folder, index, payloads


def canvas_pixel(page, layer: str, x: int, y: int) -> list[int]:
    """RGBA of one pixel of a layer."""
    canvas = page.locator(f"canvas[data-layer={layer}]")
    return canvas.evaluate("(c, [x, y]) => [...c.getContext('2d').getImageData(x, y, 1, 1).data]", [x, y])


def names_in_list(page) -> list[str]:
    return page.locator(".image-row .file").all_inner_texts()


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (400, "dark")])
def test_every_section_fits_and_reports_no_error(open_page, report, width, scheme):
    page = open_page(report[0], width=width, color_scheme=scheme)
    for section in SECTIONS:
        page.locator(f"nav a[href='#/{section}']").click()
        page.wait_for_selector(f"nav a[href='#/{section}'][aria-current]")
        assert page.locator("main h2").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") == width, section
    page.evaluate("location.hash = '#/image/000002'")
    page.wait_for_selector("canvas[data-layer=errors]")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_the_summary_shows_the_numbers_of_the_index(open_page, report):
    folder, index, _ = report
    page = open_page(folder)
    rows = page.locator("main article:last-child tbody tr").all()
    assert len(rows) == 6
    for row, (p, group) in zip(rows, [(p, g) for p in (0, 1) for g in ("All", "Things", "Stuff")], strict=True):
        summary = index["predictions"][p]["summary"][group]
        expected = [f"{summary[key]:.1f}" for key in ("pq", "sq", "rq")] + [
            str(summary[key]) for key in ("n", "tp", "fp", "fn")
        ]
        assert row.locator("td.number").all_inner_texts() == expected
        assert float(row.locator("td.number").first.get_attribute("data-value")) == summary["pq"]
    # 100 - PQ of a group, split by what it is lost by, adds up to the mean of its classes
    parts = page.locator(".lost-numbers").first.inner_text().replace("\u2212", "").split()
    assert sum(map(float, parts)) == pytest.approx(100, abs=0.2)
    assert float(parts[0]) == pytest.approx(index["predictions"][0]["summary"]["All"]["pq"], abs=0.051)


def test_classes_are_sorted_by_their_columns(open_page, report):
    folder, index, _ = report
    page = open_page(folder, "#/classes")

    def shown():
        return page.locator("table.classes .class-name > :not(.swatch, small)").all_inner_texts()

    def expected(key, reverse):
        known = [c for c in index["categories"] if c["results"][0]["pq"] is not None]
        return [c["name"] for c in sorted(known, key=lambda c: c["results"][0][key], reverse=reverse)]

    assert shown() == expected("pq", False)
    page.get_by_role("button", name="FN", exact=True).click()
    assert shown() == expected("fn", True)
    assert page.locator("th[aria-sort=descending]").inner_text().strip("▼") == "FN"
    page.get_by_role("button", name="FN").click()
    assert shown() == expected("fn", False)
    page.get_by_role("button", name="Things", exact=True).click()
    assert set(shown()) == {name for name, isthing, _ in CATEGORIES if isthing}
    # the numbers of the other prediction
    page.get_by_role("button", name="second").click()
    car = page.locator("tbody tr", has_text="car")
    assert car.locator("[data-label=PQ]").inner_text() == f"{index['categories'][0]['results'][1]['pq']:.1f}"


def test_images_are_sorted_and_filtered(open_page, report):
    folder, index, _ = report
    page = open_page(folder, "#/images")
    images = index["images"]
    by = lambda key, reverse=False: [i["name"] for i in sorted(images, key=key, reverse=reverse)]  # noqa: E731
    assert names_in_list(page) == by(lambda i: i["pq"][0])
    press = lambda name: page.locator(".toolbar").get_by_role("button", name=name).click()  # noqa: E731
    press("PQ ▲")
    assert names_in_list(page) == by(lambda i: i["pq"][0], reverse=True)
    press("FP")
    assert names_in_list(page) == by(lambda i: -i["fp"][0])
    press("Δ PQ")
    assert names_in_list(page) == by(lambda i: i["pq"][1] - i["pq"][0])
    press("Name")
    assert names_in_list(page) == sorted(i["name"] for i in images)
    page.get_by_role("searchbox").fill("STREET 0000")
    assert len(names_in_list(page)) == 6
    page.get_by_role("searchbox").fill("00003")
    assert names_in_list(page) == ["street/00003.png"] and "1 image of 6" in page.get_by_role("status").inner_text()
    page.get_by_role("searchbox").fill("no such name")
    assert names_in_list(page) == []


def test_an_image_opens_and_its_layers_are_switched_and_faded(open_page, report):
    folder, _, payloads = report
    page = open_page(folder, "#/images")
    page.locator(".image-row", has_text="street/00000.png").click()
    page.wait_for_selector("canvas[data-layer=errors]")
    frame = page.locator(".frame")
    seen = {"errors": frame.screenshot()}
    codes = pixels_of(payloads[0]["predictions"][0]["errors"])
    colors = {1: [213, 94, 0], 2: [0, 114, 178], 3: [240, 228, 66]}
    for code in set(np.unique(codes).tolist()) & set(colors):
        y, x = np.argwhere(codes == code)[0].tolist()
        assert canvas_pixel(page, "errors", x, y)[:3] == pytest.approx(colors[code], abs=2)
    y, x = np.argwhere(codes == 0)[0].tolist()
    assert canvas_pixel(page, "errors", x, y)[3] == 0
    page.keyboard.press("4")
    page.wait_for_selector("canvas[data-layer=errors]", state="detached")
    seen["photo"] = frame.screenshot()
    for layer in ("Ground truth", "Prediction"):
        page.get_by_label(layer, exact=True).check()
        page.wait_for_timeout(50)
        seen[layer] = frame.screenshot()
    page.get_by_label("Opacity of Prediction").fill("10")
    page.wait_for_timeout(50)
    seen["faded"] = frame.screenshot()
    assert page.locator("canvas[data-layer=prediction]").evaluate("c => c.style.opacity") == "0.1"
    assert len(set(seen.values())) == len(seen), "a layer changed no pixel"


def test_a_hidden_kind_of_error_is_not_drawn(open_page, report):
    folder, _, payloads = report
    page = open_page(folder, "#/image/000001")
    page.wait_for_selector("canvas[data-layer=errors]")
    codes = pixels_of(payloads[0]["predictions"][0]["errors"])
    y, x = (
        np.argwhere(codes == KINDS["missed"])[0].tolist() if (codes == 2).any() else np.argwhere(codes == 1)[0].tolist()
    )
    label = {1: "False positive", 2: "Missed"}[int(codes[y, x])]
    assert canvas_pixel(page, "errors", x, y)[3] > 0
    page.locator(".kind-row", has_text=label).get_by_role("checkbox").uncheck()
    page.wait_for_timeout(50)
    assert canvas_pixel(page, "errors", x, y)[3] == 0


@pytest.mark.parametrize("image", [0, 1, 2])
def test_the_tooltip_names_class_score_iou_and_kind(open_page, report, image):
    """At one pixel of each predicted segment: what the data say of the segments there."""
    folder, _, payloads = report
    payload = payloads[image]
    page = open_page(folder, f"#/image/{image + 1:06d}")
    page.wait_for_selector("canvas[data-layer=errors]")
    part = payload["predictions"][0]
    truth, predicted = pixels_of(payload["ground_truth"]["map"]), pixels_of(part["map"])
    labels = {"matched": "Matched", "false": "False positive", "wrong class": "Wrong class", "missed": "Missed"}
    for segment in part["segments"]:
        ys, xs = np.nonzero(predicted == segment["n"])
        y, x = int(ys[len(ys) // 2]), int(xs[len(xs) // 2])
        point_at(page, x, y, truth.shape)
        text = page.locator(".tooltip dd[data-side=pred]").inner_text()
        assert CATEGORIES[segment["category"]][0] in text and f"IoU {segment['iou']:.2f}" in text
        assert labels[segment["kind"]].lower() in text.lower()
        score = segment["score"]
        assert "score" not in text if score is None else f"score {score:.2f}" in text
        n = int(truth[y, x])
        below = page.locator(".tooltip dd[data-side=gt]").inner_text()
        classes = {s["n"]: CATEGORIES[s["category"]][0] for s in payload["ground_truth"]["segments"]}
        assert classes.get(n, "void") in below
        missed = [m for m in part["missed"] if m["n"] == n]
        assert not missed or labels[missed[0]["kind"]].lower() in below.lower()
        if (
            pixels_of(part["errors"])[y, x] != KINDS["missed"]
        ):  # the predicted segment is outlined: its first column is white
            assert canvas_pixel(page, "outline", int(xs.min()), int(ys[xs.argmin()])) == [255, 255, 255, 255]
    page.mouse.move(5, 5)
    assert page.locator(".tooltip").count() == 0


def test_zoom_and_next_image_by_keyboard_wheel_and_drag(open_page, report):
    folder, index, _ = report
    page = open_page(folder, "#/image/000001")
    page.wait_for_selector("canvas[data-layer=errors]")
    place = lambda: page.locator(".stack").bounding_box()  # noqa: E731
    whole = place()
    page.keyboard.press("+")
    bigger = place()
    assert bigger["width"] == pytest.approx(1.3 * whole["width"])
    frame = page.locator(".frame").bounding_box()
    page.mouse.move(frame["x"] + 300, frame["y"] + 200)
    under = [(300 + frame["x"] - bigger["x"]) / bigger["width"], (200 + frame["y"] - bigger["y"]) / bigger["height"]]
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    closer = place()
    assert closer["width"] > bigger["width"]
    # the same place of the image is under the pointer
    assert (300 + frame["x"] - closer["x"]) / closer["width"] == pytest.approx(under[0], abs=0.01)
    assert (200 + frame["y"] - closer["y"]) / closer["height"] == pytest.approx(under[1], abs=0.01)
    page.mouse.down()
    page.mouse.move(frame["x"] + 340, frame["y"] + 230, steps=3)
    page.mouse.up()
    moved = place()
    assert moved["x"] - closer["x"] == pytest.approx(40, abs=1) and moved["y"] - closer["y"] == pytest.approx(30, abs=1)
    page.keyboard.press("0")
    assert place() == whole
    order = sorted(index["images"], key=lambda i: i["pq"][0])
    here = next(k for k, i in enumerate(order) if i["id"] == "000001")
    step = -1 if here == len(order) - 1 else 1
    page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
    page.wait_for_function(f"location.hash === '#/image/{order[here + step]['id']}'")
    page.wait_for_selector(f"h2:has-text('{order[here + step]['name']}')")
    page.keyboard.press("Escape")
    page.wait_for_selector(".image-row")


def test_a_worst_segment_opens_its_image_at_the_segment(open_page, report):
    folder, index, payloads = report
    page = open_page(folder, "#/worst")
    page.get_by_role("combobox").select_option(label="person")
    cards = page.locator(".worst-card")
    entries = index["worst"][0]["1"]
    assert cards.count() == len(entries)
    k = next(k for k, entry in enumerate(entries) if entry["side"] == "pred")
    cards.nth(k).click()
    pressed = page.locator("button.segment[aria-pressed=true]")
    pressed.wait_for()
    assert "person" in pressed.inner_text() and f"IoU {entries[k]['iou']:.2f}" in pressed.inner_text()
    numbers = pixels_of(payloads[entries[k]["image"]]["predictions"][0]["map"])
    ys, xs = np.nonzero(numbers == entries[k]["segment"])
    stack, frame = page.locator(".stack").bounding_box(), page.locator(".frame").bounding_box()
    x0, x1 = (stack["x"] + v / numbers.shape[1] * stack["width"] for v in (xs.min(), xs.max() + 1))
    y0, y1 = (stack["y"] + v / numbers.shape[0] * stack["height"] for v in (ys.min(), ys.max() + 1))
    assert frame["x"] <= x0 + 1 and x1 - 1 <= frame["x"] + frame["width"]
    assert frame["y"] <= y0 + 1 and y1 - 1 <= frame["y"] + frame["height"]
    larger = max((x1 - x0) / frame["width"], (y1 - y0) / frame["height"])
    assert larger == pytest.approx(0.5, abs=0.02), "the segment fills half of the pane"


def test_confusion_shows_pixels_and_segments(open_page, report):
    folder, index, _ = report
    page = open_page(folder, "#/confusion")
    page.get_by_role("button", name="Counts").click()
    rows = page.locator("table.confusion tbody tr")
    for unit in ("pixels", "segments"):
        page.get_by_role("button", name=unit.capitalize()).click()
        for i, expected in enumerate(index["confusion"][0][unit]):
            cells = rows.nth(i).locator("td")
            assert [t.replace("1K", "1000") for t in cells.all_inner_texts() if len(t) < 4] == [
                str(value) if value else "" for value in expected if value <= 1000
            ]
            for cell, value in zip(cells.all(), expected, strict=True):
                assert value == 0 or f": {value:,} {unit.removesuffix('s')}" in cell.get_attribute("title")
    page.get_by_role("button", name="% of row").click()
    row = index["confusion"][0]["segments"][0]
    assert rows.first.locator("td").first.inner_text() == f"{100 * row[0] / sum(row):.0f}"


def test_compare_shows_the_difference_and_what_changed_most(open_page, report):
    folder, index, _ = report
    page = open_page(folder, "#/compare")
    compare = index["compare"][0]
    signed = lambda value: f"{value:+.1f}".replace("-", "\u2212")  # noqa: E731
    text = page.locator(".verdict").inner_text()
    assert signed(compare["delta"]["pq"]) in text and all(signed(end) in text for end in compare["delta"]["ci"])
    names = page.locator(".changed .file").all_inner_texts()
    assert names == [index["images"][i]["name"] for i, _ in compare["images"]]
    assert page.locator("table.forest tbody tr").count() == len(compare["by_class"])
    canvas = page.locator(".chart canvas")
    canvas.scroll_into_view_if_needed()
    place = canvas.evaluate("c => { const { x, y } = Chart.getChart(c).getDatasetMeta(0).data[2]; return { x, y }; }")
    canvas.click(position=place)
    page.wait_for_selector(f"h2:has-text('{index['images'][2]['name']}')")
    page.go_back()
    page.wait_for_selector(".changed")
    page.locator(".changed a").first.click()
    page.wait_for_selector(f"h2:has-text('{names[0]}')")
    page.keyboard.press("p")
    page.wait_for_selector(".score-tile[aria-pressed=true]:has-text('second')")
    page.keyboard.press("s")
    page.wait_for_function("document.querySelectorAll('.pane').length === 3")


def test_what_a_dataset_says_is_text(open_page, tmp_path):
    names = [EVIL, EVIL_TEMPLATE, "</script><script>window.pwned = 3</script>", "a & b", "__proto__", "constructor"]
    index, _ = write_report_data(tmp_path, 3, (EVIL, "b"), names=names, title=EVIL)
    write_page(tmp_path)
    page = open_page(tmp_path)
    assert page.title() == EVIL and page.locator("h1").inner_text() == EVIL
    for section in SECTIONS:
        page.evaluate(f"location.hash = '#/{section}'")
        page.wait_for_selector(f"nav a[href='#/{section}'][aria-current]")
        assert page.locator("img[src=x]").count() == 0
    page.evaluate("location.hash = '#/classes'")
    shown = page.locator("table.classes tbody th").all_inner_texts()
    assert sorted(re.sub(r"\s*(thing|stuff)$", "", text) for text in shown) == sorted(names)
    page.evaluate("location.hash = '#/image/000001'")
    page.wait_for_selector("canvas[data-layer=errors]")
    page.get_by_text("only errors").click()
    listed = page.locator(".segment .class").all_inner_texts()
    assert set(listed) <= set(names) and EVIL_TEMPLATE in listed


def test_markup_would_be_harmless(browser, report):
    """If text ever became markup: the page's policy runs no handler and loads nothing from the network."""
    page = browser.new_page()
    page.goto((report[0] / "report.html").as_uri())
    page.evaluate(
        """async () => {
          document.body.innerHTML += '<img src="x" onerror="window.pwned = 4"><script>window.pwned = 5</script>';
          await new Promise((resolve) => setTimeout(resolve, 200));
        }"""
    )
    blocked = "new Promise(resolve => addEventListener('securitypolicyviolation', e => resolve(e.blockedURI)))"
    image = "document.body.append(Object.assign(new Image(), { src: 'https://example.com/x.png' }))"
    assert page.evaluate(f"() => {{ const seen = {blocked}; {image}; return seen; }}") == "https://example.com/x.png"
    assert page.evaluate("window.pwned") is None
    page.close()


def test_a_dataset_alone(open_page, tmp_path):
    index, payloads = write_report_data(tmp_path, 3, ())
    write_page(tmp_path)
    page = open_page(tmp_path)
    assert page.locator("nav a").all_inner_texts() == ["Summary", "Images"]
    assert page.locator("table.classes thead th").all_inner_texts() == ["Class", "▼Segments", "Images", "Pixels"]
    page.locator("nav a", has_text="Images").click()
    page.locator(".image-row").first.click()
    page.wait_for_selector("canvas[data-layer=truth]")
    numbers = pixels_of(payloads[0]["ground_truth"]["map"])
    point_at(page, 100, 5, numbers.shape)
    n = int(numbers[5, 100])
    cls = next(s["category"] for s in payloads[0]["ground_truth"]["segments"] if s["n"] == n)
    assert CATEGORIES[cls][0] in page.locator(".tooltip dd[data-side=gt]").inner_text()
    assert page.locator(".tooltip dd[data-side=pred]").count() == 0
    assert page.locator("button.segment").count() == len(payloads[0]["ground_truth"]["segments"])


def test_a_script_that_is_missing_is_named(open_page, report, tmp_path):
    page = open_page(write_page(tmp_path).parent, allowed="ERR_FILE_NOT_FOUND")
    assert "report_files/index.js could not be read" in page.locator("[role=alert]").inner_text()
    write_report_data(tmp_path, 2)
    (tmp_path / "report_files/images/000002.js").unlink()
    page = open_page(tmp_path, "#/image/000002", allowed="ERR_FILE_NOT_FOUND")
    page.wait_for_selector("[role=alert]")
    assert "report_files/images/000002.js could not be read" in page.locator("[role=alert]").inner_text()


@pytest.mark.parametrize("number", [2000, pytest.param(5000, marks=pytest.mark.slow)])
def test_many_images_stay_usable(open_page, tmp_path, number, record_property):
    """Only the rows in view are in the document, and only their files are loaded. A step may take 15 s."""
    write_report_data(tmp_path, number, scenes=5)
    write_page(tmp_path)
    page = open_page(tmp_path, "#/images")
    requested = []
    page.on("request", lambda r: requested.append(r.url))
    page.get_by_role("button", name="Name").click()
    assert page.locator(".image-row").count() < 40
    for part in (0.25, 0.5, 1):
        page.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
        page.wait_for_function(
            """[...document.querySelectorAll(".image-row")].some((row) => {
              const { top } = row.getBoundingClientRect();
              return top > 0 && top < innerHeight;
            })"""
        )
        assert page.locator(".image-row").count() < 40
    last = page.locator(".image-row").last
    assert last.locator(".file").inner_text() == f"street/{number - 1:05d}.png"
    assert len({url for url in requested if "/thumbs/" in url}) < 120
    seconds = page.evaluate(
        """async () => {
          const start = performance.now();
          [...document.querySelectorAll(".image-row")].at(-1).click();
          while (!document.querySelector("canvas[data-layer=errors]")) await new Promise(requestAnimationFrame);
          await new Promise(requestAnimationFrame);
          return (performance.now() - start) / 1000;
        }"""
    )
    record_property("seconds_to_open_an_image", round(seconds, 3))
    print(f"{number} images: {seconds:.3f} s to open one")
    assert page.locator("h2").inner_text() == f"street/{number - 1:05d}.png"
    assert len({url for url in requested if "/images/" in url}) <= 3  # this one and its neighbors
    page.keyboard.press("Escape")
    page.wait_for_selector(".image-row")
    assert page.locator(".image-row .file", has_text=f"street/{number - 1:05d}.png").count() == 1, (
        "the place in the list is kept"
    )


def rewrite_image(folder, index, number: int, **changes) -> dict:
    """Changes the payload of one image and its row of the index."""
    key, payload = read_script(folder / f"report_files/images/{number:06d}.js")
    payload |= changes
    (folder / f"report_files/images/{number:06d}.js").write_text(script(key, payload))
    (folder / "report_files/index.js").write_text(script("index", index))
    return payload


def test_predictions_without_ground_truth(open_page, tmp_path):
    """`demo`: no measures, no matching, no errors."""
    index, _ = write_report_data(tmp_path, 2, ("only",))
    index |= {"predictions": [{"name": "only"}], "confusion": [], "worst": [], "compare": []}
    for category in index["categories"]:
        category["results"] = []
    for image in index["images"]:
        image |= {key: [] for key in ("pq", "tp", "fp", "fn")}
    key, payload = read_script(tmp_path / "report_files/images/000001.js")
    part = payload["predictions"][0] | {"errors": None, "missed": []}
    part["segments"] = [s | {"iou": None, "match": None, "best": None, "kind": None} for s in part["segments"]]
    rewrite_image(tmp_path, index, 1, ground_truth=None, predictions=[part])
    page = open_page(write_page(tmp_path).parent)
    assert page.locator("nav a").all_inner_texts() == ["Summary", "Images"]
    summary = page.locator("main").inner_text()
    assert "Predicted segments" in summary and "Ground-truth" not in summary
    page.evaluate("location.hash = '#/images'")
    page.locator(".image-row").first.click()
    page.wait_for_selector("canvas[data-layer=prediction]")
    assert page.locator("button.segment").count() == len(part["segments"])
    numbers = pixels_of(part["map"])
    point_at(page, 100, 5, numbers.shape)
    category = next(s["category"] for s in part["segments"] if s["n"] == numbers[5, 100])
    assert CATEGORIES[category][0] in page.locator(".tooltip").inner_text()
    assert "IoU" not in page.locator(".tooltip").inner_text()


def test_an_image_with_an_invalid_annotation_shows_its_photo_and_its_problem(open_page, tmp_path):
    index, _ = write_report_data(tmp_path, 3)
    index["images"][1] |= {"size": None, "pq": [None, None], "problems": [EVIL]}
    rewrite_image(tmp_path, index, 2, size=None, ground_truth=None, predictions=[])
    page = open_page(write_page(tmp_path).parent, "#/images")
    assert page.locator(".image-row .file").last.inner_text() == "street/00001.png"  # an unknown PQ comes last
    page.get_by_label("with problems").check()
    assert names_in_list(page) == ["street/00001.png"]
    page.locator(".image-row").click()
    page.wait_for_selector(".stack img")
    assert page.locator("p.problem").inner_text() == EVIL
    stack = page.locator(".stack").bounding_box()
    assert stack["width"] / stack["height"] == pytest.approx(144 / 96, rel=0.01)


def test_the_order_of_the_list_stays_in_the_viewer(open_page, report):
    """The key P shows another prediction; the next image remains the next one of the list."""
    folder, index, _ = report
    page = open_page(folder, "#/images")
    names = names_in_list(page)
    page.locator(".image-row").first.click()
    page.wait_for_selector("canvas[data-layer=errors]")
    page.keyboard.press("p")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f"h2:has-text('{names[1]}')")
    page.get_by_role("button", name="Previous image").click()
    page.wait_for_selector(f"h2:has-text('{names[0]}')")
