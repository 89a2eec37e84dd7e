"""samples.png of a mixture with sample policies: what the weights leave of every domain, and how far they go apart."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mixtures.lines import PALETTE
from mixtures.manifest import Manifest, open_manifest
from mixtures.mixture import Mixture
from mixtures.plots import MOST_BARS, PERCENT, STYLE, save_png
from mixtures.sample_weights import effective_sample_size
from mixtures.score_plots import draw_quantiles, quantile_handles
from mixtures.score_summary import QUANTILES
from mixtures.show import shorten


def plot_samples(path: str | Path, directory: str | Path) -> list[Path]:
    """Write samples.png of a mixture file into `directory`; the paths written, none where no domain has a sample policy.

    Raises UserError for a manifest that is missing, damaged or another one.
    """
    mixture = Mixture.load(path)
    opened = [open_manifest(domain, mixture.directory) for domain in mixture.domains]
    manifests = [manifest for manifest in opened if manifest is not None]
    if not manifests:
        return []
    with matplotlib.rc_context(STYLE):
        return [save_png(samples_figure(manifests), Path(directory) / "samples.png")]


def samples_figure(manifests: list[Manifest]) -> Figure:
    """Effective sample size and the tokens that are read at all, then quantiles of the documents' weights; a row a domain."""
    weighted = [text_weights(manifest) for manifest in manifests]
    sizes = np.array([effective_sample_size(weights, tokens) for weights, tokens in weighted])
    order = np.argsort(sizes, kind="stable")[:MOST_BARS]
    read = np.array([tokens[weights > 0].sum() / tokens.sum() for weights, tokens in weighted])
    quantiles = np.array([np.quantile(manifest.weight, QUANTILES) if len(manifest.weight) else np.full(7, np.nan) for manifest in manifests])
    places = np.arange(len(order))
    figure = Figure(figsize=(7.6, 1.4 + 0.2 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.barh(places, sizes[order], height=0.72, color=PALETTE[5], label="effective sample size")
    left.plot(read[order], places, "D", color="black", markersize=3.2, linestyle="", label="tokens that are read", clip_on=False)
    for place, size in zip(places, sizes[order], strict=True):
        edge = {"xycoords": left.get_yaxis_transform(), "textcoords": "offset points", "fontsize": 7}
        left.annotate(f"{size:.1%}", (1, place), xytext=(31, 0), ha="right", va="center", **edge)  # type: ignore[arg-type]
    left.set_xlim(0, 1)
    left.xaxis.set_major_formatter(PERCENT)
    left.grid(False, axis="y")
    left.tick_params(axis="y", length=0)
    left.set_xlabel("share of the domain's tokens")
    draw_quantiles(right, quantiles[order])
    right.set_xlim(left=min(0.0, right.get_xlim()[0]))
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.set_xlabel("weight of a listed document")
    left.set_yticks(places, [shorten(manifests[number].domain) for number in order], fontsize=8)
    left.set_ylim(len(order) - 0.4, -0.6)
    handles = [*left.get_legend_handles_labels()[0][::-1], *quantile_handles("one document")]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    if len(manifests) > len(order):
        figure.suptitle(f"the {len(order)} domains of the smallest effective sample size, of {len(manifests)}", fontsize=9)
    return figure


def text_weights(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    """(weights, tokens) of the whole domain: every listed document, and what no document covers, once."""
    rest = manifest.domain_tokens - int(manifest.tokens.sum())
    if rest == 0:
        return manifest.weight, manifest.tokens
    return np.append(manifest.weight, 1.0), np.append(manifest.tokens, rest)
