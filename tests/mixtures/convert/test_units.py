"""Shares of tokens to shares of what a trainer counts in, back again, and what random draws make of them."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.convert import simulate
from mixtures.convert.job import Draw
from mixtures.convert.lengths import DocumentLengths
from mixtures.errors import UserError
from tests.mixtures.convert.helpers import make_job

NAMES = ("web", "code", "math")


@st.composite
def shares(draw):
    raw = draw(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda values: sum(values) > 0.1))
    total = math.fsum(raw)
    return {name: value / total for name, value in zip(NAMES, raw, strict=True)}


means = st.fixed_dictionaries({name: st.floats(1, 1e5) for name in NAMES})


@pytest.mark.slow
@given(shares(), means)
def test_documents_drawn_at_the_converted_shares_bring_the_wanted_tokens(weights, mean):
    job = make_job(weights, means=mean)
    found = job.unit_shares(job.spans[0])
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    assert found.keys() == {name for name, weight in weights.items() if weight > 0}
    tokens = {name: share * mean[name] for name, share in found.items()}
    for name, weight in weights.items():
        assert tokens.get(name, 0) / math.fsum(tokens.values()) == pytest.approx(weight, abs=1e-12)
    given_back = simulate.token_shares(job, Draw(found, 0, 800))
    assert given_back == pytest.approx(weights, abs=1e-12)


def test_sequences_and_tokens_keep_their_shares():
    weights = {"web": 0.7, "code": 0.2, "math": 0.1}
    for unit in ("sequence", "token"):
        job = make_job(weights, means={"web": 60, "code": 480, "math": 120}, unit=unit)
        assert job.unit_shares(job.spans[0]) == pytest.approx(weights)


def test_known_case_of_three_domains():
    """0.7, 0.2, 0.1 of the tokens at 60, 480, 120 tokens a document (shared/reference/trainers.md, fact 1)."""
    job = make_job({"web": 0.7, "code": 0.2, "math": 0.1}, means={"web": 60, "code": 480, "math": 120})
    assert job.unit_shares(job.spans[0]) == pytest.approx({"web": 0.90323, "code": 0.03226, "math": 0.06452}, abs=1e-5)
    unconverted = simulate.token_shares(job, Draw({"web": 0.7, "code": 0.2, "math": 0.1}, 0, 800))
    assert unconverted == pytest.approx({"web": 0.2800, "code": 0.6400, "math": 0.0800}, abs=1e-4)
    assert job.units(job.spans[0]) == pytest.approx(800 * (0.7 / 60 + 0.2 / 480 + 0.1 / 120))


def test_documents_of_unknown_length_are_refused_with_both_remedies():
    job = make_job({"web": 0.5, "code": 0.5}, means={"web": None})
    with pytest.raises(UserError, match=r"one of web has; give --document-tokens .* --cache"):
        job.unit_shares(job.spans[0])


@pytest.mark.slow
@given(st.lists(shares(), min_size=1, max_size=5))
def test_stages_read_disjoint_parts_sized_by_what_they_take(stages):
    job = make_job(*stages, rows=60 * len(stages))
    parts = job.ranges()
    for name in NAMES:
        mine = [part[name] for part in parts if name in part]
        assert all(low <= high for low, high in mine)
        assert all(later[0] >= earlier[1] for earlier, later in itertools.pairwise(mine))
        if mine:
            assert (mine[0][0], mine[-1][1]) == (0.0, 1.0)
        total = sum(weights[name] for weights in stages)
        for weights, part in zip(stages, parts, strict=True):
            if weights[name] > 0:
                assert part[name][1] - part[name][0] == pytest.approx(weights[name] / total, abs=1e-9)


def test_the_range_of_random_draws_is_that_of_drawing_documents_one_by_one():
    lengths = {"web": np.array([30.0, 90.0]), "code": np.array([100.0, 900.0])}
    texts = {
        name: DocumentLengths(None, values.mean(), values.std(), 1e4, "a test") for name, values in lengths.items()
    }
    job = make_job({"web": 0.5, "code": 0.5}, texts=texts)
    draw = Draw(job.unit_shares(job.spans[0]), 0, 40_000, random=True)
    found = simulate.share_ranges(job, draw)
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(400):
        names = rng.choice(
            list(draw.shares),
            p=list(draw.shares.values()),
            size=round(40_000 / (60 * draw.shares["web"] + 500 * draw.shares["code"])),
        )
        tokens = {name: rng.choice(lengths[name], size=int((names == name).sum())).sum() for name in lengths}
        runs.append(tokens["web"] / sum(tokens.values()))
    low, high = np.quantile(runs, [0.025, 0.975])
    assert found["web"] == pytest.approx((low, high), abs=0.015)
    assert simulate.share_ranges(job, Draw(draw.shares, 0, 40_000)) is None


@pytest.mark.parametrize(
    ("asked", "given_", "is_off"),
    [(0.5, 0.5024, False), (0.5, 0.5026, True), (2e-4, 1.1e-4, False), (1e-6, 0, True), (0, 1e-6, True)],
)
def test_rounding_may_move_a_share_by_half_a_percent_or_a_ten_thousandth(asked, given_, is_off):
    assert simulate.off(asked, given_) is is_off
