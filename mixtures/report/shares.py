"""The section on the mixture of a run: shares with their intervals beside the prior, as chart and table."""

import numpy as np

from mixtures.report.evidence import Evidence, percent_share
from mixtures.report.html import Cell, Html, data_table, join, number
from mixtures.report.svg import Whisker, figure, whisker_chart
from mixtures.schedule.mixture import learned_weights
from mixtures.schedule.records import Stage
from mixtures.text import counted, epochs_text, tokens_text

PANELS = 4  # up to this number of stages, every stage has its own chart


def mixture_part(found: Evidence) -> Html:
    """Return the charts and the table of a run's mixture."""
    stages, prior = found.mixture.stages, found.prior
    note = "Dot: share of trained tokens. Upright tick: the prior, what the run would propose without evidence."
    if any(stage.weights_ci95 for stage in stages):
        note += " Whiskers: 95 % intervals of the learned weights" + (
            ", before bounds moved some." if learned_weights(found.mixture) else "."
        )
    if len(stages) <= PANELS:
        titles = [f"{stage.name}, from {tokens_text(stage.start_tokens)} tokens" for stage in stages]
        charts = [
            _stage(stage, prior, title if len(stages) > 1 else "Mixture")
            for stage, title in zip(stages, titles, strict=True)
        ]
    else:
        average = Stage(name="average", start_tokens=0, weights=found.mixture.average_weights())
        charts = [_stage(average, prior, f"Mean of {len(stages)} stages")]
    return join([*(figure(chart, f"{title}. {note}", label=title) for title, chart in charts), _shares(found)])


def _stage(stage: Stage, prior: dict[str, float], title: str) -> tuple[str, Html]:
    rows = []
    for name in sorted(stage.weights, key=lambda name: -stage.weights[name]):
        low, high = (stage.weights_ci95 or {}).get(name, (np.nan, np.nan))
        text = percent_share(stage.weights[name]) + (
            f" ({percent_share(low)} to {percent_share(high)})" if np.isfinite(low) else ""
        )
        rows.append(Whisker(name, stage.weights[name], low, high, text, mark=prior.get(name)))
    label = (
        f"{title}: largest {rows[0].name} {rows[0].text}, smallest {rows[-1].name} {rows[-1].text}, "
        f"{counted(len(rows), 'domain')}"
    )
    return title, whisker_chart(rows, label=label, x_label="share of trained tokens", x_format=tick_share, line=0.0)


def _shares(found: Evidence) -> Html:
    """Return the mixture as a table, most tokens first."""
    mixture, prior, shares = found.mixture, found.prior, found.mixture.average_weights()
    columns: dict[str, dict[str, Cell]] = {"share": {name: number(share) for name, share in shares.items()}}
    if found.intervals:
        columns["95 % interval"] = {
            name: (f"{low:.4f} to {high:.4f}", high - low) for name, (low, high) in found.intervals.items()
        }
    columns["prior"] = {name: number(share) for name, share in prior.items()}
    columns["times prior"] = {name: number(shares[name] / prior[name], ".2f") for name in shares.keys() & prior.keys()}
    if learned_weights(mixture):
        columns["learned"] = {name: number(share) for name, share in found.learned.items()}
    if len(mixture.stages) > 1:
        columns |= {
            stage.name: {name: number(share) for name, share in stage.weights.items()} for stage in mixture.stages
        }
    expected = mixture.compute_expected()
    columns["tokens"] = {row.domain: (tokens_text(row.tokens), row.tokens) for row in expected}
    columns["epochs"] = {row.domain: (epochs_text(row.epochs), row.epochs) for row in expected}
    columns["tokens there are"] = {
        domain.name: (tokens_text(domain.unique_tokens), domain.unique_tokens) for domain in mixture.domains
    }
    names = sorted(shares, key=lambda name: -shares[name])
    rows = [[name, *(column.get(name, number(None)) for column in columns.values())] for name in names]
    return data_table(
        ["domain", *columns], rows, caption=f"The mixture over {tokens_text(mixture.horizon.total_tokens)} tokens"
    )


def tick_share(share: float) -> str:
    """Return a share as the text of an axis tick, such as `20 %`."""
    return f"{100 * share:g} %"
