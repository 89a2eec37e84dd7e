import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mixtures.errors import UserError
from mixtures.schedule.shares import natural, temperature, uniform, unimax

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)
COUNTS = st.lists(st.integers(1, 10**13), min_size=1, max_size=30).map(
    lambda counts: {f"d{n}": count for n, count in enumerate(counts)}
)
RULES = {
    "uniform": uniform,
    "natural": natural,
    "temperature": lambda tokens: temperature(tokens, temperature=2),
    "unimax": lambda tokens: unimax(tokens, budget=100, max_epochs=4),
}


def unimax_by_bisection(tokens: dict[str, int], budget: float, max_epochs: float) -> dict[str, float]:
    """The level at which min(cap, level) over the domains fills the budget, by halving."""
    low, high = 0.0, float(budget)
    for _ in range(200):
        middle = (low + high) / 2
        filled = math.fsum(min(max_epochs * count, middle) for count in tokens.values())
        low, high = (middle, high) if filled < budget else (low, middle)
    return {name: min(max_epochs * count, high) / budget for name, count in tokens.items()}


def assert_on_simplex(shares: dict[str, float], tokens: dict[str, int]) -> None:
    assert list(shares) == list(tokens)
    assert all(type(share) is float and 0 <= share <= 1 for share in shares.values())
    assert math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.slow
@PROPERTY
@given(tokens=COUNTS, heat=st.floats(1e-3, 1e6), fill=st.floats(1e-6, 1), epochs=st.floats(0.01, 100))
def test_every_rule_gives_shares_in_domain_order_that_sum_to_one(
    tokens: dict[str, int], heat: float, fill: float, epochs: float
) -> None:
    budget = fill * epochs * sum(tokens.values())
    assume(budget > 0)
    for shares in (
        uniform(tokens),
        natural(tokens),
        temperature(tokens, temperature=heat),
        unimax(tokens, budget=budget, max_epochs=epochs),
    ):
        assert_on_simplex(shares, tokens)


@pytest.mark.slow
@PROPERTY
@given(tokens=COUNTS, fill=st.floats(1e-6, 1), epochs=st.floats(0.01, 100))
def test_unimax_is_what_bisection_finds(tokens: dict[str, int], fill: float, epochs: float) -> None:
    budget = fill * epochs * sum(tokens.values())
    slow = unimax_by_bisection(tokens, budget, epochs)
    assert unimax(tokens, budget=budget, max_epochs=epochs) == pytest.approx(slow, rel=1e-9, abs=1e-12)


@pytest.mark.slow
@PROPERTY
@given(tokens=COUNTS, fill=st.floats(1e-6, 1), epochs=st.floats(0.01, 100))
def test_unimax_holds_caps_and_gives_the_rest_one_equal_and_largest_share(
    tokens: dict[str, int], fill: float, epochs: float
) -> None:
    budget = fill * epochs * sum(tokens.values())
    shares = unimax(tokens, budget=budget, max_epochs=epochs)
    assert all(shares[name] * budget <= epochs * count * (1 + 1e-9) for name, count in tokens.items())
    free = [shares[name] for name, count in tokens.items() if shares[name] * budget < epochs * count * (1 - 1e-9)]
    assert len(set(free)) <= 1
    assert all(share <= free[0] * (1 + 1e-12) for share in shares.values() if free)


def test_unimax_computed_by_hand() -> None:
    # 100 tokens, 2 epochs: a third each is 33; a holds 2 x 5 = 10, so 90 for two, 45 each; b holds 2 x 20 = 40, so c
    # takes 50.
    assert unimax({"c": 900, "a": 5, "b": 20}, budget=100, max_epochs=2) == pytest.approx(
        {"c": 0.5, "a": 0.1, "b": 0.4}
    )


def test_unimax_gives_the_worked_example_of_the_package_unimax_sampling() -> None:
    characters = {"swe": 179955884499, "fas": 184595788282, "ekk": 42541080893, "isl": 10027573389, "fao": 549707867}
    printed = {
        "fao": 0.008795325872,
        "isl": 0.160441174224,
        "ekk": 0.2769211666346667,
        "swe": 0.27692116663466665,
        "fas": 0.27692116663466665,
    }
    assert unimax(characters, budget=250_000_000_000, max_epochs=4) == pytest.approx(printed, rel=1e-12)


