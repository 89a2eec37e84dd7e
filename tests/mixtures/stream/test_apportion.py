"""Turns: no domain a whole row away from its share, at any row, across any stages."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.stream.apportion import Turns


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[float], np.ndarray]:
    """(starts, shares) of one to four stages over one to seven domains, zeros and tiny shares among them."""
    domains, stages = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    part = st.one_of(st.just(0.0), st.floats(1e-4, 1))
    shares = np.array([[draw(part) for _ in range(domains)] for _ in range(stages)])
    shares[shares.sum(axis=1) == 0] = 1
    gaps = draw(st.lists(st.floats(0.3, 90), min_size=stages - 1, max_size=stages - 1))
    return [0.0, *np.cumsum(gaps).tolist()], shares / shares.sum(axis=1, keepdims=True)


def due(starts: list[float], shares: np.ndarray, row: float) -> np.ndarray:
    """(D,) every domain's share of the first `row` rows."""
    ends = [*starts[1:], math.inf]
    return sum(
        (max(min(row, end) - start, 0) * share for start, end, share in zip(starts, ends, shares, strict=True)),
        np.zeros(shares.shape[1]),
    )


def slow_turns(starts: list[float], shares: np.ndarray, rows: int) -> list[int]:
    """Tijdeman's rule word for word: among the domains that are behind enough, the one whose deadline, found by trying,
    is first.
    """
    domains = shares.shape[1]
    margin = 1 / (2 * max(int((shares > 0).any(axis=0).sum()) - 1, 1))
    given = np.zeros(domains)
    order = []
    for row in range(1, rows + 1):
        ready = [d for d in range(domains) if due(starts, shares, row)[d] - given[d] >= margin - 1e-8]

        def deadline(domain: int, row: int = row) -> float:
            later = (
                n for n in range(row, 40 * rows) if due(starts, shares, n)[domain] - given[domain] >= 1 - margin - 1e-8
            )
            return next(later, math.inf)

        chosen = min(ready, key=lambda d: (deadline(d), d))
        given[chosen] += 1
        order.append(chosen)
    return order


@pytest.mark.slow
@given(schedules())
def test_no_domain_is_ever_a_row_away_from_its_share(schedule: tuple[list[float], np.ndarray]) -> None:
    starts, shares = schedule
    turns = Turns(starts=starts, shares=shares, origin=0, base=[0] * shares.shape[1])
    bound = 1 - 1 / (2 * max(shares.shape[1] - 1, 1))
    for row in range(1, 400):
        turns.next()
        assert np.abs(np.array(turns.given) - due(starts, shares, row)).max() <= bound + 1e-6


def test_the_order_is_tijdemans() -> None:
    for starts, shares in [
        ([0.0], np.array([[0.7, 0.2, 0.1]])),
        ([0.0, 7.5], np.array([[0.6, 0.3, 0.1], [0.05, 0.15, 0.8]])),
        ([0.0, 5.0, 9.25], np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0.9, 0.06, 0.04]])),
    ]:
        turns = Turns(starts=starts, shares=shares, origin=0, base=[0] * shares.shape[1])
        assert [turns.next() for _ in range(40)] == slow_turns(starts, shares, 40)


def test_a_domain_without_a_share_gets_no_row() -> None:
    turns = Turns(starts=[0.0, 50.0], shares=np.array([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7]]), origin=0, base=[0, 0, 0])
    first, second = [turns.next() for _ in range(50)], [turns.next() for _ in range(100)]
    assert 2 not in first
    assert second.count(0) <= 1  # what the first stage still owed


@pytest.mark.slow
@given(schedules(), st.integers(0, 150))
def test_turns_go_on_where_they_were(schedule: tuple[list[float], np.ndarray], row: int) -> None:
    starts, shares = schedule
    base = [0] * shares.shape[1]
    turns = Turns(starts=starts, shares=shares, origin=0, base=base)
    for _ in range(row):
        turns.next()
    copied, again = turns.copy(), Turns(starts=starts, shares=shares, origin=0, base=base, given=turns.given)
    expected = [turns.next() for _ in range(60)]
    assert [again.next() for _ in range(60)] == expected
    assert [copied.next() for _ in range(60)] == expected


def test_from_an_origin_on_only_later_rows_count() -> None:
    turns = Turns(starts=[0.0, 100.0], shares=np.array([[0.5, 0.5], [0.25, 0.75]]), origin=100, base=[90, 10])
    for _ in range(40):
        turns.next()
    assert turns.given == [100, 40]
    assert turns.position == 140
