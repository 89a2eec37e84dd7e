"""The page of `mixtures report` in a browser: at two widths, in both colour schemes, by keyboard, with 5 and with 40
domains.
"""

# ruff: noqa: E501

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mixtures.export import export_mixture
from mixtures.report.report import write_report
from tests.mixtures.compare.helpers import make_comparison
from tests.mixtures.helpers import NAMES, make_run
from tests.mixtures.report.browser import Browser

PROGRAM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no chromium here: the page is not opened in a browser"),
]

WIDTHS = (390, 1280)
SIZES = (5, 11, 40)
CONTRAST = """(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, place) => sum + v * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => { while (node && channels(getComputedStyle(node).backgroundColor)[3] === 0) node = node.parentElement;
    return getComputedStyle(node ?? document.body).backgroundColor; };
  const found = [];
  for (const node of document.querySelectorAll("p, li, td, th, a, h1, h2, figcaption, summary, pre, .status, svg text:not(.cell)")) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node), inside = node instanceof SVGElement;
    const [one, other] = [light(inside ? style.fill : style.color), light(behind(inside ? node.ownerSVGElement.parentElement : node))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) found.push(`${node.tagName}.${node.getAttribute("class")} ${ratio.toFixed(2)} ${node.textContent.slice(0, 30)}`);
  }
  return found;
})()"""
OUTSIDE = """(() => [...document.querySelectorAll("svg")].flatMap(svg => {
  const frame = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter(text => {
    const box = text.getBoundingClientRect();
    const within = (low, high, start, end) => low >= start - 1 && high <= end + 1;
    return box.width && !(within(box.left, box.right, frame.left, frame.right) && within(box.top, box.bottom, frame.top, frame.bottom));
  }).map(text => text.textContent);
}))()"""
OVERLAPPING = """(() => [...document.querySelectorAll("svg")].flatMap(svg => {
  const texts = [...svg.querySelectorAll("text:not(.cell)")].map(text => [text.textContent, text.getBoundingClientRect()]);
  const found = [];
  texts.forEach(([name, a], place) => texts.slice(place + 1).forEach(([other, b]) => {
    const [across, down] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
    if (across > 4 && down > 4) found.push(`${name} / ${other}`);
  }));
  return found;
}))()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of runs of several sizes, with intervals, and of a comparison."""
    place = tmp_path_factory.mktemp("pages")
    made = {}
    for count in SIZES:
        names = [f"{NAMES[number % 11]}_{number:02d}" for number in range(count)]
        runs = [
            make_run(place / f"{count}-{seed}", domains=names, targets=["catalan"], steps=30, seed=seed)
            for seed in range(3)
        ]
        export_mixture(runs).save(runs[0] / "mixture.json")
        made[str(count)] = write_report(runs[0], place / f"{count}.html")
    comparison = make_comparison(place / "comparison", learned="natural", effects={"natural": -0.2, "unimax": 0.1})
    return made | {"comparison": write_report(comparison, place / "comparison.html")}


NAMED = pytest.mark.parametrize("name", [*map(str, SIZES), "comparison"])


@NAMED
def test_the_page_opens_without_a_complaint_and_asks_for_nothing_else(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(pages[name])
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.problems == []
    assert set(browser.requests) == {pages[name].resolve().as_uri()}


@NAMED
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways_and_wide_things_do_in_their_box(
    browser: Browser, pages: dict[str, Path], name: str, width: int
) -> None:
    browser.open(pages[name], width=width)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    wide = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
    assert browser.run(f"{wide}.every(box => (box.scrollLeft = 50, box.scrollLeft > 0))")
    if width < 600:
        assert browser.run(f"{wide}.length") > 3


@NAMED
@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out_from_what_is_behind_it(
    browser: Browser, pages: dict[str, Path], name: str, dark: bool
) -> None:
    browser.open(pages[name], dark=dark)
    assert browser.run(CONTRAST) == []
    body = browser.run("getComputedStyle(document.body).backgroundColor")
    assert body == ("rgb(15, 18, 22)" if dark else "rgb(244, 245, 247)")


@NAMED
def test_names_in_charts_are_whole_and_none_is_over_another(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    browser.open(pages[name])
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert browser.run(OUTSIDE) == []
    assert browser.run(OVERLAPPING) == []


def shares(browser: Browser) -> list[float]:
    """The column of shares, from the top."""
    column = (
        "[...document.querySelector('#mixture table').tBodies[0].rows].map(row => Number(row.cells[1].textContent))"
    )
    found: list[float] = browser.run(column)
    return found


def test_a_table_is_sorted_by_a_click_and_the_other_way_by_another(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["11"])
    heading = "document.querySelector('#mixture table').tHead.rows[0].cells[1]"
    browser.run(f"{heading}.querySelector('button').click()")
    assert browser.run(f"{heading}.getAttribute('aria-sort')") == "descending"
    assert shares(browser) == sorted(shares(browser), reverse=True)
    browser.run(f"{heading}.querySelector('button').click()")
    assert browser.run(f"{heading}.getAttribute('aria-sort')") == "ascending"
    assert shares(browser) == sorted(shares(browser))
    browser.run("document.querySelector('#mixture table').tHead.rows[0].cells[0].querySelector('button').click()")
    names = browser.run(
        "[...document.querySelector('#mixture table').tBodies[0].rows].map(row => row.cells[0].textContent)"
    )
    assert names == sorted(names, key=str.lower)
    assert browser.run(f"{heading}.getAttribute('aria-sort')") is None


def test_what_has_no_value_is_last_either_way(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["comparison"])
    button = "document.querySelector('#differences table').tHead.rows[0].cells[2].querySelector('button')"
    cells = "[...document.querySelector('#differences table').tBodies[0].rows].map(row => row.cells[2].textContent)"
    for descending in (True, False):
        browser.run(f"{button}.click()")
        *values, last = browser.run(cells)
        assert last == "-"
        assert values == sorted(values, key=float, reverse=descending)


def test_the_keyboard_reaches_boxes_and_headings_and_sorts(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["5"], width=390)
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(
            browser.run(
                "document.activeElement.closest('th') ? 'heading' : document.activeElement.className || 'other'"
            )
        )
        if seen[-1] == "heading":
            break
    assert "scroll" in seen
    assert seen[-1] == "heading"
    browser.press("Enter")
    assert browser.run("document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"


def test_a_script_in_the_records_does_not_run(browser: Browser, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["environment"]["command"] = "</pre><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["domains"][0]["sources"][0]["uri"] = "<svg onload='window.hacked = 1'>"
    (run / "corpus.json").write_text(json.dumps(corpus))
    browser.problems.clear()
    browser.open(write_report(run, tmp_path / "page.html"))
    assert browser.run("window.hacked") is None
    assert "onerror='window.hacked = 1'" in browser.run("document.body.textContent")
    assert browser.problems == []


def test_the_page_is_readable_without_its_script(browser: Browser, pages: dict[str, Path]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["5"])
        assert browser.run("document.querySelectorAll('th button').length") == 0
        assert browser.run("document.querySelectorAll('tbody tr').length") > 10
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
