"""The order of the domains, one row at a time, that never leaves a domain a whole row away from its share.

R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980): with D domains and shares that may change
over time, rows can be given so that |rows so far - share of them| stays at or below 1 - 1/(2D - 2) for every domain at
every moment. Each domain's next row has a window. The row may come once the domain is behind by 1/(2D - 2), and must
come before it is behind by 1 - 1/(2D - 2). Of the rows that may come, the one with the earliest deadline is next.
"""

import copy
import heapq
import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import Self

import numpy as np

ROUNDING = 1e-9  # rows; rounding of floats may add so much to a window's border that is a whole number


class Turns:
    """The order of the domains from row `origin` on. Memory: a few numbers per domain; time: microseconds per row.

    starts  (S,): row, not necessarily whole, at which each stage begins, ascending, the first at or before `origin`;
            the last stage has no end
    shares  (S, D): every row sums to 1
    base    (D,): rows given before `origin`; they count as exactly what was due then
    given   (D,): rows given by now, if that is later than `origin`; None: `base`
    """

    def __init__(
        self,
        *,
        starts: Sequence[float],
        shares: np.ndarray,
        origin: int,
        base: Sequence[int],
        given: Sequence[int] | None = None,
    ) -> None:
        now = int(np.searchsorted(starts, origin, side="right")) - 1
        assert now >= 0, f"no stage at row {origin}: the first starts at {starts[0]}"
        edges = np.array([origin, *starts[now + 1 :]], dtype=np.float64)
        slopes = np.asarray(shares, dtype=np.float64)[now:]
        levels = np.cumsum(
            np.vstack([np.asarray(base, dtype=np.float64), np.diff(edges)[:, None] * slopes[:-1]]), axis=0
        )
        self.given = list(base if given is None else given)
        self.position = origin + sum(self.given) - sum(base)
        self._edges: list[float] = edges.tolist()
        self._slopes: list[list[float]] = slopes.T.tolist()
        self._levels: list[list[float]] = levels.T.tolist()
        self._margin = 1 / (2 * max(int((slopes > 0).any(axis=0).sum()) - 1, 1))
        self._ready: list[tuple[float, int]] = []  # (deadline, domain)
        self._waiting = [self._window(domain) for domain in range(len(self.given))]  # (first row, deadline, domain)
        heapq.heapify(self._waiting)

    def next(self) -> int:
        """Return the domain that the next row comes from, and count the row as given."""
        self.position += 1
        while self._waiting and self._waiting[0][0] <= self.position:
            _, deadline, domain = heapq.heappop(self._waiting)
            heapq.heappush(self._ready, (deadline, domain))
        domain = heapq.heappop(self._ready)[1] if self._ready else heapq.heappop(self._waiting)[2]
        self.given[domain] += 1
        heapq.heappush(self._waiting, self._window(domain))
        return domain

    def copy(self) -> Self:
        """Return an independent copy at the same row."""
        other = copy.copy(self)
        other.given, other._ready, other._waiting = self.given[:], self._ready[:], self._waiting[:]
        return other

    def _window(self, domain: int) -> tuple[float, float, int]:
        """Return (first row at which the domain's next row may come, its deadline, domain)."""
        given = self.given[domain]
        return self._reaches(domain, given + self._margin), self._reaches(domain, given + 1 - self._margin), domain

    def _reaches(self, domain: int, level: float) -> float:
        """Return the first whole row by which the domain is due `level` rows; infinity if it never is."""
        levels, slopes = self._levels[domain], self._slopes[domain]
        stage = bisect_left(levels, level) - 1
        if slopes[stage] == 0:
            return math.inf
        return math.ceil(self._edges[stage] + (level - levels[stage]) / slopes[stage] - ROUNDING)
