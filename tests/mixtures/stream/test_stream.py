"""MixtureStream: shares, epochs, ranks, workers, resuming, and what a domain does that is used up."""

import hashlib
import json
import pickle
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures import Mixture, MixtureStream
from mixtures.errors import UserError
from tests.mixtures.stream.helpers import ROW, domain_of, make_mixture, make_sources

SHARES = {"web": 0.7, "code": 0.2, "maths": 0.1}
SIZES = {"web": 300, "code": 90, "maths": 12}


def open_stream(
    mixture: Mixture | None = None, *, sizes: dict[str, int] | None = None, **options: Any
) -> MixtureStream:
    mixture = mixture or make_mixture(SHARES, rows=1000)
    return MixtureStream(mixture, make_sources(sizes or SIZES), row_tokens=ROW, **options)


def all_rows(stream: MixtureStream) -> np.ndarray:
    return np.stack(list(stream))


# shares


def test_token_shares_match_the_stages_to_a_thousandth_in_10000_rows() -> None:
    late = {"web": 0.05, "code": 0.35, "maths": 0.6}
    mixture = make_mixture(SHARES, late, rows=20_000, starts=(0, 10_000 * ROW))
    domains = domain_of(open_stream(mixture).take(20_000))
    for part, weights in ((domains[:10_000], SHARES), (domains[10_000:], late)):
        achieved = np.bincount(part, minlength=3) / 10_000
        assert np.abs(achieved - list(weights.values())).max() < 0.001


@pytest.mark.slow
@given(st.integers(1, 9), st.integers(1, 5))
def test_no_domain_is_a_row_away_from_its_share_on_all_ranks_together(world: int, at_once: int) -> None:
    streams = [open_stream(rank=rank, world=world) for rank in range(world)]
    counts = np.zeros(3)
    for _ in range(20):
        counts += np.bincount(domain_of(np.concatenate([stream.take(at_once) for stream in streams])), minlength=3)
        due = streams[0].position * np.array(list(SHARES.values()))
        assert np.abs(counts - due).max() < 1
        assert counts.tolist() == list(streams[0].drawn.values())


def test_a_stage_may_begin_inside_a_row() -> None:
    mixture = make_mixture({"web": 1, "code": 0}, {"web": 0, "code": 1}, rows=10, starts=(0, 4 * ROW + 3))
    stream = open_stream(mixture, sizes={"web": 50, "code": 50})
    assert domain_of(all_rows(stream)).tolist() in ([0] * 4 + [1] * 6, [0] * 5 + [1] * 5)


def test_lengths_of_documents_do_not_move_the_shares() -> None:
    """70/20/10 stays so with documents of 60, 480 and 120 tokens; drawing documents at these rates gives 28/64/8."""
    lengths = {"web": 60, "code": 480, "maths": 120}
    sources = {
        name: np.concatenate([np.full(length, n, dtype=np.uint16)] * 400)
        for n, (name, length) in enumerate(lengths.items())
    }
    tokens = MixtureStream(make_mixture(SHARES, rows=3000), sources, row_tokens=ROW, check_text=False).take(3000)
    assert np.abs(np.bincount(tokens.ravel(), minlength=3) / tokens.size - [0.7, 0.2, 0.1]).max() < 0.001
    by_document = np.array([0.7, 0.2, 0.1]) * list(lengths.values())
    assert np.round(by_document / by_document.sum(), 2).tolist() == [0.28, 0.64, 0.08]


# epochs


