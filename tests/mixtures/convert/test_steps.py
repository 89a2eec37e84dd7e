"""mixtures.convert.steps: tokens to steps, against a list of all steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.convert.options import parse_batch_size
from mixtures.convert.steps import Batches, batches_of, made_batches, slots
from mixtures.errors import UserError

LENGTH = 4
STEPS = 60


def listed(batches: Batches) -> list[tuple[int, int]]:
    """(sequences before, sequences) of the first steps, one after the other."""
    found, before = [], 0
    for _ in range(STEPS):
        size = [size for start, size in batches.pieces if start <= before * LENGTH][-1]
        found.append((before, size))
        before += size
    return found


@st.composite
def schedules(draw):
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    gaps = draw(st.lists(st.integers(1, 80), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    starts = [0]
    for gap in gaps:
        starts.append(starts[-1] + gap)
    return Batches(tuple(zip(starts, sizes, strict=True)), LENGTH)


@pytest.mark.slow
@given(schedules())
def test_steps_are_those_of_counting_them_one_by_one(batches):
    for step, (before, size) in enumerate(listed(batches)):
        assert (batches.sequences_before(step), batches.sequences_at(step)) == (before, size)
        assert batches.tokens_at(step) == before * LENGTH
        assert batches.steps_at(before * LENGTH) == step
        assert batches.steps_at((before + size / 2) * LENGTH) == pytest.approx(step + 0.5)


@pytest.mark.slow
@given(schedules(), st.integers(0, 300), st.integers(1, 6))
def test_the_nearest_step_is_the_nearest_of_all_steps_that_fit(batches, tokens, multiple):
    fitting = [before * LENGTH for before, _ in listed(batches) if before % multiple == 0]
    try:
        found = batches.tokens_at(batches.nearest(tokens, multiple=multiple))
    except UserError:
        assert not [at for at in fitting if at and abs(at - tokens) < multiple * LENGTH]
        return
    assert abs(found - tokens) <= min(abs(at - tokens) for at in fitting) + multiple * 9 * LENGTH * (
        len(batches.pieces) > 1
    )
    if len(batches.pieces) == 1:
        assert abs(found - tokens) == min(abs(at - tokens) for at in fitting)


def test_stages_in_steps_follow_each_other_without_a_gap():
    batches = batches_of({0: 2, 40: 3}, sequence_length=LENGTH)
    found = slots([0, 30, 100], ["a", "b", "c"], total=200, batches=batches)
    assert [slot.step for slot in found] == [0, 4, 10]
    assert [slot.start for slot in found] == [0, 32, 100]
    assert [slot.steps for slot in found] == [4, 6, 8]
    assert sum(slot.tokens for slot in found) == batches.tokens_at(18) == 196


def test_a_boundary_at_a_multiple_that_moves_too_far_names_the_nearest():
    batches = batches_of(2, sequence_length=LENGTH)
    assert slots([0, 800], ["a", "b"], total=1600, batches=batches, multiple=4)[1].start == 800
    with pytest.raises(
        UserError,
        match=r"stage 'b' starts at 840 tokens; the nearest .* multiple of 64 sequences, is 768 tokens \(step 96\)",
    ):
        slots([0, 840], ["a", "b"], total=1600, batches=batches, multiple=64)


def test_a_stage_without_a_step_is_refused():
    with pytest.raises(UserError, match="stage 'b' has no whole step"):
        slots([0, 100, 101], ["a", "b", "c"], total=200, batches=batches_of(5, sequence_length=LENGTH))


@pytest.mark.parametrize("words", [["x"], ["0"], ["5=2"], ["0=2", "0=3"], ["1=1", "9=2"], ["0=-1"]])
def test_batch_sizes_that_are_none_are_refused(words):
    with pytest.raises(UserError):
        batches_of(parse_batch_size(words), sequence_length=LENGTH)


@pytest.mark.parametrize("size", [0, -1, {5: 2}, {0: 2, 9: 0}, {0: 2.5}])
def test_batch_sizes_as_values_are_refused_alike(size):
    with pytest.raises(UserError):
        batches_of(size, sequence_length=LENGTH)


def test_batch_sizes_that_never_fit_the_multiple_are_refused_with_a_reason():
    batches = made_batches([(0, 3), (4, 4)], sequence_length=LENGTH)
    with pytest.raises(UserError, match="common divisor"):
        batches.nearest(400, multiple=8)
