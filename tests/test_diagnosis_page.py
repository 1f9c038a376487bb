"""The report: one safe file, whatever classes and files are called; usable in a browser by mouse and keyboard."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import Page, find_browser
from diagnosis_sample import FILES, NAMES, make_sample
from hypothesis import given, settings
from hypothesis import strategies as st

import diagnose
from utils.diagnosis.gallery import LARGEST_PAGE, MARGIN, Crop, crop_window, cut_crop, place_crops
from utils.diagnosis.page import ASSETS, page, write_page
from utils.diagnosis.page_parts import Markup, esc, number, percent, signed, tag
from utils.errors import WorkError

VOID = {"meta", "link", "img", "input", "br", "rect", "line"}
SECTIONS = ["verdict", "errors", "confusions", "gallery", "classes", "thresholds", "balance", "audit", "agreement",
            "advice", "comparison", "capacity", "method"]  # fmt: skip


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a diagnosis of the hostile sample with every section but capacity."""
    root = tmp_path_factory.mktemp("sample")
    data, predictions = make_sample(root)
    (root / "empty").mkdir()
    return diagnose.run(
        data=str(data), pred=str(predictions), project=str(root / "runs"), conf=0.25, noplots=True,
        task=["balance", "labels", "errors", "agreement"], labels_b=[str(root / "labels/val")],
        compare=[str(root / "predictions")], resamples=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def text(run_folder: Path) -> str:
    return (run_folder / "report.html").read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Gathers elements with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)
        else:
            self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


# The file -------------------------------------------------------------------------------------------------------------


def test_page_is_well_formed_and_holds_every_section(text: str) -> None:
    reader = Reader(text)
    assert not reader.open and text.startswith("<!DOCTYPE html>")
    assert [a["id"] for a in reader.of("section")] == [name for name in SECTIONS if name != "capacity"]
    links = [a["href"] for a in reader.of("a") if str(a.get("href", "")).startswith("#")]
    assert [f"#{a['id']}" for a in reader.of("section")] == [link for link in links[1:]]
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_hostile_names_stay_text(text: str) -> None:
    """Classes and files called like markup show as they are called, and make no element, attribute or script."""
    reader = Reader(text)
    assert len(reader.of("script")) == len(reader.of("style")) == 1
    assert not reader.of("b") or all(not a for a in reader.of("b"))
    words = "".join(reader.words)
    for name in [*NAMES, FILES[0]]:
        assert name in words, name
    for tag_, attributes in reader.elements:
        assert not [key for key in attributes if key.startswith("on")], tag_
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert not value.lower().startswith(("javascript:", "http", "//", "file:")), value
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") for a in reader.of("img"))


