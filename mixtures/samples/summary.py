"""Sample scores in a few numbers per domain, for plots, tables and lists. One domain's table is in memory at a time."""

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
LEAST = 5  # fewest documents of a median
HEAVY = 8  # a positive score is heavy-tailed where its highest value is more than this times the median
ENDS = 5  # documents kept at each end of a score
TRANSFORMS = ("none", "log")  # softmax weights are made of the score itself, or of its logarithm
TEMPERATURES = np.linspace(-3, 3, 25)  # below 0: inverse, above: direct


@dataclass(frozen=True)
class DomainScores:
    """One domain's scores in a few numbers.

    quantiles  {score: (7,)}, at QUANTILES; NaN where no document has a finite score
    trend      {score: (B, 2)}: mean length (tokens) of documents of similar length, and their median score
    rho        {score: Spearman's rank correlation with length}, NaN where it has no value
    points     some of the documents, all columns
    ends       {score: its lowest and highest documents (document, row, start, tokens, score), lowest first}
    sizes      {(score, transform): (K,)} effective sample size of softmax weights at TEMPERATURES, as a fraction of the
               tokens
    """

    name: str
    documents: int
    quantiles: dict[str, np.ndarray]
    trend: dict[str, np.ndarray]
    rho: dict[str, float]
    points: pd.DataFrame
    ends: dict[str, pd.DataFrame]
    sizes: dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Summary:
    """The summaries of all domains in the run's order.

    names: {score: its name and the names of the other scores with the same values}. unit: `document` or `row`.
    """

    domains: tuple[DomainScores, ...]
    names: dict[str, tuple[str, ...]]
    unit: str

    def quantiles(self, score: str) -> np.ndarray:
        """Return the quantiles (D, 7) of a score, at QUANTILES."""
        return np.array([domain.quantiles[score] for domain in self.domains])

    def sizes(self, score: str, transform: str) -> np.ndarray:
        """Return effective sample sizes (D, K) of softmax weights at TEMPERATURES; NaN where no score is finite."""
        nothing = np.full(len(TEMPERATURES), np.nan)
        return np.array([domain.sizes.get((score, transform), nothing) for domain in self.domains])

    def positive(self, score: str) -> bool:
        """Say whether a score is never below 0, and is 0 for less than one document in a hundred of every domain."""
        values = self.quantiles(score)
        return bool(np.nanmin(values[:, 0], initial=np.inf) >= 0 and np.nanmin(values[:, 1], initial=np.inf) > 0)

    def heavy_tailed(self, score: str) -> bool:
        """Say whether a score is positive, with a highest value far above the median."""
        values = self.quantiles(score)
        values = values[np.isfinite(values[:, 0])]
        return self.positive(score) and len(values) > 0 and bool(values[:, 6].max() > HEAVY * np.median(values[:, 3]))

    def transforms(self, score: str) -> tuple[str, ...]:
        """Return the transforms that make sense for a score: none and, where it is heavy-tailed and never 0, log."""
        never_zero = np.nanmin(self.quantiles(score)[:, 0], initial=np.inf) > 0
        return ("none", "log") if never_zero and self.heavy_tailed(score) else ("none",)


def summarise(scores: Scores, *, sizes: bool = False) -> Summary:
    """Read every score of every domain once, and return what plots, tables and lists of documents need of them.

    Scores of equal values appear once. sizes: also compute the effective sample sizes of softmax weights, which takes
    the most time. Raises UserError for damaged scores.
    """
    points = max(POINTS // len(scores.domains), 1)
    hashes = {score: hashlib.sha256() for score in scores.columns}
    domains = []
    for name in scores.domains:
        frame = scores.frame(name)
        for score, content in hashes.items():
            content.update(frame[score].to_numpy().tobytes())
        domains.append(_summarise_domain(name, frame, scores.columns, points=points, sizes=sizes))
    names: dict[str, list[str]] = {}
    for score, content in hashes.items():
        names.setdefault(content.hexdigest(), []).append(score)
    return Summary(tuple(domains), {same[0]: tuple(same) for same in names.values()}, scores.meta.unit)


def _summarise_domain(
    name: str, frame: pd.DataFrame, columns: Sequence[str], *, points: int, sizes: bool
) -> DomainScores:
    """Return the summary of one domain's table; `points`: number of documents to draw for plots."""
    tokens = frame["tokens"].to_numpy()
    values = {score: frame[score].to_numpy(dtype=np.float64) for score in columns}
    finite = {score: np.isfinite(column) for score, column in values.items()}
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
        ends={score: _ends(frame, score) for score in columns},
        sizes=_sample_sizes(frame, columns) if sizes else {},
    )


def ranking(values: np.ndarray) -> np.ndarray:
    """Return the places of the finite values, lowest first; of equal values the later place comes first.

    Read from the other end, the earlier of equal values then comes first.
    """
    places = np.flatnonzero(np.isfinite(values))[::-1]
    return places[np.argsort(values[places], kind="stable")]


def _ends(frame: pd.DataFrame, score: str) -> pd.DataFrame:
    """Return the ENDS lowest and the ENDS highest documents of a score, lowest first; all if there are no more."""
    order = ranking(frame[score].to_numpy(dtype=np.float64))
    kept = order if len(order) <= 2 * ENDS else np.concatenate([order[:ENDS], order[-ENDS:]])
    return frame.iloc[kept][["document", "row", "start", "tokens", score]].copy()


def quantiles(values: np.ndarray) -> np.ndarray:
    """Return the QUANTILES (7,) of finite `values` (S,); NaN where there are none."""
    return np.quantile(values, QUANTILES) if len(values) else np.full(len(QUANTILES), np.nan)


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rho of two arrays (S,); NaN for fewer than 3 values and where one array is constant."""
    if len(first) < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def length_trend(tokens: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return (B, 2): mean length (tokens, geometric) and median of `values` (S,) per octave of length, ascending.

    Octaves with fewer than LEAST documents are left out, as long as another octave has more.
    """
    if not len(tokens):
        return np.empty((0, 2))
    table = pd.DataFrame({"octave": np.floor(np.log2(tokens)), "length": np.log(tokens), "value": values}).groupby(
        "octave"
    )
    sizes = table.size()
    means = pd.DataFrame({"length": np.exp(table["length"].mean()), "value": table["value"].median()})
    return means[sizes >= min(LEAST, sizes.max())].to_numpy()


def _sample_sizes(frame: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """Return {(score, transform): (K,)}, effective sample sizes of one domain's softmax weights at TEMPERATURES.

    A domain without a finite score has no entry, nor has the logarithm of a score that is not positive.
    """
    sizes = {}
    for score in columns:
        known = frame[np.isfinite(frame[score])]
        for transform in TRANSFORMS:
            if len(known) and (transform == "none" or (known[score] > 0).all()):
                sizes[score, transform] = np.array(
                    [_sample_size(known, score, transform, each) for each in TEMPERATURES]
                )
    return sizes


def _sample_size(frame: pd.DataFrame, score: str, transform: str, temperature: float) -> float:
    """Return the effective sample size of one domain's softmax weights; 1 at temperature 0, where all weights are 1."""
    if temperature == 0:
        return 1.0
    direction = "direct" if temperature > 0 else "inverse"
    rule = SampleRule(
        rule="softmax", score=score, direction=direction, temperature=abs(temperature), transform=transform
    )
    return float(effective_sample_size(rule_weights(rule, frame), frame["tokens"].to_numpy()))
