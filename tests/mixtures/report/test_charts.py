"""What the page of `mixtures report` is made of: markup, tables, charts."""

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.plots.looks import Look
from mixtures.report.heat import heat_map
from mixtures.report.html import Html, element, parse_number, prose
from mixtures.report.svg import Axis, Line, Whisker, line_chart, thin, whisker_chart
from tests.mixtures.report.helpers import Page


@pytest.mark.slow
@given(st.text(), st.text())
def test_text_comes_out_of_markup_as_it_went_in(text: str, attribute: str) -> None:
    made = element("p", text, title=attribute)
    parser = HTMLParser()
    seen: list[object] = []
    parser.handle_starttag = lambda tag, attrs: seen.append(attrs)  # type: ignore[method-assign]
    parser.handle_data = lambda data: seen.append(data)  # type: ignore[method-assign]
    parser.feed(made)
    parser.close()
    assert "".join(str(each) for each in seen[1:]) == text
    assert seen[0] == [("title", attribute)]


def test_code_in_a_sentence_is_between_two_backticks() -> None:
    assert prose("set `a<b` now") == Html("set <code>a&lt;b</code> now")
    assert prose("one ` alone") == "one ` alone"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-0.0123", -0.0123),
        ("+0.5 to +0.7", 0.5),
        ("82 %", 82.0),
        ("1,234", 1234.0),
        ("1.2e+13", 1.2e13),
        ("-", None),
        ("? %", None),
    ],
)
def test_numbers_in_text_tables_sort_as_numbers(text: str, value: float | None) -> None:
    assert parse_number(text) == (text, value)


@pytest.mark.parametrize("text", ["better", "law_en", "4x", "300 B"])
def test_what_is_no_plain_number_sorts_as_text(text: str) -> None:
    cell = parse_number(text)
    assert cell == text or cell == (text, 300.0)


@pytest.mark.slow
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(0, 1))
def test_an_axis_is_a_straight_line_between_its_ends(low: float, span: float, part: float) -> None:
    axis = Axis(low, low + span, 10, 110)
    assert axis.at(low + part * span) == pytest.approx(10 + 100 * part, abs=1e-3)
    assert all(10 <= axis.at(tick) <= 110 for tick in axis.ticks)


def test_a_logarithmic_axis_takes_equal_ratios_for_equal_lengths() -> None:
    axis = Axis(1, 100, 0, 200, logarithmic=True)
    assert [axis.at(value) for value in (1, 10, 100, 0)] == pytest.approx([0, 100, 200, 0])


def test_dots_stand_on_their_whiskers_in_the_order_of_the_rows() -> None:
    rows = [Whisker("a", 0.3, 0.2, 0.5, "30 %", mark=0.25), Whisker("b", 0.1, 0.05, 0.2, "10 %")]
    page = Page(whisker_chart(rows, label="shares", x_label="share", x_format=str, line=0.0))
    dots = page.all("circle")
    whiskers = [facts for facts in page.all("line") if facts["class"] == "whisker" and facts["y1"] == facts["y2"]]
    assert float(str(dots[0]["cx"])) > float(str(dots[1]["cx"]))
    assert float(str(dots[0]["cy"])) < float(str(dots[1]["cy"]))
    for dot, whisker in zip(dots, whiskers, strict=True):
        assert float(str(whisker["x1"])) < float(str(dot["cx"])) < float(str(whisker["x2"]))
    apart, width = (
        float(str(one)) - float(str(other))
        for one, other in ((dots[0]["cx"], dots[1]["cx"]), (whiskers[0]["x2"], whiskers[0]["x1"]))
    )
    assert apart / 0.2 == pytest.approx(width / 0.3, rel=1e-2)


def test_a_line_stops_where_it_has_no_value() -> None:
    line = Line("a", np.arange(6), np.array([1, 2, np.nan, 3, 4, 5.0]), Look("#0072B2", "-", True))
    page = Page(line_chart([line], label="a", x_format=str, y_format=str, x_label="step"))
    pieces = [facts for facts in page.all("polyline") if str(facts["class"]).startswith("line")]
    assert [len(str(facts["points"]).split()) for facts in pieces] == [2, 3]


@given(st.integers(1, 2000))
def test_long_lines_are_thinned_but_keep_their_ends(count: int) -> None:
    kept = thin(np.zeros(count))
    assert kept[0] == 0
    assert kept[-1] == count - 1
    assert len(kept) == min(count, 250)
    assert (np.diff(kept) > 0).all()


def test_larger_values_make_stronger_cells_and_unmeasured_ones_are_empty() -> None:
    values = np.array([[0.5, -0.25], [np.nan, 0.125]])
    page = Page(heat_map(values, ["a", "b"], ["c", "d"], label="map", hints=lambda r, c: f"{r},{c}"))
    cells = page.all("rect")[:4]
    assert [facts["class"] for facts in cells] == ["more", "less", "unknown", "more"]
    assert [float(str(facts.get("fill-opacity", 0))) for facts in cells] == [0.8, 0.4, 0, 0.2]


def test_a_cell_without_a_hint_is_left_out() -> None:
    values = np.array([[1.0, 0.5], [0.5, 1.0]])
    page = Page(heat_map(values, ["a", "b"], ["a", "b"], label="map", hints=lambda r, c: "" if r == c else "beside"))
    assert [facts["fill-opacity"] for facts in page.all("rect")[:2]] == ["0.8", "0.8"]
    assert page.text.count("beside") == 2
