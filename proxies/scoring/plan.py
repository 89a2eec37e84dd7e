"""Which documents of a domain are scored, cut into shards by a rule that does not know how many processes there are.

A document is cut into rows of row_tokens that overlap by one token, so that every token but its first is predicted
once. Documents come from the token cache's documents.parquet, a batch at a time; of all documents only their numbers of
rows are held at once (8 bytes each, one domain at a time, and only for --max-rows).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mixtures.errors import UserError

SHARD_TOKENS = 2**18  # predicted tokens of a shard, about: what a kill loses, and what a process does at a time
BATCH = 4_096  # documents read at once
Unit = Literal["document", "row"]


@dataclass(frozen=True)
class Choice:
    """`take` of the numbers 0 to `of` - 1, evenly spread."""

    take: int
    of: int

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Which of these numbers are taken, bool like `numbers`."""
        return (numbers + 1) * self.take // self.of > numbers * self.take // self.of


@dataclass(frozen=True)
class DomainPlan:
    """What of a domain is scored: by which unit, cut to which length, which documents or rows."""

    documents: Path  # documents.parquet
    unit: Unit
    row_tokens: int
    choice: Choice


@dataclass(frozen=True)
class Totals:
    """What a plan comes to: documents, tokens and samples listed; predicted tokens of every shard."""

    documents: int
    tokens: int
    samples: int
    shards: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """R rows of some documents: index of its document, number in it, first token in train.bin, length; int64 (R,)
    each.
    """

    document: np.ndarray
    number: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Tokens that a row's loss is the mean of."""
        return self.length - 1

    @property
    def own_start(self) -> np.ndarray:
        """First token that is listed with the row: its overlap with the row before belongs to that."""
        return self.start + (self.number > 0)

    @property
    def own_tokens(self) -> np.ndarray:
        """Tokens listed with the row; their sum over a document is the document's."""
        return self.length - (self.number > 0)

    def __getitem__(self, chosen: np.ndarray) -> "Rows":
        return Rows(self.document[chosen], self.number[chosen], self.start[chosen], self.length[chosen])


def make_plan(documents: Path, *, unit: Unit, row_tokens: int, max_rows: int | None) -> DomainPlan:
    """The plan of a domain: everything, or at most `max_rows` rows (whole documents where documents are scored).

    Raises UserError where not even one document fits.
    """
    plan = DomainPlan(documents, unit, row_tokens, Choice(1, 1))
    if max_rows is None:
        return plan
    counts = np.concatenate(
        [np.empty(0, np.int64), *(row_counts(frame["tokens"], row_tokens) for frame in _documents(documents))]
    )
    rows = int(counts.sum())
    if rows <= max_rows:
        return plan
    if unit == "row":
        return DomainPlan(documents, unit, row_tokens, Choice(max_rows, rows))
    take, numbers, most = 0, np.arange(len(counts)), len(counts)
    while most - take > 1:  # the sum is not quite monotonous; `take` always fits
        middle = (take + most) // 2
        fits = counts[Choice(middle, len(counts))(numbers)].sum() <= max_rows
        take, most = (middle, most) if fits else (take, middle)
    if not take:
        raise UserError(
            f"no whole document fits: its {len(counts):,} documents have {rows / len(counts):,.0f} rows on average"
        )
    return DomainPlan(documents, unit, row_tokens, Choice(take, len(counts)))


def count(plan: DomainPlan) -> Totals:
    """What the plan comes to; reads all of documents.parquet."""
    documents = tokens = samples = 0
    shards: list[int] = []
    for shard in shards_of(plan):
        rows = rows_of(plan, shard)
        documents += len(shard)
        tokens += int(rows.own_tokens.sum())
        samples += len(shard) if plan.unit == "document" else len(rows.number)
        shards.append(int(rows.predicted.sum()))
    return Totals(documents, tokens, samples, tuple(shards))


def shards_of(plan: DomainPlan) -> Iterator[pd.DataFrame]:
    """The shards: chosen documents (id, start, tokens, first: number in the domain of its first row) in file order.

    A shard holds the documents that begin within its SHARD_TOKENS predicted tokens of those that are scored.
    """
    held: list[pd.DataFrame] = []
    done = shard = 0
    for frame in _chosen(plan):
        predicted = frame.pop("predicted").to_numpy()
        number = (done + np.cumsum(predicted) - predicted) // SHARD_TOKENS
        done += int(predicted.sum())
        for each, part in frame.groupby(number):
            if each != shard and held:
                yield pd.concat(held, ignore_index=True)
                held = []
            held.append(part)
            shard = each
    if held:
        yield pd.concat(held, ignore_index=True)


def rows_of(plan: DomainPlan, shard: pd.DataFrame) -> Rows:
    """The rows of a shard's documents that are scored, document by document."""
    rows = cut(shard["start"].to_numpy(), shard["tokens"].to_numpy(), row_tokens=plan.row_tokens)
    if plan.unit == "document":
        return rows
    return rows[plan.choice(shard["first"].to_numpy()[rows.document] + rows.number)]


def row_counts(tokens: np.ndarray, row_tokens: int) -> np.ndarray:
    """(S,) rows that documents of `tokens` (S,) tokens are cut into."""
    return -((1 - np.asarray(tokens)) // (row_tokens - 1))


def cut(start: np.ndarray, tokens: np.ndarray, *, row_tokens: int) -> Rows:
    """All rows of documents at `start` (S,) with `tokens` (S,) tokens, at least 2 each."""
    counts = row_counts(tokens, row_tokens)
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * (row_tokens - 1)
    return Rows(document, number, start[document] + offset, np.minimum(row_tokens, tokens[document] - offset))


def _documents(path: Path) -> Iterator[pd.DataFrame]:
    """Training documents of at least 2 tokens: id, start, tokens."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=["id", "split", "start", "tokens"]):
            frame = batch.to_pandas()
            yield frame.loc[(frame.pop("split") == "train") & (frame["tokens"] >= 2)]


def _chosen(plan: DomainPlan) -> Iterator[pd.DataFrame]:
    """The documents of the plan, with `first` and `predicted`, tokens of it that are scored."""
    numbers = rows = 0
    for frame in _documents(plan.documents):
        counts = row_counts(frame["tokens"], plan.row_tokens)
        frame = frame.assign(first=rows + np.cumsum(counts) - counts, predicted=frame["tokens"] - 1)
        if plan.unit == "document":
            taken = plan.choice(numbers + np.arange(len(frame)))
        else:
            chosen = rows_of(plan, frame)
            frame["predicted"] = np.bincount(chosen.document, chosen.predicted, minlength=len(frame)).astype(np.int64)
            taken = (frame["predicted"] > 0).to_numpy()
        numbers, rows = numbers + len(frame), rows + int(counts.sum())
        yield frame.loc[taken]
