"""The sections of the page about a comparison: verdict, charts, tables, cost and provenance."""

from pathlib import Path

import numpy as np

from mixtures.compare.cells import (
    decimals,
    difference_cells,
    interval,
    loss_cells,
    percent,
    ranked,
    reference_cells,
    references,
    signed,
)
from mixtures.compare.comparison import SETTLED, Comparison, curve_table, late
from mixtures.compare.directory import ComparisonRecord, read_comparison
from mixtures.compare.statistics import Difference
from mixtures.compare.text import COSTS, notes, verdict, verdicts
from mixtures.files import read_json
from mixtures.plots.looks import choose_mixture_looks
from mixtures.report.facts import duration, environment_facts, fold_settings, replay_section, sources_table
from mixtures.report.heat import heat_map
from mixtures.report.html import (
    Cell,
    Html,
    bullets,
    data_table,
    element,
    facts_table,
    join,
    number,
    paragraphs,
    parse_number,
)
from mixtures.report.page import Section
from mixtures.report.svg import Line, Whisker, figure, line_chart, whisker_chart
from mixtures.text import capital, counted, tokens_text


def comparison_sections(record: ComparisonRecord) -> list[Section]:
    """Return the sections about a comparison, its verdict first."""
    comparison = record.comparison
    sentences = [*verdicts(comparison), *_unfinished(record)]
    return [
        Section("verdict", "Verdict", join([paragraphs([f"{capital(sentences[0])}."]), bullets(sentences[1:])])),
        Section("differences", "Differences", _differences(comparison)),
        Section("curves", "Over training", _curves(comparison)),
        Section("domains", "By domain", _domains(comparison)),
        Section("shares", "Mixtures", _shares(comparison)),
        Section(
            "losses",
            "Losses",
            _table(*loss_cells(comparison), caption="Held-out losses, nats per token, means over seeds"),
        ),
        Section("method", "How to read this", bullets(notes(comparison))),
        Section("cost", "Cost", _cost(record)),
        Section("provenance", "Provenance", _provenance(record)),
        replay_section(record.path, record.config.get("environment", {}), module="proxies.compare"),
    ]


def learned_runs(record: ComparisonRecord) -> dict[str, list[Path]]:
    """Return {mixture: run directories} of the finished proxy runs that the comparison made."""
    places = {name: record.path / "learned" / name for name in record.config["mixtures"]}
    found = {name: [path, *sorted(path.glob("seed-*"))] for name, path in places.items()}
    return {name: [path for path in paths if (path / "mixture.json").is_file()] for name, paths in found.items()}


def verdict_on(run_dir: Path) -> str | None:
    """Return the verdict on a run's mixture by the comparison that learned it.

    The result is None if the run belongs to no comparison, or no base model was trained on the mixture yet.
    """
    path = run_dir.resolve()
    path = path.parent if path.name.startswith("seed-") else path
    name, place = path.name, path.parent.parent
    if path.parent.name != "learned" or not any(place.glob(f"bases/{name}/seed-*.json")):
        return None
    return f"{told_by(read_comparison(place).comparison, name)} The whole comparison: `mixtures report {place}`."


def told_by(comparison: Comparison, name: str) -> str:
    """Return a comparison's verdict on a mixture, and the objective that it was judged by.

    The mixture may have been learned for another objective.
    """
    goals = list(comparison.importance)
    judged = ", ".join(goals) if len(goals) <= 3 else f"{len(goals)} domains"
    return f"Judged by the held-out loss of {judged}: {verdict(comparison.outcome(name), comparison)}"


def _unfinished(record: ComparisonRecord) -> list[str]:
    runs = ", ".join(f"{name} seed {seed}" for name, seed in record.missing)
    return (
        [f"{counted(len(record.missing), 'base run')} not finished: {runs}. The command below does what is missing."]
        if runs
        else []
    )


def _table(header: list[str], rows: list[list[str]], *, caption: str) -> Html:
    """Return a table of the text summary as HTML; its numbers sort as numbers."""
    return data_table(header, [[row[0], *map(parse_number, row[1:])] for row in rows], caption=caption)


def _differences(comparison: Comparison) -> Html:
    rows = []
    for outcome in ranked(comparison):
        if (difference := outcome.difference) is not None:
            text = f"{signed(difference.value, decimals(difference))}" + (
                f" ({interval(difference, decimals(difference))})" if difference.known else ""
            )
            rows.append(
                Whisker(outcome.name, difference.value, difference.low, difference.high, text, kind=_kind(difference))
            )
    table = _table(*difference_cells(comparison), caption=f"Differences to {comparison.baseline}. {COSTS}")
    for name in references(comparison):
        table = Html(table + _table(*reference_cells(comparison, name), caption=f"Differences to {name}."))
    if not rows:
        return table
    caption = (
        f"Loss over the objective minus that of {comparison.baseline}, nats per token, with 95 % intervals; "
        f"left of the line is better."
    )
    label = f"Differences to {comparison.baseline}: " + "; ".join(f"{row.name} {row.text}" for row in rows)
    chart = whisker_chart(rows, label=label, x_label="nats per token", x_format=lambda gap: f"{gap:+g}", line=0.0)
    return join([figure(chart, caption, label="Differences"), table])


def _kind(difference: Difference) -> str:
    return "good" if difference.better else "bad" if difference.worse else "unclear"


