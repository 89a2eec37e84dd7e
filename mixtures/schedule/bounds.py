"""Caps in epochs and least shares per domain: checks, the weights that keep them, messages where none do.

A bound is one number for all domains, or `{name: number}` in which `*` stands for every domain that is not named.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mixtures.errors import UserError
from mixtures.schedule.constrain import PRECISION, capacity, constrain, divergence, moved
from mixtures.schedule.records import Constraint, Domain
from mixtures.text import EVERY, tokens_text

Bound = float | Mapping[str, float] | None
MOST_LINES = 20


def check_bounds(names: Sequence[str], *, max_epochs: Bound, min_share: Bound, unique_tokens: Bound) -> None:
    """Raise UserError listing every unknown domain and every number that is out of range."""
    faults = [
        *_bound_faults(
            max_epochs, names, "--max-epochs", "a number above 0, or inf for no cap", lambda value: value > 0
        ),
        *_bound_faults(min_share, names, "--min-share", "0 to 1", lambda value: 0 <= value <= 1),
        *_bound_faults(
            unique_tokens, names, "--unique-tokens", "a positive number of tokens", lambda value: 1 <= value < math.inf
        ),
    ]
    if faults:
        raise UserError("\n".join(faults))


def by_name(bound: Bound, names: Sequence[str]) -> dict[str, float]:
    """Return {name: number} of the domains of `names` that the bound gives a number."""
    numbers = _asked(bound)
    return {
        name: numbers.get(name, numbers.get(EVERY, math.nan)) for name in names if name in numbers or EVERY in numbers
    }


def closest(
    learned: np.ndarray, stage_tokens: Sequence[int], *, domains: Sequence[Domain], least: Mapping[str, float]
) -> np.ndarray:
    """Return the weights (S, D) closest to `learned` (S, D) that keep the domains' caps and the least shares.

    stage_tokens: tokens of the S stages. least: {name: least share of every stage}. `constrain` computes them. Raises
    UserError with the arithmetic where no weights keep the bounds.
    """
    tokens = np.array(stage_tokens, dtype=np.float64)
    caps = np.array([(domain.max_epochs or math.inf) * domain.pass_tokens for domain in domains])
    floor = np.array([least.get(domain.name, 0.0) for domain in domains])
    if faults := [*_least_faults(floor, domains), *_least_against_caps(floor, caps, float(tokens.sum()), domains)]:
        raise UserError("\n".join(faults))
    room = capacity(learned, tokens, caps=caps, least=floor)
    if room < 1 - PRECISION:
        raise UserError(_no_room(room * tokens.sum(), learned, tokens, caps, domains))
    return constrain(learned, tokens, caps=caps, least=floor)


def hold(
    learned: np.ndarray, stage_tokens: Sequence[int], *, domains: Sequence[Domain], max_epochs: Bound, min_share: Bound
) -> tuple[np.ndarray, tuple[Constraint, ...]]:
    """Return (weights (S, D) that keep the bounds asked for, the record of the bounds).

    Without bounds: the learned weights and no record. The caps must already stand in `domains`. Raises UserError as
    `closest`.
    """
    if not _asked(max_epochs) and not _asked(min_share):
        return learned, ()
    names = [domain.name for domain in domains]
    weights = closest(learned, stage_tokens, domains=domains, least=by_name(min_share, names))
    return weights, (
        constraint(weights, learned, stage_tokens, names=names, max_epochs=max_epochs, min_share=min_share),
    )


def constraint(
    weights: np.ndarray,
    learned: np.ndarray,
    stage_tokens: Sequence[int],
    *,
    names: Sequence[str],
    max_epochs: Bound,
    min_share: Bound,
) -> Constraint:
    """Return the record of the bounds: what was asked, how far it moved the weights, and, if it did, from where."""
    tokens = np.array(stage_tokens, dtype=np.float64)
    distance = divergence(weights, learned, tokens)
    rows = [] if np.array_equal(weights, learned) else learned.tolist()
    return Constraint(
        max_epochs={name: cap if cap < math.inf else None for name, cap in _asked(max_epochs).items()},
        min_share=_asked(min_share),
        moved=moved(weights, learned, tokens),
        kl=distance if distance < math.inf else None,
        learned=tuple(dict(zip(names, row, strict=True)) for row in rows),
    )


def _asked(bound: Bound) -> dict[str, float]:
    """Return a bound as {name: number}, with `*` for all domains; empty without a bound."""
    return {} if bound is None else dict(bound) if isinstance(bound, Mapping) else {EVERY: bound}


def _bound_faults(
    bound: Bound, names: Sequence[str], flag: str, allowed: str, fits: Callable[[float], bool]
) -> Iterator[str]:
    """Yield one message per unknown domain and per number that `fits` refuses; `allowed` says which numbers fit."""
    for name, value in _asked(bound).items():
        if name not in names and name != EVERY:
            yield f"{flag}: there is no domain {name}; the domains are {', '.join(names)}"
        if not fits(value):
            yield f"{flag}: {value:g} for {'all domains' if name == EVERY else name}; allowed: {allowed}"


def _least_faults(least: np.ndarray, domains: Sequence[Domain]) -> Iterator[str]:
    """Yield a message where the least shares (D,) sum to more than 1."""
    total = math.fsum(least)
    if total > 1 + 1e-12:
        count = int((least > 0).sum())
        yield (
            f"--min-share: the least shares of {count} of {len(domains)} domains sum to {total:.6g}, more than the "
            f"whole of a stage; "
            f"divide them by {_up(total)} or more (the same for all domains: at most 1/{len(domains)} fits)"
        )


def _least_against_caps(least: np.ndarray, caps: np.ndarray, total: float, domains: Sequence[Domain]) -> Iterator[str]:
    """Yield one message per domain whose least share of all `total` tokens is more than its cap (tokens)."""
    for share, cap, domain in zip(least.tolist(), caps.tolist(), domains, strict=True):
        if share * total > cap * (1 + PRECISION):
            yield (
                f"--min-share: {share:g} of {tokens_text(total)} tokens is {tokens_text(share * total)} of "
                f"{domain.name}, but its cap allows {_held(domain)}; give it a least share of at most "
                f"{cap / total:.3g}, or a cap of {_up(share * total / domain.pass_tokens)} epochs"
            )


def _no_room(holds: float, learned: np.ndarray, tokens: np.ndarray, caps: np.ndarray, domains: Sequence[Domain]) -> str:
    """Return the message for caps that allow fewer tokens than the budget: the arithmetic, largest cap first.

    holds: the tokens that the caps allow.
    """
    unused = [domain.name for domain, most in zip(domains, learned.max(axis=0).tolist(), strict=True) if most == 0]
    capped = [
        (cap, domain)
        for cap, domain in zip(caps.tolist(), domains, strict=True)
        if cap < math.inf and domain.name not in unused
    ]
    capped.sort(key=lambda pair: -pair[0])
    lines = [f"  - {domain.name}: {_held(domain)}" for _, domain in capped[:MOST_LINES]]
    if rest := capped[MOST_LINES:]:
        lines.append(f"  - {len(rest)} more domains: {tokens_text(sum(cap for cap, _ in rest))}")
    if unused:
        lines.append(
            f"  - not counted, because their learned weight is 0 (they get their --min-share and no more): "
            f"{', '.join(unused)}"
        )
    if len(capped) + len(unused) < len(domains) or holds < 0.999 * sum(cap for cap, _ in capped):
        lines.append(
            "  - a stage may use less than that: a domain with learned weight 0 in a stage takes nothing in it"
        )
    if partial := [domain.name for _, domain in capped if not domain.complete]:
        lines.append(f"  - only partly read, so they have more text than is counted here: {', '.join(partial)}")
    total = float(tokens.sum())
    amounts = [tokens_text(amount) for amount in (holds, total)]
    if amounts[0] == amounts[1]:
        amounts = [f"{amount:,.0f}" for amount in (holds, total)]
    return (
        f"--max-epochs: these caps allow at most {amounts[0]} of {amounts[1]} tokens:\n"
        + "\n".join(lines)
        + f"\nraise the caps ({_up(total / holds)} times as high for all is enough), give --unique-tokens where "
        f"the large run has more text, or lower the budget to {math.floor(holds):,} tokens"
    )


def _held(domain: Domain) -> str:
    """Return the tokens that a domain's cap allows, as `16.0 k (4 x 4.00 k)`: epochs times tokens per pass."""
    epochs = domain.max_epochs or math.inf
    return f"{tokens_text(epochs * domain.pass_tokens)} ({epochs:g} x {tokens_text(domain.pass_tokens)})"


def _up(number: float) -> str:
    """Return the number rounded up to three digits, so that following the advice is enough."""
    step = 10.0 ** (math.floor(math.log10(number)) - 2)
    return f"{math.ceil(number / step * (1 - 1e-12)) * step:.6g}"
