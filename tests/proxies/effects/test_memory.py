"""What a pull-back keeps in memory."""

import pytest

from mixtures.errors import UserError
from proxies.effects.memory import plan_memory


def test_every_step_is_kept_where_it_fits() -> None:
    plan = plan_memory(parameters=1_000, steps=10, runs=2, limit=2 * 10 * 16_000)
    assert (plan.segment, plan.keep, plan.size) == (10, True, 320_000)
    assert "every step" in plan.text


def test_states_at_segments_take_the_least_that_they_can() -> None:
    plan = plan_memory(parameters=1_000, steps=400, runs=2, limit=1e6)
    assert not plan.keep
    assert plan.size <= 1e6
    around = [(2 * -(-400 // segment) * 12 + segment * 16) * 1_000 for segment in range(1, 401)]
    assert plan.size <= 1.02 * min(around)


def test_too_little_memory_is_refused_with_what_would_do() -> None:
    with pytest.raises(UserError, match=r"search.memory is 0.00 GB.* take 56.40 GB at least"):
        plan_memory(parameters=100_000_000, steps=400, runs=1, limit=1e6)