def test_rows_repeat_only_after_a_full_epoch_and_each_has_its_own_order() -> None:
    rows = all_rows(open_stream())
    for domain, size in enumerate(SIZES.values()):
        drawn = rows[domain_of(rows) == domain][:, 0] - 1000 * domain
        epochs = [drawn[start : start + size].tolist() for start in range(0, len(drawn), size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs if len(epoch) == size)
        assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
        full = [tuple(epoch) for epoch in epochs if len(epoch) == size]
        assert len(set(full)) == len(full)
    assert len(rows) == 1000  # maths was read eight times


def test_the_kth_row_of_a_domain_does_not_depend_on_the_mixture() -> None:
    even = make_mixture(dict.fromkeys(SHARES, 1 / 3), rows=900)
    one, other = all_rows(open_stream()), all_rows(open_stream(even))
    for domain in range(3):
        a, b = one[domain_of(one) == domain], other[domain_of(other) == domain]
        common = min(len(a), len(b))
        assert (a[:common] == b[:common]).all()


def test_the_seed_changes_the_rows_and_not_the_order_of_domains() -> None:
    one, other = all_rows(open_stream(seed=1)), all_rows(open_stream(seed=2))
    assert (domain_of(one) == domain_of(other)).all()
    assert (one == other).all(axis=1).mean() < 0.2
    assert (all_rows(open_stream(seed=1)) == one).all()


def test_without_sample_policies_the_rows_are_those_of_the_first_version() -> None:
    rows = open_stream(seed=5).take(1000)
    assert (
        hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
        == "f56f75f24d3f4394a379091ad1cda4a06271a253069b76d8fe9757dfa2e86645"
    )


# used-up domains

CAP = {"maths": {"max_epochs": 2.5}}


def capped(mode: str, rows: int = 1000) -> Mixture:
    return make_mixture(SHARES, rows=rows, domains={"maths": {**CAP["maths"], "on_exhausted": mode}})


def test_renormalize_gives_the_share_of_a_used_up_domain_to_the_others() -> None:
    stream = open_stream(capped("renormalize"))
    rows = all_rows(stream)
    most = 31  # 2.5 epochs of 12 rows and a rest, rounded up
    assert stream.drawn["maths"] == most
    last = int(np.flatnonzero(domain_of(rows) == 2)[-1])
    after = np.bincount(domain_of(rows)[last + 1 :], minlength=3)
    assert np.abs(after - len(rows[last + 1 :]) * np.array([7 / 9, 2 / 9, 0])).max() < 1
    assert max(Counter(rows[domain_of(rows) == 2][:, 0].tolist()).values()) == 3


def test_repeat_goes_on_past_the_cap() -> None:
    stream = open_stream(capped("repeat"))
    assert len(all_rows(stream)) == 1000
    assert stream.drawn["maths"] == 100


def test_error_refuses_before_the_first_row() -> None:
    with pytest.raises(
        UserError,
        match=r"maths \(at most 248 tokens\) would be used up after 2.48 k of 8.00 k tokens; raise max_epochs",
    ):
        open_stream(capped("error"))
    assert len(all_rows(open_stream(capped("error", rows=300)))) == 300


def test_a_schedule_that_all_domains_together_cannot_fill_is_refused() -> None:
    mixture = make_mixture(
        SHARES, rows=1000, domains={name: {"max_epochs": 1, "on_exhausted": "renormalize"} for name in SHARES}
    )
    with pytest.raises(UserError, match=r"web .*, code .*, maths .* would be used up after 3.24 k of 8.00 k tokens"):
        open_stream(mixture)


def test_a_cap_that_the_schedule_just_meets_is_enough() -> None:
    sizes = {"web": 70, "code": 20, "maths": 10}
    mixture = make_mixture(
        SHARES, rows=400, domains={name: {"max_epochs": 4, "on_exhausted": "error"} for name in SHARES}
    )
    stream = open_stream(mixture, sizes=sizes)
    assert len(all_rows(stream)) == 400
    assert stream.drawn == {"web": 280, "code": 80, "maths": 40}


# ranks and resuming


@pytest.mark.slow
@given(st.integers(1, 6))
def test_ranks_share_the_rows_out_without_overlap(world: int) -> None:
    parts = [all_rows(open_stream(rank=rank, world=world)) for rank in range(world)]
    assert {len(part) for part in parts} == {1000 // world}
    together = np.stack(parts, axis=1).reshape(-1, ROW)
    assert (together == all_rows(open_stream())[: len(together)]).all()


@cache
def rows_of(mode: str) -> np.ndarray:
    """All rows of the stream with a domain that ends, in one process without a break."""
    return all_rows(open_stream(capped(mode)))


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 60)), min_size=1, max_size=4),
    st.sampled_from(["repeat", "renormalize"]),
)
def test_a_resumed_stream_goes_on_exactly_at_any_world_size(legs: list[tuple[int, int]], mode: str) -> None:
    state, expected, position = open_stream(capped(mode)).state_dict(), rows_of(mode), 0
    for world, rows in legs:
        streams = [open_stream(capped(mode), rank=rank, world=world) for rank in range(world)]
        for stream in streams:
            stream.load_state_dict(json.loads(json.dumps(state)))
        together = np.stack([stream.take(rows) for stream in streams], axis=1).reshape(-1, ROW)
        assert (together == expected[position : position + len(together)]).all()
        states = [stream.state_dict() for stream in streams]
        assert all(other == states[0] for other in states)
        state, position = states[0], position + len(together)


