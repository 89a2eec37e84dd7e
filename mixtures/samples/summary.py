"""Sample scores in a few numbers by domain: what their plots draw. One domain's table is in memory at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mixtures.samples.rule import SampleRule, rule_weights
from mixtures.samples.scores import Scores
from mixtures.schedule.manifest import effective_sample_size

QUANTILES = (0, 0.01, 0.25, 0.5, 0.75, 0.99, 1)
POINTS = 4_000  # documents drawn one by one, all domains together
LEAST = 5  # documents that a median stands for
HEAVY = 8  # highest value over the median, from which on a positive score is heavy-tailed
TEMPERATURES = np.linspace(-3, 3, 25)  # below 0: inverse, above: direct


@dataclass(frozen=True)
class DomainScores:
    """One domain's scores; `quantiles` {score: (7,)}, NaN where no document has a finite score.

    `trend` {score: (B, 2)}: median score of documents of like length over their length (tokens); `rho` {score:
    Spearman's rank correlation with length}, NaN where it has no value; `points`: some of the documents, all columns.
    """

    name: str
    documents: int
    quantiles: dict[str, np.ndarray]
    trend: dict[str, np.ndarray]
    rho: dict[str, float]
    points: pd.DataFrame


@dataclass(frozen=True)
class Summary:
    """All domains in the run's order; `names` {score: its name and those of the scores that hold the same values}."""

    domains: tuple[DomainScores, ...]
    names: dict[str, tuple[str, ...]]
    unit: str

    def quantiles(self, score: str) -> np.ndarray:
        """(D, 7) quantiles QUANTILES of a score."""
        return np.array([domain.quantiles[score] for domain in self.domains])

    def positive(self, score: str) -> bool:
        """Is a score never below 0, and 0 for less than one document in a hundred of every domain?"""
        values = self.quantiles(score)
        return bool(np.nanmin(values[:, 0], initial=np.inf) >= 0 and np.nanmin(values[:, 1], initial=np.inf) > 0)

    def heavy_tailed(self, score: str) -> bool:
        """Is a score positive, with a highest value far above the median?"""
        values = self.quantiles(score)
        values = values[np.isfinite(values[:, 0])]
        return self.positive(score) and len(values) > 0 and bool(values[:, 6].max() > HEAVY * np.median(values[:, 3]))

    def transforms(self, score: str) -> tuple[str, ...]:
        """What weights are made of: the score itself and, where it is heavy-tailed and never 0, its logarithm."""
        never_zero = np.nanmin(self.quantiles(score)[:, 0], initial=np.inf) > 0
        return ("none", "log") if never_zero and self.heavy_tailed(score) else ("none",)


def summarise(scores: Scores) -> Summary:
    """Quantiles, length trends and some points of every score of every domain. Scores of equal values appear once."""
    names, points = distinct_scores(scores), max(POINTS // len(scores.domains), 1)
    domains = (
        _summarise_domain(name, scores.frame(name, ["tokens", *names]), list(names), points=points)
        for name in scores.domains
    )
    return Summary(tuple(domains), names, scores.meta.unit)


def distinct_scores(scores: Scores) -> dict[str, tuple[str, ...]]:
    """{score: its name and those of the same values}: `{"nll_mean": ("nll_mean", "information_v1")}`; the others are no
    keys.
    """
    hashes = {score: hashlib.sha256() for score in scores.columns}
    for name in scores.domains:
        frame = scores.frame(name, scores.columns)
        for score, content in hashes.items():
            content.update(frame[score].to_numpy().tobytes())
    names: dict[str, list[str]] = {}
    for score, content in hashes.items():
        names.setdefault(content.hexdigest(), []).append(score)
    return {same[0]: tuple(same) for same in names.values()}


def _summarise_domain(name: str, frame: pd.DataFrame, columns: Sequence[str], *, points: int) -> DomainScores:
    tokens = frame["tokens"].to_numpy()
    values = {score: frame[score].to_numpy(dtype=np.float64) for score in columns}
    finite = {score: np.isfinite(each) for score, each in values.items()}
    drawn = (
        frame.iloc[np.sort(np.random.default_rng(0).choice(len(frame), points, replace=False))]
        if len(frame) > points
        else frame
    )
    return DomainScores(
        name=name,
        documents=len(frame),
        quantiles={score: quantiles(values[score][finite[score]]) for score in columns},
        trend={score: length_trend(tokens[finite[score]], values[score][finite[score]]) for score in columns},
        rho={score: rank_correlation(tokens[finite[score]], values[score][finite[score]]) for score in columns},
        points=drawn[["tokens", *columns]].copy(),
    )


def quantiles(values: np.ndarray) -> np.ndarray:
    """(7,) QUANTILES of finite `values` (S,); NaN where there are none."""
    return np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's rho of two arrays (S,); NaN for fewer than 3 values and where one of them is constant."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def length_trend(tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(B, 2) mean length (tokens, geometric) and median of `values` (S,) for every octave of length, short ones first.

    Octaves with fewer than LEAST documents are left out, as long as another has more.
    """
    if not len(tokens):
        return np.empty((0, 2))
    table = pd.DataFrame({"octave": np.floor(np.log2(tokens)), "length": np.log(tokens), "value": values}).groupby(
        "octave"
    )
    sizes = table.size()
    means = pd.DataFrame({"length": np.exp(table["length"].mean()), "value": table["value"].median()})
    return means[sizes >= min(LEAST, sizes.max())].to_numpy()


def sample_sizes(scores: Scores, panels: Sequence[tuple[str, str]]) -> dict[tuple[str, str], np.ndarray]:
    """{(score, transform): (D, K) effective sample size of softmax weights at TEMPERATURES, as a fraction of the
    tokens}.

    NaN for a domain without a finite score.
    """
    sizes = {panel: np.full((len(scores.domains), len(TEMPERATURES)), np.nan) for panel in panels}
    for row, name in enumerate(scores.domains):
        frame = scores.frame(name, ["domain", "document", "tokens", *dict(panels)])
        for score, transform in panels:
            known = frame[np.isfinite(frame[score])]
            if len(known):
                sizes[score, transform][row] = [_sample_size(known, score, transform, each) for each in TEMPERATURES]
    return sizes


def _sample_size(frame: pd.DataFrame, score: str, transform: str, temperature: float) -> float:
    """Of one domain; at temperature 0 all weights are 1."""
    if temperature == 0:
        return 1.0
    direction = "direct" if temperature > 0 else "inverse"
    rule = SampleRule(
        rule="softmax", score=score, direction=direction, temperature=abs(temperature), transform=transform
    )
    return float(effective_sample_size(rule_weights(rule, frame), frame["tokens"].to_numpy()))
