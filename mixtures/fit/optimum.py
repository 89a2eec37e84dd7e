"""The best mixture by a surrogate's predictions, inside bounds, and checks whether the predictions can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixtures.errors import UserError
from mixtures.files import sha256_file
from mixtures.fit.hull import INSIDE, reach, violation
from mixtures.fit.surrogate import CHANCE, Surrogate, best_mixture, distinct
from mixtures.fit.swarm import Swarm
from mixtures.schedule.bounds import Bound, by_name, check_bounds, constraint
from mixtures.schedule.constrain import constrain
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Domain, Input, Provenance
from mixtures.schedule.shares import fixed_mixture, matched_shares
from mixtures.text import tokens_text
from mixtures.version import VERSION

LEAST = 8  # fewest mixtures; there must also be two more than domains
UNIFORM, MEAN, SEEN = "uniform", "mean of the mixtures tried", "best mixture tried"
BORDER = 1.01  # an optimum whose `reach` is below this lies at the border of what was tried


@dataclass(frozen=True)
class Optimum:
    """The mixture with the lowest predicted objective, within what was tried and the bounds."""

    shares: dict[str, float]
    objective: float  # predicted
    others: dict[str, float | None]  # predicted objective of simple mixtures; None if outside of what was tried
    seen: str  # label of the mixture with the lowest measured objective
    measured: float  # its measured objective
    reach: float  # how far the hull of the mixtures tried reaches this way from their mean, per distance of the optimum
    held: tuple[str, ...]  # domains at their bounds

    @property
    def at_border(self) -> bool:
        """Whether no combination of the mixtures tried goes further from their mean in this direction."""
        return self.reach < BORDER


@dataclass(frozen=True)
class Bounds:
    """The bounds of the optimum: least and largest shares (D,), and the values that they come from."""

    lower: np.ndarray
    upper: np.ndarray
    tokens: int | None  # token budget of the large run
    max_epochs: Bound
    min_share: Bound
    counts: dict[str, float]  # {domain: unique tokens}, those that the user gave


def limits(
    swarm: Swarm,
    *,
    max_epochs: Bound = None,
    min_share: Bound = None,
    unique_tokens: Bound = None,
    token_budget: int | None = None,
) -> Bounds:
    """Return bounds on the shares, with the same parameters as an export.

    Unique tokens and a budget that are not given are taken from `swarm.like`. Raises UserError that lists every fault,
    such as a cap of a domain whose number of tokens is not known.
    """
    names = list(swarm.ratios.columns)
    check_bounds(names, max_epochs=max_epochs, min_share=min_share, unique_tokens=unique_tokens)
    counts, caps, least = by_name(unique_tokens, names), by_name(max_epochs, names), by_name(min_share, names)
    known = {domain.name: float(domain.unique_tokens) for domain in swarm.like.domains} if swarm.like else {}
    tokens = token_budget or (swarm.like.horizon.total_tokens if swarm.like else None)
    capped = {name: cap for name, cap in caps.items() if cap < math.inf}
    faults = [
        f"--max-epochs: the number of tokens of {name} is not known"
        for name in capped
        if name not in counts and name not in known
    ]
    faults += ["--max-epochs: no --token-budget"] if capped and tokens is None else []
    if faults:
        raise UserError(
            "\n".join(faults)
            + "\ngive --unique-tokens NAME=COUNT and --token-budget, or --like a mixture or run of the same text"
        )
    most = {
        name: min(1.0, cap * counts.get(name, known.get(name, 0.0)) / (tokens or 1)) for name, cap in capped.items()
    }
    lower, upper = np.array([least.get(name, 0.0) for name in names]), np.array([most.get(name, 1.0) for name in names])
    faults = (
        [f"--min-share: the least shares sum to {lower.sum():.4g}, more than 1"] if lower.sum() > 1 + INSIDE else []
    )
    faults += (
        [f"--max-epochs: the caps leave room for only {upper.sum():.4g} of {tokens_text(tokens or 0)} tokens"]
        if upper.sum() < 1
        else []
    )
    for name, low, high in zip(names, lower, upper, strict=True):
        faults += [f"{name}: its least share {low:.4g} is more than its cap allows, {high:.4g}"] if low > high else []
    if faults:
        raise UserError("\n".join(faults) + "\nrelax these bounds")
    return Bounds(lower, upper, tokens, max_epochs, min_share, counts)


def require_enough(swarm: Swarm) -> None:
    """Raise UserError if there are too few mixtures to fit a surrogate."""
    count, domains = len(distinct(swarm.ratios, swarm.metrics)[0]), len(swarm.ratios.columns)
    if count < (least := max(LEAST, domains + 2)):
        raise UserError(
            f"{count} different mixtures of {domains} domains: a surrogate needs at least {least} (two more than "
            f"domains, and no fewer than {LEAST}), better three per domain; add mixtures to the swarm, or give --force"
        )


def unsupported(surrogate: Surrogate) -> str:
    """Return, with numbers, why the surrogate cannot rank mixtures that it has not seen; empty if it can."""
    if surrogate.ranks:
        return ""
    low, high = surrogate.spearman_ci
    return (
        f"the best surrogate ({surrogate.model}) does not tell good mixtures from bad ones that it has not seen: "
        f"cross-validated rank correlation {surrogate.spearman:.2f}, 95 % {low:.2f} to {high:.2f} over "
        f"{surrogate.mixtures} mixtures (p {surrogate.p:.2g} by permutation, needed {CHANCE}), not distinguishable "
        "from 0, so its optimum means nothing; add mixtures that differ more, or train them longer or with more seeds, "
        "or give --force"
    )


def find_optimum(surrogate: Surrogate, swarm: Swarm, limits: Bounds) -> Optimum:
    """Find the optimum inside the limits; predict uniform, the mean and the best of the mixtures tried as well.

    Raises UserError if no combination of the mixtures tried keeps the limits.
    """
    ratios, metrics = distinct(swarm.ratios, swarm.metrics)
    tried, names = ratios.to_numpy(dtype=np.float64), list(ratios.columns)
    optimum = best_mixture(surrogate, ratios, lower=limits.lower, upper=limits.upper)
    shares = constrain(optimum[None], np.ones(1), caps=limits.upper, least=limits.lower)[0]  # corrects the last digits
    measured = metrics @ np.array([surrogate.importance.get(name, 0.0) for name in surrogate.metrics])
    best = int(measured.to_numpy().argmin())
    simple = {UNIFORM: np.full(len(names), 1 / len(names)), MEAN: tried.mean(axis=0), SEEN: tried[best]}
    inside = {name: violation(tried, lower=each, upper=each) <= INSIDE for name, each in simple.items()}
    predicted = surrogate.predict(np.array([shares, *simple.values()])).tolist()
    at_bound = ((limits.lower > 0) & (shares <= limits.lower + INSIDE)) | (
        (limits.upper < 1) & (shares >= limits.upper - INSIDE)
    )
    return Optimum(
        shares=dict(zip(names, shares.tolist(), strict=True)),
        objective=predicted[0],
        others={name: value if inside[name] else None for name, value in zip(simple, predicted[1:], strict=True)},
        seen=str(ratios.index[best]),
        measured=float(measured.iloc[best]),
        reach=reach(shares, tried),
        held=tuple(name for name, held in zip(names, at_bound, strict=True) if held),
    )


def as_mixture(optimum: Optimum, surrogate: Surrogate, swarm: Swarm, limits: Bounds) -> Mixture:
    """Return the optimum as a mixture over the text of `swarm.like`. Raises UserError if that has other domains."""
    assert swarm.like is not None
    names = list(matched_shares(optimum.shares, [domain.name for domain in swarm.like.domains], where="--like"))
    caps = by_name(limits.max_epochs, names)
    domains = [
        _domain(domain, cap=caps.get(domain.name, math.inf), count=limits.counts.get(domain.name))
        for domain in swarm.like.domains
    ]
    tokens = limits.tokens or swarm.like.horizon.total_tokens
    fixed = fixed_mixture(
        optimum.shares, tokenizer=swarm.like.tokenizer, domains=domains, total_tokens=tokens, method="fit"
    )
    weights = np.array([[optimum.shares[name] for name in names]])
    asked = constraint(
        weights, weights, [tokens], names=names, max_epochs=limits.max_epochs, min_share=limits.min_share
    )
    provenance = Provenance(
        tool="mixtures",
        tool_version=VERSION,
        method="fit",
        constraints=(asked,) if limits.max_epochs or limits.min_share else (),
        proxy={"fit": _record(optimum, surrogate)},
        inputs=tuple(Input(uri=f"{path.parent.name}/{path.name}", sha256=sha256_file(path)) for path in swarm.inputs),
    )
    content = fixed.model_dump(mode="json", exclude={"id"}) | {"provenance": provenance.model_dump(mode="json")}
    return Mixture.from_record(content, where="the fitted mixture")


def _domain(domain: Domain, *, cap: float, count: float | None) -> Domain:
    """Return the domain with `cap` instead of its own cap, and without sample weights.

    With `count`, it stands for other text of the same name with that many unique tokens.
    """
    held = (
        {"max_epochs": cap, "on_exhausted": "renormalize"}
        if cap < math.inf
        else {"max_epochs": None, "on_exhausted": "repeat"}
    )
    other = {"unique_documents": None, "held_out_documents": None, "complete": True, "fingerprint": None, "sources": ()}
    return domain.model_copy(
        update={**held, "sample_policy": None, **({"unique_tokens": int(count), **other} if count else {})}
    )


def _record(optimum: Optimum, surrogate: Surrogate) -> dict[str, Any]:
    """Return facts about the fit, for the mixture's provenance."""
    numbers: Mapping[str, float | Sequence[float] | None] = {
        "spearman": surrogate.spearman,
        "spearman_ci95": list(surrogate.spearman_ci),
        "p": surrogate.p,
        "r2": surrogate.r2,
        "rmse": surrogate.rmse,
        "predicted": optimum.objective,
        "measured_best": optimum.measured,
    }
    finite = {name: value for name, value in numbers.items() if np.isfinite(np.array(value, dtype=np.float64)).all()}
    return {"model": surrogate.model, "mixtures": surrogate.mixtures, "objective": surrogate.importance, **finite}
