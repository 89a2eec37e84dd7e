"""The documents of a domain that are scored, cut into shards by a rule that does not depend on the number of processes.

A document is cut into rows of row_tokens tokens that overlap by one token, so that every token but the document's first
is predicted once. Documents are read from the token cache's documents.parquet, one batch at a time. Only the number of
rows of each document is in memory for all documents at once (8 bytes each, for one domain at a time, and only with
--max-rows).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from mixtures.errors import UserError

SHARD_TOKENS = 2**18  # about how many tokens a shard predicts: what a process does at a time, and what a kill can lose
BATCH = 4_096  # documents that are read at a time
Unit = Literal["document", "row"]


@dataclass(frozen=True)
class Choice:
    """Rule that takes `take` of the numbers 0 to `of` - 1, evenly spread."""

    take: int
    of: int

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """Say which of these numbers are taken: a bool array of the shape of `numbers`."""
        return (numbers + 1) * self.take // self.of > numbers * self.take // self.of


@dataclass(frozen=True)
class DomainPlan:
    """Plan of what is scored in one domain."""

    documents: Path  # documents.parquet of the domain
    unit: Unit  # what gets a score
    row_tokens: int  # length of the rows that documents are cut into (tokens)
    choice: Choice  # which documents, or which rows, are scored


@dataclass(frozen=True)
class Totals:
    """Totals of a plan: how much text is scored, and in which shards."""

    documents: int
    tokens: int
    samples: int
    shards: tuple[int, ...]  # predicted tokens of every shard


@dataclass(frozen=True)
class Rows:
    """R rows of some documents, in arrays int64 (R,)."""

    document: np.ndarray  # index of the row's document
    number: np.ndarray  # number of the row in its document, from 0
    start: np.ndarray  # position of the row's first token in train.bin
    length: np.ndarray  # number of tokens

    @property
    def predicted(self) -> np.ndarray:
        """Number of tokens that each row predicts: all but its first."""
        return self.length - 1

    @property
    def own_start(self) -> np.ndarray:
        """Position of each row's first own token; the token that two rows share belongs to the earlier row."""
        return self.start + (self.number > 0)

    @property
    def own_tokens(self) -> np.ndarray:
        """Number of each row's own tokens; their sum over a document's rows is the number of its tokens."""
        return self.length - (self.number > 0)

    def __getitem__(self, chosen: np.ndarray) -> "Rows":
        return Rows(self.document[chosen], self.number[chosen], self.start[chosen], self.length[chosen])


def make_plan(documents: Path, *, unit: Unit, row_tokens: int, max_rows: int | None) -> DomainPlan:
    """Plan a domain: score everything, or at most `max_rows` rows, evenly spread.

    If documents are scored, whole documents are taken, as many as fit. Raises UserError if not even one fits.
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
    while most - take > 1:  # bisection; the sum does not always grow with the number taken, but `take` always fits
        middle = (take + most) // 2
        fits = counts[Choice(middle, len(counts))(numbers)].sum() <= max_rows
        take, most = (middle, most) if fits else (take, middle)
    if not take:
        raise UserError(
            f"no whole document fits: the domain's {len(counts):,} documents have {rows / len(counts):,.0f} rows on "
            "average"
        )
    return DomainPlan(documents, unit, row_tokens, Choice(take, len(counts)))


def count(plan: DomainPlan) -> Totals:
    """Count the totals of a plan. Reads all of documents.parquet."""
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
    """Yield the shards as tables of the documents that are scored, in file order.

    Columns: id, start, tokens, and `first`, the number of the document's first row among all rows of the domain. The
    predicted tokens of all scored documents, in file order, are divided into spans of SHARD_TOKENS; a shard holds the
    documents that begin in its span.
    """
    pieces: list[pd.DataFrame] = []
    done = shard = 0
    for frame in _chosen(plan):
        predicted = frame.pop("predicted").to_numpy()
        number = (done + np.cumsum(predicted) - predicted) // SHARD_TOKENS
        done += int(predicted.sum())
        for at, part in frame.groupby(number):
            if at != shard and pieces:
                yield pd.concat(pieces, ignore_index=True)
                pieces = []
            pieces.append(part)
            shard = at
    if pieces:
        yield pd.concat(pieces, ignore_index=True)


def rows_of(plan: DomainPlan, shard: pd.DataFrame) -> Rows:
    """Return the rows of a shard's documents that are scored, document by document."""
    rows = cut(shard["start"].to_numpy(), shard["tokens"].to_numpy(), row_tokens=plan.row_tokens)
    if plan.unit == "document":
        return rows
    return rows[plan.choice(shard["first"].to_numpy()[rows.document] + rows.number)]


def row_counts(tokens: np.ndarray, row_tokens: int) -> np.ndarray:
    """Return the number of rows (S,) that documents of `tokens` (S,) tokens are cut into."""
    return -((1 - np.asarray(tokens)) // (row_tokens - 1))


def cut(start: np.ndarray, tokens: np.ndarray, *, row_tokens: int) -> Rows:
    """Cut documents that begin at `start` (S,) and have `tokens` (S,) tokens, at least 2 each, into all their rows."""
    counts = row_counts(tokens, row_tokens)
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    offset = number * (row_tokens - 1)
    return Rows(document, number, start[document] + offset, np.minimum(row_tokens, tokens[document] - offset))


def _documents(path: Path) -> Iterator[pd.DataFrame]:
    """Yield tables (id, start, tokens) of the training documents of at least 2 tokens."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH, columns=["id", "split", "start", "tokens"]):
            frame = batch.to_pandas()
            yield frame.loc[(frame.pop("split") == "train") & (frame["tokens"] >= 2)]


def _chosen(plan: DomainPlan) -> Iterator[pd.DataFrame]:
    """Yield tables of the documents that the plan chooses, with the additional columns `first` and `predicted`.

    `first` is the number of the document's first row in the domain, `predicted` the number of its predicted tokens in
    the rows that are scored.
    """
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