def test_content_security_policy_admits_only_what_is_in_the_file(text: str) -> None:
    reader = Reader(text)
    policy = next(a["content"] for a in reader.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(part.strip().split(" ", 1) for part in str(policy).split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for kind in ("script", "style"):
        digest = hashlib.sha256("".join(reader.raw[kind]).encode()).digest()
        assert rules[f"{kind}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"
    assert not [a for _, a in reader.elements if "style" in a], "inline styles are not admitted"


def test_images_have_alternative_texts_that_tell_the_error(text: str) -> None:
    texts = [a["alt"] or "" for a in Reader(text).of("img")]
    assert texts and all(texts)
    assert any(f"{NAMES[0]} taken for {NAMES[1]} with confidence 0." in alt for alt in texts)
    assert any(alt.startswith(f"{NAMES[4]} missed, in ") for alt in texts)


def test_numbers_of_the_page_are_those_of_the_summary(run_folder: Path, text: str) -> None:
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    words = "".join(Reader(text).words)
    for sentence in summary["verdict"]:
        assert sentence in words
    assert len(summary["verdict"]) == 3
    for line in summary["advice"]["lines"]:
        assert line["evidence"] in words
    counts = summary["errors"]["operating"]["counts"]
    assert f"{counts['objects']} objects became:" in words
    assert "too few to judge" in words and "no measurable difference" in words


def test_linked_files_exist(run_folder: Path, text: str) -> None:
    links = [str(a["href"]) for a in Reader(text).of("a") if not str(a["href"]).startswith("#")]
    assert links and all((run_folder / link).is_file() for link in links)


def test_escaping() -> None:
    assert esc("<a href='x'>&\"\x00\x1b") == "&lt;a href=&#x27;x&#x27;&gt;&amp;&quot;\ufffd\ufffd"
    assert tag("p", "<", Markup("<b>"), None, title='"', data_x=1, hidden=True, id=None, open=False) == (
        '<p title="&quot;" data-x="1" hidden>&lt;<b></p>'
    )
    assert tag("img", src="a") == '<img src="a"/>'


def test_numbers_for_people() -> None:
    assert [number(None), number(float("nan")), number(1234), number(1234.56), number(0.5, 2)] == [
        "–", "–", "1,234", "1,234.6", "0.50",
    ]  # fmt: skip
    assert [percent(0.123, 1), percent(None), signed(-0.5), signed(2), signed(None)] == [
        "12.3 %",
        "–",
        "−0.5",
        "+2",
        "–",
    ]


def test_page_of_labels_alone_has_no_gallery(tmp_path: Path) -> None:
    data, _ = make_sample(tmp_path, images=4)
    folder = diagnose.run(data=str(data), project=str(tmp_path / "runs"))
    reader = Reader((folder / "report.html").read_text(encoding="utf-8"))
    assert [a["id"] for a in reader.of("section")] == ["verdict", "balance", "audit", "advice", "method"]


def test_page_that_cannot_be_written_is_a_work_error(run_folder: Path, tmp_path: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkError, match="report.html: cannot be written"):
        write_page(tmp_path / "file" / "report.html", summary)


# Crops ----------------------------------------------------------------------------------------------------------------


@given(
    width=st.integers(1, 900), height=st.integers(1, 900),
    box=st.tuples(*[st.floats(-50, 950, allow_nan=False) for _ in range(4)]),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_window_lies_in_the_image_and_holds_the_box_with_its_margin(
    width: int, height: int, box: tuple[float, float, float, float]
) -> None:
    x1, y1, x2, y2 = min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3])
    left, top, right, bottom = crop_window([(x1, y1, x2, y2)], width, height)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for low, high, first, last, side in ((x1, x2, left, right, width), (y1, y2, top, bottom, height)):
        low, high = np.clip((low, high), 0, side)
        margin = MARGIN * (high - low)
        assert first <= max(low - margin, 0) + 1e-6 or last == side
        assert last >= min(high + margin, side) - 1e-6 or first == 0


def test_crop_shows_its_box_where_it_says() -> None:
    pixels = np.zeros((1200, 2000, 3), np.uint8)
    pixels[300:900, 700:1300] = (0, 0, 255)
    crop = Crop("errors", "missed", "x.png", true=0, truth=(700.0, 300.0, 1300.0, 900.0), others=((0, 0, 10, 10),))
    done = cut_crop(crop, pixels)
    image = cv2.imdecode(np.frombuffer(done.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2][::-1] == done.size and max(done.size) <= 320 and done.others == ()
    assert done.truth is not None and done.native == (700.0, 300.0, 1300.0, 900.0)
    x1, y1, x2, y2 = (round(v) for v in done.truth)
    inside, outside = image[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2], np.delete(image, np.s_[y1 - 2 : y2 + 2], 0)
    assert inside[..., 2].min() > 200 and outside[..., 2].max() < 60
    assert done.window == (580, 180, 1420, 1020)  # 20 % on each side


def test_crops_beyond_the_size_become_files(tmp_path: Path, run_folder: Path) -> None:
    """A page has at most its size; the rest is linked, and the alternative text is the link's."""
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    crop = Crop("errors", "missed", "a.png", true=0, truth=(1, 1, 9, 9), size=(320, 320), jpeg=bytes(90_000))
    crops = place_crops([crop] * 40, tmp_path, largest=2 * 1024 * 1024 + 500_000)
    kept = [c for c in crops if c.jpeg]
    assert len(kept) == 4 and len(list((tmp_path / "crops").iterdir())) == 36
    reader = Reader(page(summary, crops))
    links = [a["href"] for a in reader.of("a") if str(a["href"]).startswith("crops/")]
    assert len(links) == 36 and all((tmp_path / str(link)).is_file() for link in links)
    assert len(page(summary, [crop] * 40).encode()) < LARGEST_PAGE


# Colours --------------------------------------------------------------------------------------------------------------


def _luminance(code: str) -> float:
    values = [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_texts_have_the_contrast_of_wcag(scheme: str) -> None:
    """Ratio (L1 + 0.05) / (L2 + 0.05) of at least 4.5 for text, 3 for bars, on every ground (WCAG 1.4.3, 1.4.11)."""
    css = (ASSETS / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.S)
    tokens = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", blocks[0]))
    if scheme != "light":
        tokens |= dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", blocks[1 if scheme == "dark" else 2]))
    full = {name: code if len(code) == 7 else "#" + "".join(2 * c for c in code[1:]) for name, code in tokens.items()}

    def ratio(a: str, b: str) -> float:
        high, low = sorted((_luminance(full[a]), _luminance(full[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for ground in ("page", "card", "well"):
        for ink in ("ink", "soft", "accent", "good", "bad", "warn"):
            assert ratio(ink, ground) >= 4.5, f"{ink} on {ground}"
        assert ratio("fill", ground) >= 3


# In a browser ---------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(find_browser() is None, reason="needs Chromium")
SHOWN = "[...document.querySelectorAll('#crops figure:not([hidden])')]"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Any:
    if find_browser() is None:
        pytest.skip("needs Chromium")
    with Page(tmp_path_factory.mktemp("profile")) as page_:
        yield page_


@pytest.fixture
def report(browser: Page, run_folder: Path) -> Any:
    browser.requests.clear()
    browser.messages.clear()
    browser.resize(1280, 900)
    browser.media()
    browser.open(run_folder / "report.html")
    yield browser
    outside = [
        url
        for url in browser.requests
        if not url.startswith(("data:", "about:blank", (run_folder / "report.html").as_uri()))
    ]
    assert not outside and not browser.messages


@needs_browser
def test_page_runs_alone_and_nothing_of_the_names_runs(report: Page) -> None:
    assert report.run("document.querySelectorAll('#crops figure').length") > 8
    assert report.run("document.querySelectorAll('script').length") == 1
    assert report.run("[...document.images].every(i => i.alt)")
    assert report.run("[...document.images].every(i => i.naturalWidth > 0)")


@needs_browser
def test_policy_stops_what_is_smuggled_in(report: Page) -> None:
    """Even an element that scripts add is not let out or run."""
    report.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"http://127.0.0.1:9/x.png\" alt=x>')")
    report.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.hit = 1\" id=smuggled>x</p>')")
    report.run("document.getElementById('smuggled').click()")
    assert report.run("window.hit ?? 0") == 0
    blocked = [m for m in report.messages if "Content Security Policy" in m]
    assert len(blocked) >= 2
    report.messages.clear()
    report.requests.clear()


@needs_browser
def test_filters_by_type_pair_class_and_confidence(report: Page) -> None:
    total = report.run(f"{SHOWN}.length")

    def choose(name: str, value: str) -> list[dict[str, str]]:
        report.run(
            f"(() => {{ const e = document.getElementById('filters').elements['{name}']; e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('input', { bubbles: true })); })()"
        )
        return report.run(f"{SHOWN}.map(f => ({{...f.dataset}}))")

    shown = choose("type", "misclassified")
    assert shown and len(shown) < total and {f["type"] for f in shown} == {"misclassified"}
    assert [float(f["conf"]) for f in shown] == sorted((float(f["conf"]) for f in shown), reverse=True)
    assert report.run("document.getElementById('shown').textContent") == f"{len(shown)} of {total} crops"
    assert report.run("location.hash") == "#type=misclassified"
    assert choose("type", "") and report.run(f"{SHOWN}.length") == total
    assert {f["true"] for f in choose("true", "4")} == {"4"}
    choose("true", "")
    assert {f["pred"] for f in choose("pred", "1")} == {"1"}
    choose("pred", "")
    assert {(f["true"], f["pred"], f["type"]) for f in choose("pair", "0>1")} == {("0", "1", "misclassified")}
    choose("pair", "")
    bounded = choose("min", "0.5")
    assert bounded and all(float(f["conf"]) >= 0.5 for f in bounded)
    bounded = choose("max", "0.7")
    assert all(0.5 <= float(f["conf"]) <= 0.7 for f in bounded)
    choose("min", "")
    choose("max", "")
    rising = [float(f["conf"]) for f in choose("sort", "low") if f.get("conf")]
    assert rising == sorted(rising)
    report.run("document.querySelector('#filters [type=reset]').click()")
    assert report.run(f"{SHOWN}.length") == total and report.run("location.hash") == "#gallery"


@needs_browser
def test_address_restores_a_view(browser: Page, run_folder: Path) -> None:
    browser.open(run_folder / "report.html", "#pair=0%3E1&sort=low")
    assert browser.run("document.getElementById('filters').elements.pair.value") == "0>1"
    assert set(browser.run(f"{SHOWN}.map(f => f.dataset.type)")) == {"misclassified"}


@needs_browser
def test_keyboard_goes_from_crop_to_crop(report: Page) -> None:
    place = "document.activeElement.dataset.place"
    report.press("n")
    assert report.run(place) == "0"
    for key, expected in (("n", "1"), ("ArrowRight", "2"), ("p", "1"), ("ArrowLeft", "0"), ("p", "0"), ("n", "1")):
        report.press(key)
        assert report.run(place) == expected, key
    report.press("End")
    last = report.run(f"{SHOWN}.length") - 1
    assert report.run(place) == str(last)
    report.press("Home")
    report.press("Enter")
    assert report.run("document.getElementById('view').open")
    assert report.run("document.getElementById('place').textContent") == f"1 of {last + 1}"
    report.press("ArrowRight")
    assert report.run("document.getElementById('place').textContent") == f"2 of {last + 1}"
    report.press("Escape")
    assert report.becomes("document.getElementById('view').open", value=False) and report.becomes(place, "1")


@needs_browser
def test_keyboard_walks_through_pairs_and_filters(report: Page) -> None:
    pair = "document.getElementById('filters').elements.pair.value"
    report.press("]")
    assert report.run(pair) == "0>1"
    report.press("[")
    assert report.run(pair) == ""
    report.press("]")
    report.press("r")
    assert report.run(pair) == ""
    report.press("f")
    assert report.run("document.activeElement.name") == "type"
    report.press("n")  # typing in a field is no shortcut
    assert report.run("document.activeElement.name") == "type"
    report.run("document.activeElement.blur()")
    report.run("document.getElementById('shortcuts').click(); document.activeElement.blur()")
    report.press("n")
    assert report.run("document.activeElement.tagName") == "BODY"
    shown = report.run("[...document.querySelectorAll('.keys kbd')].map(k => k.textContent)")
    assert "n / →" in shown and "Esc" in shown


@needs_browser
def test_pair_button_shows_its_crops_and_tables_sort(report: Page) -> None:
    report.run("document.querySelector('[data-show]').click()")
    assert report.run("document.getElementById('filters').elements.pair.value") == "0>1"
    assert report.run("document.activeElement.classList.contains('crop')")
    head = "[...document.querySelectorAll('#classes th button')].find(b => b.textContent === 'AP50')"
    column = f"{head}.parentNode.cellIndex"
    for direction in ("descending", "ascending"):
        report.run(f"{head}.click()")
        assert report.run(f"{head}.parentNode.getAttribute('aria-sort')") == direction
        values = report.run(
            f"[...document.querySelectorAll('#classes tbody tr')].map(r => parseFloat(r.cells[{column}].dataset.key))"
        )
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=direction == "descending") and len(known) > 2


@needs_browser
@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_page_never_scrolls_sideways(report: Page, width: int) -> None:
    report.resize(width, 800, touch=width < 500)
    report.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert report.run("document.documentElement.scrollWidth") <= width
    wide = report.run(
        "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > "
        f"{width} + 1 && "
        "!e.closest('.scroll, nav, svg')).map(e => e.tagName + '.' + e.className)"
    )
    assert not wide


@needs_browser
def test_dark_and_print(report: Page, tmp_path: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    light = report.run(ground)
    report.media("dark")
    assert report.run(ground) != light
    report.media("dark", "print")
    assert report.run(ground) == "rgb(255, 255, 255)"
    hidden = "[...document.querySelectorAll('nav.bar, .tools, .keys')].map(e => getComputedStyle(e).display)"
    assert set(report.run(hidden)) == {"none"}
    report.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


@needs_browser
def test_names_for_those_who_listen(report: Page) -> None:
    """Everything that can be focused or filled in has a name; figures have one each; headings do not skip levels."""
    unnamed = report.run(
        "[...document.querySelectorAll('a, button, select, input, [role=region]')].filter(e => !(e.textContent.trim()"
        " || e.ariaLabel || e.labels?.length)).map(e => e.outerHTML.slice(0, 80))"
    )
    assert not unnamed
    levels = report.run("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    assert report.run("document.documentElement.lang") == "en" and report.run("document.title.length") > 5
