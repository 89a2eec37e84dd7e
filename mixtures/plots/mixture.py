"""Figures of a mixture: the shares of its stages, and how much of every domain its sample weights leave."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixtures.plots.looks import PALETTE
from mixtures.plots.scores import draw_quantiles, quantile_handles
from mixtures.plots.shares import bars_figure, mixture_panels, schedule_figure, whiskers_figure
from mixtures.plots.style import MOST_BARS, PERCENT, STYLE, save_figures
from mixtures.run.run import natural_shares
from mixtures.samples.summary import quantiles
from mixtures.schedule.manifest import Manifest, effective_sample_size, open_manifest
from mixtures.schedule.mixture import Mixture
from mixtures.text import shorten, tokens_text

MOST_PANELS = 5


def mixture_figures(mixture: Mixture) -> dict[str, Figure]:
    """Draw the figures of a mixture: `mixture`, and `samples` if a domain has a sample policy.

    Raises UserError for a manifest that is missing, damaged, or not the one that the mixture names.
    """
    opened = [open_manifest(domain, mixture.directory) for domain in mixture.domains]
    manifests = [manifest for manifest in opened if manifest is not None]
    with matplotlib.rc_context(STYLE):
        figures = {"mixture": shares_figure(mixture)}
        return figures | ({"samples": samples_figure(manifests)} if manifests else {})


def plot_mixture(mixture: Mixture, directory: str | Path) -> list[Path]:
    """Write mixture.png, and samples.png if a domain has a sample policy, into `directory`; return the paths."""
    return save_figures(mixture_figures(mixture), directory)


def samples_figure(manifests: list[Manifest]) -> Figure:
    """Draw one row per domain: effective sample size, tokens that are read at all, and quantiles of the weights."""
    weighted = [text_weights(manifest) for manifest in manifests]
    sizes = np.array([effective_sample_size(weights, tokens) for weights, tokens in weighted])
    read = np.array([tokens[weights > 0].sum() / tokens.sum() for weights, tokens in weighted])
    order = np.argsort(sizes, kind="stable")[:MOST_BARS]
    figure = Figure(figsize=(7.6, 1.4 + 0.2 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_sizes(left, sizes[order], read[order])
    draw_quantiles(right, np.array([quantiles(manifests[number].weight) for number in order]))
    right.set_xlim(left=min(0.0, right.get_xlim()[0]))
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.set_xlabel("weight of a listed document")
    left.set_yticks(range(len(order)), [shorten(manifests[number].domain) for number in order], fontsize=8)
    left.set_ylim(len(order) - 0.4, -0.6)
    left_out = len(manifests) - len(order)
    notes = [
        rule_text(manifests[0]),
        f"{left_out} domains of larger effective sample size are left out" if left_out else "",
    ]
    left.set_title("; ".join(filter(None, notes)), fontsize=8, loc="left")
    handles = [*left.get_legend_handles_labels()[0][::-1], *quantile_handles("one document")]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def _draw_sizes(axes: Axes, sizes: np.ndarray, read: np.ndarray) -> None:
    """Draw the sizes as bars, with numbers at the right edge, and a mark at the share of the tokens that is read."""
    places = np.arange(len(sizes))
    axes.barh(places, sizes, height=0.72, color=PALETTE[5], label="effective sample size")
    axes.plot(
        read, places, "D", color="black", markersize=3.2, linestyle="", label="tokens that are read", clip_on=False
    )
    edge: dict[str, Any] = {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 7}
    for place, size in zip(places, sizes, strict=True):
        axes.annotate(f"{size:.1%}", (1, place), xytext=(31, 0), ha="right", va="center", **edge)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("share of the domain's tokens")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)


def rule_text(manifest: Manifest) -> str:
    """Return a manifest's rule as text, such as `rule softmax, score nll_mean, cap 4`; empty if it has none."""
    settings = manifest.facts.get("rule", {})
    names = [name for name in dict.fromkeys(["rule", "score", *settings]) if name in settings]
    return ", ".join(
        f"{name} {settings[name]:g}" if isinstance(settings[name], float) else f"{name} {settings[name]}"
        for name in names
    )


def text_weights(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """Return (weights, tokens) of a whole domain: one entry per listed document, and one for all tokens not listed.

    Tokens that no listed document covers have weight 1.
    """
    rest = manifest.domain_tokens - int(manifest.tokens.sum())
    if rest == 0:
        return manifest.weight, manifest.tokens
    return np.append(manifest.weight, 1.0), np.append(manifest.tokens, rest)


def shares_figure(mixture: Mixture) -> Figure:
    """Draw the shares of a mixture: with intervals if it has them, and as lines over the tokens if it has many stages.

    Otherwise they are drawn as bars.
    """
    names = [domain.name for domain in mixture.domains]
    natural = natural_shares([domain.unique_tokens for domain in mixture.domains])
    shares = np.array([[stage.weights[name] for name in names] for stage in mixture.stages])
    titles = [f"{stage.name}, from {tokens_text(stage.start_tokens)} tokens" for stage in mixture.stages]
    titles = titles if len(shares) > 1 else [f"{tokens_text(mixture.horizon.total_tokens)} tokens"]
    if len(shares) <= MOST_PANELS and (panels := mixture_panels(mixture, titles)):
        record = mixture.provenance.uncertainty
        prior = np.array([record.prior[name] if record else 1 / len(names) for name in names])
        return whiskers_figure(panels, names, prior=prior, natural=natural)
    if len(shares) > MOST_PANELS:
        return schedule_figure(shares, names, mixture)
    return bars_figure(shares, names, natural=natural, titles=titles)
