"""A domain's text under its sample policy: the text of an epoch, and any row of any epoch.

An epoch's text comes in passes over the domain. The first pass has, in file order, every document that is read at least
once in this epoch, the second pass those that are read at least twice, and so on. So copies of a document lie a pass
apart and not in one row. Text that the manifest does not list belongs to the first pass. Rows are cut from that text; a
last short row is left out.

filter, multiplicity: every epoch has the same text.
sampling_weight: epoch e reads document i floor(c_i + u_e) - floor(c_(i-1) + u_e) times, with c the running sum of the
weights (systematic sampling). u_e = u_0 + e * golden ratio modulo 1, with u_0 uniform by seed and domain. So the
expected count is the weight in every epoch, and over epochs the counts stay next to epochs x weight.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixtures.errors import UserError
from mixtures.schedule.manifest import WHOLE, Manifest, multiplicities, open_manifest
from mixtures.schedule.mixture import Mixture
from mixtures.stream.tokens import Tokens

GOLDEN = (5**0.5 - 1) / 2
TOLERANCE = 1e-6  # how far the token-weighted mean of sampling weights may be from 1


@dataclass(frozen=True)
class EpochText:
    """A text put together from K spans of an array of token ids.

    starts: first token of every span in the array, int64 (K,). ends: end of every span in this text, int64 (K,).
    """

    starts: np.ndarray
    ends: np.ndarray

    def rows(self, ids: np.ndarray, places: np.ndarray, *, row_tokens: int) -> np.ndarray:
        """Return the rows `places` (N,) of this text over the token ids `ids`, as an array (N, row_tokens)."""
        at = places * row_tokens
        first = np.searchsorted(self.ends, at, side="right")
        spans = np.searchsorted(self.ends, at + row_tokens, side="left") - first + 1
        row = np.repeat(np.arange(len(at)), spans)
        span = _counted(first, spans)
        begins = np.where(span > 0, self.ends[span - 1], 0)
        taken = np.minimum(self.ends[span], at[row] + row_tokens) - np.maximum(begins, at[row])
        shift = np.repeat(self.starts[span] - begins, taken).reshape(-1, row_tokens)
        return ids[at[:, None] + np.arange(row_tokens) + shift]


def compose(start: np.ndarray, tokens: np.ndarray, counts: np.ndarray, *, domain_tokens: int) -> EpochText:
    """Return the text of documents (S,) read `counts` (S,) times, pass by pass, with all other text read once."""
    starts, times = np.zeros(2 * len(start) + 1, dtype=np.int64), np.ones(2 * len(start) + 1, dtype=np.int64)
    starts[1::2], starts[2::2], times[1::2] = start, start + tokens, counts
    ends = np.append(starts[1:], domain_tokens)
    span = np.repeat(np.arange(len(starts)), times)
    copies = _counted(np.zeros_like(times), times)
    span = span[np.argsort(copies, kind="stable")]
    starts, ends = starts[span], ends[span]
    starts, ends = starts[ends > starts], ends[ends > starts]
    borders = starts[1:] != ends[:-1]  # spans that follow each other are one
    starts, ends = starts[np.append(True, borders)], ends[np.append(borders, True)]
    return EpochText(starts, np.cumsum(ends - starts))


class Policy:
    """One domain's epochs under its manifest.

    Memory: 24 bytes per listed document, and 16 per place where the current epoch leaves file order. Which rows come is
    a function of manifest, seed and epoch; this object only stores results so that they are not computed again.
    """

    def __init__(self, manifest: Manifest, *, seed: int, row_tokens: int) -> None:
        self.pass_tokens = manifest.pass_tokens
        self._start, self._tokens, self._weight = manifest.start, manifest.tokens, manifest.weight
        self._domain_tokens, self._row_tokens = manifest.domain_tokens, row_tokens
        self._fixed = manifest.mode in WHOLE
        digest = hashlib.sha256(f"{seed}\0{manifest.domain}\0offset".encode()).digest()
        self._offset = int.from_bytes(digest[:6], "big") / 2**48
        self._ends: list[int] = []  # rows up to the end of every epoch so far
        self._at_hand: tuple[int, EpochText] | None = None

    def locate(self, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return epoch, place inside it and rows of that epoch for the domain's rows `ordinals`; int64 (N,) each."""
        if self._fixed:
            size = self.pass_tokens // self._row_tokens
            return ordinals // size, ordinals % size, np.full_like(ordinals, size)
        while len(ordinals) and (not self._ends or self._ends[-1] <= ordinals.max()):
            tokens = self._domain_tokens + int((self.counts(len(self._ends)) - 1) @ self._tokens)
            self._ends.append((self._ends[-1] if self._ends else 0) + tokens // self._row_tokens)
        ends = np.array([0, *self._ends], dtype=np.int64)
        epochs = np.searchsorted(ends, ordinals, side="right") - 1
        return epochs, ordinals - ends[epochs], ends[epochs + 1] - ends[epochs]

    def rows(self, ids: np.ndarray, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the rows `places` (N,) of `epochs` (N,) over the domain's token ids, as an array (N, row_tokens)."""
        out = np.empty((len(places), self._row_tokens), dtype=ids.dtype)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            out[here] = self.text(epoch).rows(ids, places[here], row_tokens=self._row_tokens)
        return out

    def text(self, epoch: int) -> EpochText:
        """Return the text of the epoch; the last one is kept."""
        epoch = 0 if self._fixed else epoch
        if self._at_hand is None or self._at_hand[0] != epoch:
            counts = self.counts(epoch)
            self._at_hand = epoch, compose(self._start, self._tokens, counts, domain_tokens=self._domain_tokens)
        return self._at_hand[1]

    def counts(self, epoch: int) -> np.ndarray:
        """Return how often every listed document is read in the epoch, int64 (S,)."""
        if self._fixed:
            return self._weight.astype(np.int64)
        return multiplicities(self._weight, offset=(self._offset + epoch * GOLDEN) % 1)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for worker processes, without the current epoch's text."""
        return {**self.__dict__, "_at_hand": None}


def open_policies(mixture: Mixture, tokens: Mapping[str, Tokens], *, seed: int, row_tokens: int) -> dict[str, Policy]:
    """Return {name: policy} of the domains that have one, in order. Raises UserError listing every fault."""
    policies, faults = {}, []
    for domain in mixture.domains:
        try:
            if manifest := open_manifest(domain, mixture.directory):
                _require_readable(manifest, tokens[domain.name], row_tokens=row_tokens)
                policies[domain.name] = Policy(manifest, seed=seed, row_tokens=row_tokens)
        except UserError as error:
            faults.append(f"  - {domain.name}: {error}")
    if faults:
        raise UserError("these sample policies cannot be streamed:\n" + "\n".join(faults))
    return policies


def _require_readable(manifest: Manifest, tokens: Tokens, *, row_tokens: int) -> None:
    """Raise UserError where the manifest is of another text, weighs losses, or leaves less than one row to read."""
    if manifest.mode == "loss_weight":
        raise UserError(
            "its manifest has weights for the loss of documents, not for how often they are read, and a stream gives "
            "rows only; export with --samples softmax, filter or multiplicity, or without sample weights and weigh "
            "the loss in the trainer"
        )
    source_tokens, manifest_tokens = len(tokens.ids), manifest.domain_tokens
    changed = tokens.fingerprint and manifest.fingerprint and tokens.fingerprint != manifest.fingerprint
    if source_tokens != manifest_tokens or changed:
        raise UserError(
            f"its manifest lists documents of a text of {manifest_tokens:,} tokens "
            f"({manifest.fingerprint or 'no fingerprint'}), {tokens.where} holds {source_tokens:,} "
            f"({tokens.fingerprint or 'no fingerprint'}); give the text that was scored, or score this one and export "
            "again"
        )
    if manifest.mode not in WHOLE:
        mean = 1 + float((manifest.weight - 1) @ manifest.tokens) / manifest.domain_tokens
        if abs(mean - 1) > TOLERANCE:
            raise UserError(
                f"its sampling weights have the token-weighted mean {mean:.6g}, it must be 1; export the mixture again"
            )
    if manifest.pass_tokens < row_tokens:
        raise UserError(
            f"its {manifest.mode} leaves {manifest.pass_tokens:,} of {manifest_tokens:,} tokens, less than one row of "
            f"{row_tokens}; keep more of its documents, add text, or shorten the rows"
        )


def _counted(first: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return first[0], first[0] + 1, ... (counts[0] numbers), first[1], first[1] + 1, ...: int64 (sum of counts,)."""
    return np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