def test_unimax_is_uniform_where_no_cap_binds_and_natural_where_all_do() -> None:
    tokens = {"a": 100, "b": 300, "c": 700}
    assert unimax(tokens, budget=60, max_epochs=1) == uniform(tokens)
    assert unimax(tokens, budget=60, max_epochs=math.inf) == uniform(tokens)
    assert unimax(tokens, budget=4400, max_epochs=4) == pytest.approx(natural(tokens), abs=1e-15)
    thirds = {"a": 1, "b": 1, "c": 1}
    assert unimax(thirds, budget=3 * 0.1, max_epochs=0.1) == pytest.approx(
        uniform(thirds)
    )  # 3 x 0.1 is not 0.1 + 0.1 + 0.1


def test_an_infeasible_unimax_shows_the_arithmetic_and_its_remedy_works() -> None:
    tokens = {"a": 100, "b": 300}
    with pytest.raises(UserError) as caught:
        unimax(tokens, budget=1830, max_epochs=4)
    message = str(caught.value)
    assert "4 epochs of all 2 domains are 4 x 400 = 1,600 of 1,830 tokens" in message
    assert "raise max_epochs to 4.58 or more, or lower the budget" in message
    assert_on_simplex(unimax(tokens, budget=1830, max_epochs=4.58), tokens)


@pytest.mark.slow
@PROPERTY
@given(tokens=COUNTS)
def test_temperature_one_is_natural_and_a_very_large_one_uniform(tokens: dict[str, int]) -> None:
    assert temperature(tokens, temperature=1) == pytest.approx(natural(tokens), rel=1e-11)
    assert temperature(tokens, temperature=1e12) == pytest.approx(uniform(tokens), rel=1e-9)
    assert temperature(tokens, temperature=math.inf) == uniform(tokens)


@pytest.mark.slow
@PROPERTY
@given(tokens=COUNTS, heat=st.floats(0.2, 50))
def test_temperature_is_the_power_that_its_name_says(tokens: dict[str, int], heat: float) -> None:
    powers = {name: count ** (1 / heat) for name, count in tokens.items()}
    slow = {name: power / sum(powers.values()) for name, power in powers.items()}
    assert temperature(tokens, temperature=heat) == pytest.approx(slow, rel=1e-10)


def test_a_temperature_near_zero_does_not_overflow() -> None:
    assert temperature({"a": 10**13, "b": 10}, temperature=1e-3) == {"a": 1.0, "b": 0.0}


def test_natural_is_the_part_of_all_tokens() -> None:
    assert natural({"a": 1, "b": 3}) == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [0, -5, math.nan, math.inf, "12", None, True])
def test_token_counts_that_are_no_positive_numbers_are_all_named(rule: str, bad: Any) -> None:
    with pytest.raises(UserError) as caught:
        RULES[rule]({"a": 100, "b": bad, "c": 100, "d": bad})
    assert f"found b {bad!r}, d {bad!r};" in str(caught.value)


@pytest.mark.parametrize("rule", RULES)
def test_no_domains_are_refused(rule: str) -> None:
    with pytest.raises(UserError, match="no domains"):
        RULES[rule]({})


@pytest.mark.parametrize("bad", [0, -1, math.nan, "2", None, True])
def test_temperature_budget_and_epochs_must_be_positive_numbers(bad: Any) -> None:
    with pytest.raises(UserError, match=r"temperature .*: give a positive number"):
        temperature({"a": 1}, temperature=bad)
    with pytest.raises(UserError, match=r"budget .*: give a positive number"):
        unimax({"a": 1}, budget=bad, max_epochs=1)
    with pytest.raises(UserError, match=r"max_epochs .*: give a positive number"):
        unimax({"a": 1}, budget=1, max_epochs=bad)


def test_an_endless_budget_is_refused() -> None:
    with pytest.raises(UserError, match="budget inf: give a positive number"):
        unimax({"a": 1}, budget=math.inf, max_epochs=1)