def _curves(comparison: Comparison) -> Html:
    """Draw the mean loss over seeds minus that of the baseline, in the later part of training."""
    tokens, losses = curve_table(comparison)
    means = losses.mean(axis=1)  # NaN after a seed diverged
    gaps, shown = means - means[0], late(tokens, SETTLED)
    looks = choose_mixture_looks(len(gaps))
    lines = [
        Line(o.name, tokens, gap, look)
        for o, gap, look in zip(comparison.outcomes, gaps, looks, strict=True)
        if np.isfinite(gap).any()
    ]
    heights = gaps[:, shown][np.isfinite(gaps[:, shown])]
    if not lines or not len(heights):
        return element("p", "No mixture has every seed to the end.")
    room = 0.06 * float(np.ptp(heights)) or 1e-3
    chart = line_chart(
        lines,
        label=f"Difference to {comparison.baseline} over tokens",
        x_label="trained tokens",
        x_format=tokens_text,
        y_format=lambda gap: f"{gap:+.3g}" if gap else "0",
        limits=(float(heights.min()) - room, float(heights.max()) + room),
    )
    caption = (
        f"Loss over the objective minus that of {comparison.baseline} (nats per token), mean over seeds; early "
        f"values may lie outside the chart."
    )
    return figure(chart, caption, label="Differences over training")


def _domains(comparison: Comparison) -> Html:
    outcomes = comparison.compared
    if not outcomes:
        return element("p", "No mixture could be compared.")
    names = sorted(comparison.rows, key=lambda name: -np.mean([outcome.by_domain[name].value for outcome in outcomes]))
    values = np.array([[outcome.by_domain[name].value for outcome in outcomes] for name in names])

    def hint(r: int, c: int) -> str:
        difference = outcomes[c].by_domain[names[r]]
        shown = f" ({interval(difference, decimals(difference))})" if difference.known else ""
        return f"{outcomes[c].name}, {names[r]}: {signed(difference.value, decimals(difference))}{shown}"

    caption = f"Loss of every domain minus that of {comparison.baseline}, nats per token"
    columns = [outcome.name for outcome in outcomes]
    chart = heat_map(values, names, columns, label=caption, hints=hint, colours=("less", "more"))
    rows: list[list[Cell]] = [
        [_marked(name, comparison), *(_gap(outcome.by_domain[name]) for outcome in outcomes)] for name in names
    ]
    note = "*: the 95 % interval excludes 0" + (
        "; †: not in the objective" if len(comparison.importance) < len(names) else ""
    )
    table = data_table(["domain", *columns], rows, caption=f"{caption}. {note}.")
    return join([figure(chart, f"{caption}; blue is better, orange worse.", label="By domain"), table])


def _marked(name: str, comparison: Comparison) -> str:
    return name if name in comparison.importance else f"{name} †"


def _gap(difference: Difference) -> Cell:
    return f"{signed(difference.value, 4)}{'*' if difference.better or difference.worse else ''}", difference.value


def _shares(comparison: Comparison) -> Html:
    names = list(dict.fromkeys(name for outcome in comparison.outcomes for name in outcome.weights))
    rows = [[name, *(number(outcome.weights.get(name)) for outcome in comparison.outcomes)] for name in names]
    return data_table(
        ["domain", *(outcome.name for outcome in comparison.outcomes)], rows, caption="Shares of trained tokens"
    )


def _cost(record: ComparisonRecord) -> Html:
    """Return the cost of a base run and of learning every mixture; "?" if it was not recorded."""
    path = record.path / "costs.json"
    if not path.is_file():
        return element("p", "Not recorded: the comparison did not get to its end.")
    costs = read_json(path)
    rows: list[list[Cell]] = []
    for name, cost in {"one base run": costs["base_run"], **costs["mixtures"]}.items():
        outcome = next((outcome for outcome in record.comparison.outcomes if outcome.name == name), None)
        shares = (outcome.flops_percent, outcome.seconds_percent) if outcome else (100.0, 100.0)
        numbers: list[Cell] = [number(cost["flops"], ".3g"), (percent(shares[0]), shares[0])]
        rows.append([name, *numbers, (duration(cost["seconds"]), cost["seconds"]), (percent(shares[1]), shares[1])])
    header = ["learning", "floating-point operations", "of a base run", "time", "of a base run"]
    return join(
        [
            data_table(header, rows, caption="Cost of learning every mixture"),
            element("p", costs.get("note", ""), class_="quiet"),
        ]
    )


def _provenance(record: ComparisonRecord) -> Html:
    comparison, corpus = record.comparison, record.corpus
    facts = {
        "comparison": str(record.path),
        "base models": f"{record.bases.facts[0]['parameters'] / 1e6:.2f} M parameters",
        "trained": f"{comparison.step:,} steps, {tokens_text(comparison.tokens)} tokens",
        "seeds": ", ".join(map(str, record.config["seeds"])),
        "tokenizer": f"{corpus.tokenizer.name}, {corpus.tokenizer.vocab_size:,} tokens, {corpus.tokenizer.fingerprint}",
        **environment_facts(record.config.get("environment", {})),
    }
    ids: list[list[Cell]] = [[name, mixture.id, mixture.provenance.method] for name, mixture in record.mixtures.items()]
    mixtures = data_table(["mixture", "id", "method"], ids, caption="The mixtures, as they were trained on")
    return join(
        [
            facts_table(facts, caption="Where this comes from"),
            mixtures,
            sources_table(corpus),
            fold_settings(record.path),
        ]
    )