def test_iterating_taking_and_skipping_are_the_same_rows() -> None:
    expected = open_stream().take(1000)
    stream = open_stream()
    rows = [next(stream) for _ in range(3)]
    state = stream.state_dict()
    rows += [*stream.take(300)]
    stream.skip(2)
    rows += [next(stream) for _ in range(400)]
    assert (np.stack(rows[:303]) == expected[:303]).all()
    assert (np.stack(rows[303:]) == expected[305:705]).all()
    stream.load_state_dict(state)
    assert (next(stream) == expected[3]).all()
    assert stream.position == 4


@pytest.mark.parametrize("world", [1, 2])
def test_drawn_rows_can_be_read_in_any_order_as_often_as_asked(world: int) -> None:
    for rank in range(world):
        taken, drawn = (open_stream(rank=rank, world=world) for _ in range(2))
        rows = taken.take(50)
        domains, ordinals = drawn.draw(50)
        assert drawn.position == taken.position
        np.testing.assert_array_equal(domains, domain_of(rows))
        for order in (np.arange(50)[::-1], np.array([7, 7, 3])):
            np.testing.assert_array_equal(drawn.read(domains[order], ordinals[order]), rows[order])
        assert drawn.position == taken.position


def test_the_stream_ends_with_the_schedule_and_stays_ended() -> None:
    stream = open_stream(rank=1, world=3)
    assert len(stream.take(10_000)) == 333
    assert stream.left == 0
    assert len(stream.take(1)) == 0
    assert next(stream, None) is None


def test_new_weights_take_effect_at_once_and_nothing_is_read_again() -> None:
    stream = open_stream(sizes={"web": 900, "code": 900, "maths": 900})
    before = stream.take(401)
    changed = make_mixture({"web": 0, "code": 0.5, "maths": 0.25, "news": 0.25}, rows=1000)
    new = open_stream(changed, sizes={"web": 900, "code": 900, "maths": 900, "news": 900}, new_weights=True)
    new.load_state_dict(stream.state_dict())
    after = new.take(10_000)
    assert len(after) == 599
    assert np.abs(np.bincount(domain_of(after), minlength=4) - 599 * np.array([0, 0.5, 0.25, 0.25])).max() < 1
    assert len({tuple(row) for row in np.concatenate([before, after])}) == 1000
    resumed = open_stream(changed, sizes={"web": 900, "code": 900, "maths": 900, "news": 900}, rank=0, world=2)
    resumed.load_state_dict(new.state_dict())
    assert resumed.left == 0


def test_a_memory_map_travels_to_a_worker_as_the_name_of_its_file(tmp_path: Any) -> None:
    sources = make_sources({"web": 100_000, "code": 90, "maths": 12})
    for name, tokens in sources.items():
        tokens.tofile(tmp_path / name)
    mapped = {name: np.memmap(tmp_path / name, dtype=np.uint32, mode="r") for name in sources}
    stream = MixtureStream(make_mixture(SHARES, rows=1000), mapped, row_tokens=ROW, check_text=False)
    first = stream.take(10)
    sent = pickle.dumps(stream)
    assert len(sent) < 20_000
    expected = stream.take(50)
    assert (pickle.loads(sent).take(50) == expected).all()
    assert (first == open_stream(sizes={"web": 100_000, "code": 90, "maths": 12}).take(10)).all()


# bad input


def test_a_rank_outside_the_world_is_refused() -> None:
    for rank, world in ((4, 4), (-1, 2), (0, 0)):
        with pytest.raises(UserError, match=rf"rank {rank} of a world of {world}: ranks count from 0"):
            open_stream(rank=rank, world=world)


def test_row_lengths_that_do_not_fit_are_refused() -> None:
    mixture, sources = make_mixture(SHARES, rows=1000), make_sources(SIZES)
    with pytest.raises(UserError, match=r"length of a row open .* give row_tokens"):
        MixtureStream(mixture, sources)
    with pytest.raises(UserError, match=r"row_tokens is 8, the mixture was planned for sequences of 16"):
        open_stream(make_mixture(SHARES, rows=1000, sequence_length=16))
    with pytest.raises(UserError, match=r"row_tokens is 0"):
        MixtureStream(mixture, sources, row_tokens=0)
    with pytest.raises(UserError, match=r"maths \(99 tokens\): shorter than one row of 100 tokens"):
        MixtureStream(mixture, sources, row_tokens=100)
    with pytest.raises(UserError, match=r"8,000 tokens, less than one row of 9000"):
        MixtureStream(mixture, sources, row_tokens=9000)
    assert (
        MixtureStream(make_mixture(SHARES, rows=1000, sequence_length=ROW), sources).take(5) == open_stream().take(5)
    ).all()


