"""MixtureStream: the rows that a trainer reads, in the mixture's shares, on every rank and after every resume.

A row is `row_tokens` consecutive tokens of one domain, so a share of rows is a share of trained tokens, whatever the
length of documents. plan.py decides which domain the n-th row comes from (never a row away from the shares). The k-th
row of a domain is row k mod N of epoch k div N in that epoch's shuffled order (shuffle.py). If a domain has a sample
policy, an epoch is the text that the policy makes of it (policy.py). There is no other state.
"""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from mixtures.errors import UserError
from mixtures.schedule.mixture import Mixture
from mixtures.stream.plan import Plan, limits_of
from mixtures.stream.policy import open_policies
from mixtures.stream.shuffle import ROUNDS, epoch_key, shuffled
from mixtures.stream.tokens import Source, as_rows, id_fault, open_sources

AHEAD = 256  # rows read at once while iterating
FORMAT = 1  # version of the state


class MixtureStream:
    """Rows of token ids, int64 (row_tokens,), for one rank of a training run; ends with the schedule.

    mixture: the mixture to read.
    sources: {name: token ids (N,) or a directory of the token cache}, or the cache directory of a run.
    row_tokens: length of a row; None: the mixture's horizon.sequence_length.
    rank, world: global row n goes to rank n modulo `world`. Ranks take equally many rows, so a step that takes as many
        rows on every rank sees the same global batch in every world size.
    seed: of the order inside domains; None: the mixture's sampling.seed.
    check_text: False: the sources may be another text than the mixture names. True: rank 0 also compares the tokens in
        a token cache with their hashes, at about 1 GB per second.
    new_weights: True: a state of another mixture over this text is accepted. Its rows count as read, and this mixture's
        weights hold from there on. If a domain's sample policy changed too, its epochs go on after as many rows of the
        new text.

    Paths of manifests are relative to the mixture's file. Memory: a few hundred bytes per domain, and 24 per document
    that a manifest lists; tokens are read from where they are stored. Time: every rank follows the global order, a few
    microseconds per global row, and reads its own rows. Token ids below 0 or beyond the mixture's vocabulary are
    refused: at the start if they are among the first 2^20 of a source, else when their row is drawn. So no long text is
    read to check it. Raises UserError for a mixture, sources and manifests that do not fit.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Mapping[str, Source] | str | Path,
        *,
        row_tokens: int | None = None,
        rank: int = 0,
        world: int = 1,
        seed: int | None = None,
        check_text: bool = True,
        new_weights: bool = False,
    ) -> None:
        self.mixture, self.rank, self.world, self.new_weights = mixture, rank, world, new_weights
        self.row_tokens = _row_tokens(mixture, row_tokens)
        self.seed = mixture.sampling.seed if seed is None else seed
        if not 0 <= rank < world:
            raise UserError(f"rank {rank} of a world of {world}: ranks count from 0 to world - 1")
        self._tokens = open_sources(
            mixture.domains, mixture.tokenizer, sources, check_text=check_text, check_files=rank == 0
        )
        self._rows = {name: as_rows(tokens.ids, self.row_tokens) for name, tokens in self._tokens.items()}
        if short := [
            f"{name} ({len(self._tokens[name].ids)} tokens)" for name, rows in self._rows.items() if not len(rows)
        ]:
            raise UserError(
                f"{', '.join(short)}: shorter than one row of {self.row_tokens} tokens; add text or shorten the rows"
            )
        self._policies = open_policies(mixture, self._tokens, seed=self.seed, row_tokens=self.row_tokens)
        passes = {name: len(tokens.ids) for name, tokens in self._tokens.items()}
        passes |= {name: policy.pass_tokens for name, policy in self._policies.items()}
        self._limits = limits_of(mixture, passes, row_tokens=self.row_tokens)
        self._plan = Plan(mixture, self._limits, row_tokens=self.row_tokens)
        self._ahead: Iterator[np.ndarray] = iter(())

    @property
    def rows(self) -> int:
        """Return the number of rows of the whole schedule, over all ranks."""
        return self._limits.rows

    @property
    def position(self) -> int:
        """Return the number of rows given so far, over all ranks."""
        return self._plan.position

    @property
    def drawn(self) -> dict[str, int]:
        """Return {name: rows given so far}, over all ranks."""
        return self._plan.drawn

    @property
    def left(self) -> int:
        """Return the number of rows that this rank has still to give.

        Rows at the end that are not enough for one on every rank are left out.
        """
        return (self.rows - self.position) // self.world

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> np.ndarray:
        row = next(self._ahead, None)
        if row is None:
            self._ahead = iter(self.copy().take(AHEAD))
            row = next(self._ahead)  # StopIteration: the schedule has ended
        self._plan.draw(self.world)
        return row

    def take(self, rows: int) -> np.ndarray:
        """Return this rank's next rows, int64 (rows, row_tokens); fewer where the schedule ends."""
        return self.read(*self.draw(rows))

    def draw(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Go past this rank's next rows without reading them, and say which they are, for `read`.

        Return the domain of each, as its number in `mixture.domains`, and its number in that domain, from 0, over all
        epochs: int64 (rows,) each.
        """
        domains, ordinals = self._advance(rows)
        return domains[self.rank :: self.world], ordinals[self.rank :: self.world]

    def skip(self, rows: int) -> None:
        """Go past this rank's next rows (and those of all other ranks) without reading them."""
        self._advance(rows)

    def copy(self) -> Self:
        """Return an independent stream at the same row, over the same sources."""
        other = copy.copy(self)
        other._plan, other._ahead = self._plan.copy(), iter(())
        return other

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides the rows to come, ready for JSON.

        It is the same on every rank, and holds for any world size and worker count.
        """
        return {
            "format": FORMAT,
            "mixture": self.mixture.id,
            "seed": self.seed,
            "row_tokens": self.row_tokens,
            "position": self.position,
            "drawn": self.drawn,
            "since": self._plan.since,
            "rows": {name: len(rows) for name, rows in self._rows.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the position at which the state was taken.

        Raises UserError for a state of another seed, row length, text or mixture.
        """
        changed = self._require_fitting(state)
        position, drawn = state["position"], state["drawn"]
        since = {"position": position, "drawn": drawn} if changed else state["since"]
        self._plan = Plan(self.mixture, self._limits, row_tokens=self.row_tokens, since=since, drawn=drawn)
        self._ahead = iter(())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for worker processes; memory maps are passed by the names of their files."""
        return {**self.__dict__, "_rows": None, "_ahead": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = {name: as_rows(tokens.ids, self.row_tokens) for name, tokens in self._tokens.items()}
        self._ahead = iter(())

    def _advance(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the domains and ordinals of this step's rows on all ranks, and go past them."""
        self._ahead = iter(())
        return self._plan.draw(min(rows, self.left) * self.world)

    def read(self, domains: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
        """Return the rows (N, row_tokens), int64, that `draw` named: any of them, in any order, as often as asked."""
        names = self._plan.names
        sizes = np.array([len(self._rows[name]) for name in names])[domains]
        epochs, places = np.divmod(ordinals, sizes)
        for name, policy in self._policies.items():
            here = domains == names.index(name)
            epochs[here], places[here], sizes[here] = policy.locate(ordinals[here])
        pairs, which = np.unique(np.stack([domains, epochs]), axis=1, return_inverse=True)
        keys = np.array(
            [epoch_key(self.seed, names[domain], epoch) for domain, epoch in pairs.T.tolist()], dtype=np.uint64
        )
        places = shuffled(places, sizes=sizes, keys=keys.reshape(-1, ROUNDS).T[:, which.ravel()])
        out = np.empty((len(domains), self.row_tokens), dtype=np.int64)
        for domain in np.unique(domains).tolist():
            here = domains == domain
            rows = self._text_rows(names[domain], epochs[here], places[here])
            if fault := id_fault(names[domain], rows, self._tokens[names[domain]].where, self.mixture.tokenizer):
                raise UserError(fault)
            out[here] = rows
        return out

    def _text_rows(self, name: str, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the rows `places` of `epochs` of one domain."""
        if name in self._policies:
            return self._policies[name].rows(self._tokens[name].ids, epochs, places)
        return self._rows[name][places]

    def _require_fitting(self, state: Mapping[str, Any]) -> bool:
        """Say whether the state is of another mixture, and so changes the weights.

        Raises UserError where the state is damaged or does not belong to this stream.
        """
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise UserError(
                f"this is no state of a MixtureStream: it has no {', '.join(missing)}; give what state_dict() returned"
            )
        kinds = {"position": int, "drawn": dict, "since": dict, "rows": dict}
        if wrong := [
            f"{key} is a {type(state[key]).__name__}" for key, kind in kinds.items() if not isinstance(state[key], kind)
        ]:
            raise UserError(f"the state is damaged: {', '.join(wrong)}; restore it from a copy")
        if state["format"] != FORMAT:
            raise UserError(
                f"the state has format {state['format']}, this version of mixtures reads {FORMAT}; go on with the "
                f"version that wrote it"
            )
        if state["position"] != state["since"]["position"] + sum(state["drawn"].values()) - sum(
            state["since"]["drawn"].values()
        ):
            raise UserError(
                "the state is damaged: its position is not the sum of the rows drawn; restore it from a copy"
            )
        was, now = state["rows"], self.state_dict()["rows"]
        faults = [
            f"{key} {state[key]} in the state, {getattr(self, key)} here"
            for key in ("seed", "row_tokens")
            if state[key] != getattr(self, key)
        ]
        faults += [
            f"{name} had {was[name]:,} rows, has {now[name]:,}"
            for name in now
            if name in was and was[name] != now[name]
        ]
        if faults:
            raise UserError(
                f"the state belongs to another stream: {'; '.join(faults)}; give the same seed, row_tokens and text "
                f"to go on from it"
            )
        changed = bool(state["mixture"] != self.mixture.id)
        if changed and not self.new_weights:
            raise UserError(
                f"the state belongs to mixture {state['mixture']}, this one is {self.mixture.id}; load that one to go "
                "on, or pass new_weights=True to let this one's weights hold from here on"
            )
        return changed


def _row_tokens(mixture: Mixture, asked: int | None) -> int:
    """Return the length of a row, as asked or as planned. Raises UserError where it does not fit the mixture."""
    planned = mixture.horizon.sequence_length
    length = planned if asked is None else asked
    if length is None:
        raise UserError("the mixture leaves the length of a row open (horizon.sequence_length); give row_tokens")
    if length < 1:
        raise UserError(f"row_tokens is {length}; a row has at least one token")
    if planned is not None and length != planned:
        raise UserError(
            f"row_tokens is {length}, the mixture was planned for sequences of {planned} tokens; use that length"
        )
    if mixture.horizon.total_tokens < length:
        raise UserError(
            f"the schedule has {mixture.horizon.total_tokens:,} tokens, less than one row of {length}; raise the "
            f"token budget"
        )
    return length
