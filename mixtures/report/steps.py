"""The sections on the steps of a run: weights, losses, and which domain's steps help which other domains."""

import numpy as np

from mixtures.diagnosis.matrix import HelpMatrix, Pair
from mixtures.plots.looks import Look, choose_looks, smoothing_window
from mixtures.report.evidence import NAMED, Evidence, held_out, percent_share
from mixtures.report.heat import heat_map
from mixtures.report.html import Html, bullets, data_table, element, join, number
from mixtures.report.shares import tick_share
from mixtures.report.svg import Line, figure, line_chart
from mixtures.run.average import running_mean
from mixtures.run.run import RunRecord
from mixtures.text import counted

CELLS = 80  # most domains, and most other groups, that the heat map shows


def weights_part(run: RunRecord) -> Html:
    """Return the chart of a run's weights over its steps."""
    trajectory = run.trajectory
    window = smoothing_window(len(trajectory.steps))
    smooth = running_mean(trajectory.weights, window=window)
    looks = choose_looks(trajectory.weights)
    lines = [
        Line(name, trajectory.steps, smooth[:, c], look)
        for c, (name, look) in enumerate(zip(trajectory.domains, looks, strict=True))
    ]
    uniform = 1 / len(lines)
    ends = [
        f"{name} {percent_share(share)}" for share, name in sorted(zip(smooth[-1], trajectory.domains, strict=True))
    ]
    label = f"Weights over {len(trajectory.steps)} steps; at the end most {ends[-1]}, least {ends[0]}"
    limits = (0.0, max(1.05 * float(smooth.max()), 1.3 * uniform))
    chart = line_chart(
        lines,
        label=label,
        x_label="step",
        x_format=_plain_count,
        y_format=tick_share,
        reference=(uniform, "uniform"),
        limits=limits,
    )
    return figure(chart, f"Share of trained tokens{_mean_of(window)}.{_grey_note(looks)}", label="Weights over steps")


def losses_part(found: Evidence) -> Html:
    """Return the chart and the table of training and held-out losses."""
    run, trajectory = found.run, found.run.trajectory
    names = [domain.name for domain in run.corpus.domains]
    looks = [*choose_looks(trajectory.weights), *[Look("#000000", ":", True)] * (len(names) - len(trajectory.domains))]
    window = smoothing_window(len(trajectory.steps))
    smooth = dict(zip(trajectory.groups, running_mean(trajectory.losses, window=window).T, strict=True))
    lines = []
    for name, look in zip(names, looks, strict=True):
        points = found.run.evaluation[found.run.evaluation["domain"] == name][["step", "loss"]].to_numpy(
            dtype=np.float64
        )
        if name in smooth:
            lines.append(Line(name, trajectory.steps, smooth[name], look, points))
        elif len(points):  # a target that the objective leaves out is only evaluated
            lines.append(Line(name, points[:, 0], points[:, 1], look, points))
    chart = line_chart(
        lines,
        label="Loss of every domain over steps",
        x_label="step",
        x_format=_plain_count,
        y_format=lambda loss: f"{loss:g}",
    )
    caption = f"Nats per token: lines are training loss{_mean_of(window)}, circles held-out loss.{_grey_note(looks)}"
    return join([figure(chart, caption, label="Losses over steps"), _loss_table(found, names)])


def _loss_table(found: Evidence, names: list[str]) -> Html:
    trajectory = found.run.trajectory
    start, end = held_out(found.run.evaluation, "min"), held_out(found.run.evaluation, "max")
    bits = held_out(found.run.evaluation, "max", "bits_per_byte")
    trained = dict(zip(trajectory.groups, trajectory.losses[-1], strict=True))
    columns = [start, end, {name: end[name] - start[name] for name in end}, bits, trained]
    roles = ["domain" if name in trajectory.domains else "target" for name in names]
    rows = [
        [name, role, *(number(values.get(name)) for values in columns)] for name, role in zip(names, roles, strict=True)
    ]
    header = ["domain", "role", "held out, first", "held out, last", "change", "bits per byte", "training, last step"]
    return data_table(header, rows, caption="Losses of the proxy, nats per token")


def matrix_part(found: HelpMatrix | None) -> Html:
    """Return the heat map of cosines and its clearest pairs; a sentence if the run recorded no gradient products."""
    if found is None:
        return element(
            "p", "This rule takes no gradients by domain, so it is not known which domain helps which other."
        )
    groups = len(found.columns)
    kept, extra = list(found.order[:CELLS]), list(range(len(found.rows), groups))[:CELLS]
    places = kept + extra
    rows, columns = [found.rows[r] for r in kept], [found.columns[c] for c in places]
    values = found.cosines[np.ix_(kept, places)]

    def hint(r: int, c: int) -> str:
        if rows[r] == columns[c]:
            return ""
        value, noise = values[r, c], found.noise[kept[r], places[c]]
        shown = f"{value:.3f}" if np.isfinite(value) else "not measured"
        return f"{rows[r]} helps {columns[c]}: {shown}" + (
            f" (standard error {noise:.3f})" if np.isfinite(noise) else ""
        )

    label = f"Cosines between the gradients of {len(rows)} domains and {len(columns)} groups. " + " ".join(
        _pair_sentences(found)
    )
    chart = heat_map(values, rows, columns, label=label, hints=hint)
    caption = (
        "Cosines of the gradients, mean over the run: a step on the row's domain helps (above 0) or hurts "
        "(below) the column's."
    )
    if len(rows) < len(found.rows):
        caption += f" {len(rows)} of {len(found.rows)} domains are drawn."
    if not found.unbiased:
        caption += " No self products were measured: the cosines are too near 0."
    if found.unmeasured:
        caption += f" Gradients lost in noise: {', '.join(found.unmeasured)}."
    return join([bullets(_pair_sentences(found)), figure(chart, caption, label="Who helps whom")])


def _pair_sentences(found: HelpMatrix) -> list[str]:
    kinds = [("Most alike, perhaps redundant", found.redundant), ("Opposed, in conflict", found.conflicting)]
    return [
        f"{words}: {', '.join(map(_pair, pairs[:NAMED]))}."
        if pairs
        else f"{words}: no pair that noise does not explain."
        for words, pairs in kinds
    ]


def _pair(pair: Pair) -> str:
    return f"{pair.first} and {pair.second} {pair.cosine:.2f} (95 % {pair.low:.2f} to {pair.high:.2f})"


def _plain_count(number: float) -> str:
    return f"{number:,.0f}"


def _mean_of(window: int) -> str:
    return f" (running mean over {window} steps)" if window > 1 else ""


def _grey_note(looks: list[Look]) -> str:
    rest = sum(not look.named for look in looks)
    return f" Grey: {counted(rest, 'other domain')}; those that move most have a name." if rest else ""