def test_a_state_of_another_seed_row_length_text_or_schedule_is_refused() -> None:
    state = open_stream(seed=3).state_dict()
    with pytest.raises(UserError, match=r"another stream: seed 3 in the state, 4 here; give the same"):
        open_stream(seed=4).load_state_dict(state)
    with pytest.raises(UserError, match=r"web had 300 rows, has 299; give the same seed, row_tokens and text"):
        open_stream(seed=3, sizes={**SIZES, "web": 299}).load_state_dict(state)
    with pytest.raises(
        UserError, match=r"state belongs to mixture sha256:\w+, this one is sha256:\w+; .* new_weights=True"
    ):
        open_stream(make_mixture(SHARES, rows=999), seed=3).load_state_dict(state)
    with pytest.raises(UserError, match=r"no state of a MixtureStream: it has no drawn, position"):
        open_stream(seed=3).load_state_dict({key: state[key] for key in state if key not in ("drawn", "position")})


def test_a_state_of_another_format_or_a_damaged_one_is_refused() -> None:
    stream = open_stream()
    stream.take(7)
    state = stream.state_dict()
    with pytest.raises(
        UserError, match=r"state has format 99, this version of mixtures reads 1; go on with the version that wrote it"
    ):
        stream.load_state_dict({**state, "format": 99})
    with pytest.raises(UserError, match=r"state is damaged: its position is not the sum of the rows drawn"):
        stream.load_state_dict({**state, "position": 3})
    with pytest.raises(UserError, match=r"state is damaged: position is a str, drawn is a list; restore it"):
        stream.load_state_dict({**state, "position": "3", "drawn": [1]})


def test_a_refused_state_leaves_the_stream_where_it_was() -> None:
    stream = open_stream()
    stream.take(5)
    with pytest.raises(UserError):
        stream.load_state_dict(open_stream(seed=9).state_dict())
    assert stream.position == 5


def test_tokens_outside_the_vocabulary_are_refused() -> None:
    sources = make_sources(SIZES)
    sources["code"][5] = 2**20
    with pytest.raises(
        UserError, match=r"source of code holds token 1048576, the mixture's tokenizer test has 1048576 tokens"
    ):
        MixtureStream(make_mixture(SHARES, rows=1000), sources, row_tokens=ROW).take(1000)


@pytest.mark.parametrize(("dtype", "bad"), [("int16", -1), ("int32", -7), ("int64", -(2**40)), ("uint64", 2**63 + 5)])
def test_ids_that_only_a_cast_would_make_fit_are_refused(dtype: str, bad: int) -> None:
    sources = {name: ids.astype(dtype) for name, ids in make_sources(SIZES).items()}
    sources["code"][5] = bad
    with pytest.raises(UserError, match=rf"source of code holds token {bad}, .*{dtype}\); allowed: 0 to 1048575"):
        MixtureStream(make_mixture(SHARES, rows=1000), sources, row_tokens=ROW)


@pytest.mark.parametrize("bad", [-1, 2**20])
def test_ids_beyond_the_scanned_ones_are_refused_when_drawn(monkeypatch: pytest.MonkeyPatch, bad: int) -> None:
    monkeypatch.setattr("mixtures.stream.tokens.SCANNED", 4)
    sources = {name: ids.astype(np.int64) for name, ids in make_sources(SIZES).items()}
    sources["web"][0], sources["code"][5] = bad, bad
    with pytest.raises(UserError, match="source of web holds") as caught:
        MixtureStream(make_mixture(SHARES, rows=1000), sources, row_tokens=ROW)
    assert "source of code" not in str(caught.value)
    sources["web"][0] = 0
    stream = MixtureStream(make_mixture(SHARES, rows=1000), sources, row_tokens=ROW)
    with pytest.raises(UserError, match=f"source of code holds token {bad}, .*an array in memory"):
        stream.take(1000)
