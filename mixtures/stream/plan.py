"""The order of rows that a mixture asks for: domain and number within the domain, also when domains are used up.

It only counts: it knows no text and no ranks. The same mixture gives the same plan in every process.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture
from mixtures.stream.apportion import Turns
from mixtures.text import tokens_text


@dataclass(frozen=True)
class Limits:
    """The rows of a schedule, and the most rows (D,) of each domain: infinity where it may repeat without end."""

    rows: int
    domain_rows: np.ndarray


def limits_of(mixture: Mixture, tokens: dict[str, int], *, row_tokens: int) -> Limits:
    """Return the rows of the schedule and of every domain; `tokens`: {name: tokens of one pass over the domain}.

    The last row of a cap is rounded up, never down.
    """
    most = [
        math.ceil(domain.max_epochs * tokens[domain.name] / row_tokens)
        if domain.max_epochs is not None and domain.on_exhausted != "repeat"
        else math.inf
        for domain in mixture.domains
    ]
    return Limits(mixture.horizon.total_tokens // row_tokens, np.array(most))


class Plan:
    """The domain that each row comes from.

    since: the state at which the present weights took effect; None: the beginning. drawn: {name: rows given by now};
    None: the rows given at `since`.
    A domain of `on_exhausted: renormalize` that has given all its rows leaves its share to the others in proportion,
    from that row on. Raises UserError where the schedule would use up a domain of `on_exhausted: error`, or all domains
    of a stage.
    """

    def __init__(
        self,
        mixture: Mixture,
        limits: Limits,
        *,
        row_tokens: int,
        since: dict[str, Any] | None = None,
        drawn: dict[str, int] | None = None,
    ) -> None:
        self.names = tuple(domain.name for domain in mixture.domains)
        self.limits = limits
        self._starts = [(stage.start_tokens - mixture.horizon.start_tokens) / row_tokens for stage in mixture.stages]
        self._shares = np.array([[stage.weights[name] for name in self.names] for stage in mixture.stages])
        self._stops = np.array([domain.on_exhausted == "error" for domain in mixture.domains])
        self._row_tokens = row_tokens
        self._origin = since["position"] if since else 0
        self._base = [since["drawn"].get(name, 0) for name in self.names] if since else [0] * len(self.names)
        drawn_rows = self._base if drawn is None else [drawn.get(name, 0) for name in self.names]
        self._check(drawn_rows, self._origin + sum(drawn_rows) - sum(self._base))
        self._turns = self._begin(self._origin, self._base, drawn_rows)

    @property
    def position(self) -> int:
        """Return the number of rows given so far."""
        return self._turns.position

    @property
    def drawn(self) -> dict[str, int]:
        """Return {name: rows given so far}."""
        return dict(zip(self.names, self._turns.given, strict=True))

    @property
    def since(self) -> dict[str, Any]:
        """Return where the present weights took effect: position and the rows that had been drawn."""
        return {"position": self._origin, "drawn": dict(zip(self.names, self._base, strict=True))}

    def draw(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the next rows: their domains, and how many rows of the same domain came before; int64 (rows,) each."""
        domains, ordinals = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
        for row in range(rows):
            domain = self._turns.next()
            domains[row], ordinals[row] = domain, self._turns.given[domain] - 1
            if self._turns.given[domain] == self.limits.domain_rows[domain] and not self._stops[domain]:
                self._origin, self._base = self._turns.position, self._turns.given[:]
                self._turns = self._begin(self._origin, self._base, self._base)
        return domains, ordinals

    def copy(self) -> Self:
        """Return an independent copy at the same row."""
        other = object.__new__(type(self))
        other.__dict__ = {**self.__dict__, "_turns": self._turns.copy()}
        return other

    def _begin(self, origin: int, base: Sequence[int], given: Sequence[int]) -> Turns:
        """Return the turns from row `origin` on, without the domains that are used up and may be left out."""
        left = (np.asarray(base) < self.limits.domain_rows) | self._stops
        shares = np.where(left, self._shares, 0.0)
        totals = shares.sum(axis=1, keepdims=True)
        shares = np.divide(shares, totals, out=shares, where=totals > 0)
        return Turns(starts=self._starts, shares=shares, origin=origin, base=base, given=given)

    def _check(self, given: Sequence[int], position: int) -> None:
        """Follow the schedule as a flow from `position` to its end; refuse what it cannot do."""
        left = self.limits.domain_rows - np.asarray(given)
        edges = [*self._starts, self.limits.rows]
        for (start, end), shares in zip(itertools.pairwise(edges), self._shares, strict=True):
            now = float(max(start, position))
            while now < end - 1:  # less than one row is rounding
                flow = np.where((left > 0) | self._stops, shares, 0.0)
                if not flow.any():
                    self._refuse(np.flatnonzero(shares), now)
                flow /= flow.sum()
                with np.errstate(divide="ignore", invalid="ignore"):
                    lasts = np.where(flow > 0, left / flow, np.inf)
                if (out := np.flatnonzero(self._stops & (lasts < end - now - 1))).size:
                    self._refuse(out, now + lasts[out].min())
                span = min(end - now, max(lasts.min(), 0) if np.isfinite(lasts.min()) else math.inf)
                left, now = left - span * flow, now + span
                left[np.isclose(left, 0, atol=1e-6)] = 0

    def _refuse(self, domains: np.ndarray, row: float) -> None:
        """Raise UserError: these domains would be used up after `row` rows."""
        names = ", ".join(
            f"{self.names[domain]} (at most {tokens_text(self.limits.domain_rows[domain] * self._row_tokens)} tokens)"
            for domain in domains
        )
        total = self.limits.rows * self._row_tokens
        raise UserError(
            f"{names} would be used up after {tokens_text(row * self._row_tokens)} of {tokens_text(total)} tokens; "
            "raise max_epochs (export again with --max-epochs), or lower the token budget"
        )
