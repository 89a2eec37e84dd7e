"""Which documents are scored, and how they are cut: every token once, whatever the shards."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.errors import UserError
from proxies.scoring import plan as score_plan
from proxies.scoring.plan import Choice, count, cut, make_plan, rows_of, shards_of

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40)


def write_documents(path: Path, lengths: list[int]) -> Path:
    """documents.parquet of a token cache: training documents of these lengths, held-out ones between them."""
    train = pd.DataFrame(
        {"id": [f"file:{line}" for line in range(len(lengths))], "split": "train", "tokens": lengths, "bytes": 0}
    )
    train["start"] = np.cumsum(lengths) - lengths
    held_out = train.assign(split="held_out", id="held out")
    pd.concat([train, held_out]).sort_index(kind="stable").to_parquet(path)
    return path


def shard_sizes(monkeypatch: pytest.MonkeyPatch, *, tokens: int, batch: int) -> None:
    monkeypatch.setattr(score_plan, "SHARD_TOKENS", tokens)
    monkeypatch.setattr(score_plan, "BATCH", batch)


@given(take=st.integers(1, 50), more=st.integers(0, 500))
def test_a_choice_takes_exactly_as_many_as_it_says_evenly_spread(take: int, more: int) -> None:
    of = take + more
    taken = np.flatnonzero(Choice(take, of)(np.arange(of)))
    assert len(taken) == take
    assert set(np.diff(taken)) <= {of // take, -(-of // take)}


@pytest.mark.slow
@given(lengths=st.lists(st.integers(2, 60), min_size=1, max_size=20), row_tokens=st.integers(2, 20))
def test_all_but_first_tokens_are_predicted_once_and_spans_tile_documents(lengths: list[int], row_tokens: int) -> None:
    tokens = np.array(lengths)
    start = np.cumsum(tokens) - tokens
    rows = cut(start, tokens, row_tokens=row_tokens)
    assert (rows.length >= 2).all()
    assert (rows.length <= row_tokens).all()
    predicted = np.concatenate([np.arange(s + 1, s + n) for s, n in zip(rows.start, rows.length, strict=True)])
    assert predicted.tolist() == [place for s, n in zip(start, tokens, strict=True) for place in range(s + 1, s + n)]
    own = np.concatenate([np.arange(s, s + n) for s, n in zip(rows.own_start, rows.own_tokens, strict=True)])
    assert own.tolist() == list(range(tokens.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["document", "row"])
@given(lengths=LENGTHS, tokens=st.integers(1, 300), batch=st.integers(1, 50), max_rows=st.integers(20, 200) | st.none())
def test_shards_hold_every_chosen_document_once_however_they_are_read(
    unit: str,
    lengths: list[int],
    tokens: int,
    batch: int,
    max_rows: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = write_documents(tmp_path_factory.mktemp("documents") / "documents.parquet", lengths)
    found = []
    for sizes in ({"tokens": tokens, "batch": batch}, {"tokens": tokens, "batch": 1000}):
        with pytest.MonkeyPatch.context() as patch:
            shard_sizes(patch, **sizes)
            plan = make_plan(path, unit=unit, row_tokens=8, max_rows=max_rows)
            shards, totals = list(shards_of(plan)), count(plan)
        found.append([shard["id"].tolist() for shard in shards])
        rows = [rows_of(plan, shard) for shard in shards]
        assert totals.shards == tuple(each.predicted.sum() for each in rows)
        assert totals.tokens == sum(each.own_tokens.sum() for each in rows)
        assert totals.documents == sum(map(len, shards))
        assert max_rows is None or sum(len(each.length) for each in rows) <= max_rows
        assert totals.samples == (totals.documents if unit == "document" else sum(len(each.length) for each in rows))
    assert found[0] == found[1]
    listed = [name for shard in found[0] for name in shard]
    scorable = [f"file:{line}" for line, length in enumerate(lengths) if length >= 2]
    assert listed == [name for name in scorable if name in listed]
    assert listed == scorable or max_rows is not None


def test_max_rows_takes_rows_or_whole_documents_from_all_over_the_domain(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "documents.parquet", [15] * 1000)  # two rows each
    documents = make_plan(path, unit="document", row_tokens=8, max_rows=100)
    lines = np.concatenate([shard["start"].to_numpy() // 15 for shard in shards_of(documents)])
    assert len(lines) == 50
    assert set(np.diff(lines)) == {20}
    rows = make_plan(path, unit="row", row_tokens=8, max_rows=101)
    assert count(rows).samples == 101


def test_a_limit_that_no_document_fits_is_refused(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "documents.parquet", [800, 900])
    with pytest.raises(UserError, match="no whole document fits: the domain's 2 documents have 122 rows on average"):
        make_plan(path, unit="document", row_tokens=8, max_rows=10)


def test_shards_do_not_grow_with_the_corpus(tmp_path: Path) -> None:
    path = write_documents(tmp_path / "documents.parquet", [1000] * 20_000)
    totals = count(make_plan(path, unit="document", row_tokens=128, max_rows=None))
    assert len(totals.shards) == -(-20_000 * 999 // score_plan.SHARD_TOKENS)
    assert max(totals.shards) < score_plan.SHARD_TOKENS + 1000
