"""Text tables for the terminal: of a mixture, and of a run at its end. At most 100 columns wide."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from mixtures.average import span_average
from mixtures.mixture import Mixture
from mixtures.run import read_run
from mixtures.trajectory import read_evaluation

WIDTH = 100
NAME_WIDTH = 28
STAGES_A_TABLE = 4


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned by their widest cell: the first to the left, the others (numbers) to the right."""
    lines = [[shorten(cells[0]), *cells[1:]] for cells in (header, *rows)]
    widths = [max(len(cells[column]) for cells in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in lines
    )


def shorten(name: str, width: int = NAME_WIDTH) -> str:
    """The name, its middle replaced by `…` where it is longer than `width`: beginnings and ends tell names apart."""
    keep = width - 1
    return name if len(name) <= width else f"{name[: keep - keep // 2]}…{name[-(keep // 2) :]}"


def tokens_text(tokens: float) -> str:
    """`300 B`, `1.05 M`, `640`: three digits and a unit."""
    size, unit = token_unit(tokens)
    return f"{tokens / size:#.3g} {unit}".replace(". ", " ") if unit else f"{tokens:.0f}"


def token_unit(tokens: float) -> tuple[float, str]:
    """(size, letter) of the unit that fits a number of tokens; (1, "") below a thousand."""
    units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
    return next((unit for unit in units if tokens >= 0.9995 * unit[0]), (1.0, ""))


def summary(run_dir: str | Path) -> str:
    """What a run learned, one line a domain (largest weight first), then its targets.

    The weight is the average over all steps; losses are held-out ones at the first and last evaluation, or, for a run
    without two of them, training losses at the first and last step. Raises UserError for a damaged run.
    """
    run = read_run(run_dir)
    trajectory = run.trajectory
    start, end, kind = _losses(run_dir)
    if not start:
        start = dict(zip(trajectory.groups, trajectory.losses[0], strict=True))
        end, kind = dict(zip(trajectory.groups, trajectory.losses[-1], strict=True)), "training loss"
    average = span_average(trajectory.weights, trajectory.tokens, start=0, end=trajectory.tokens[-1])
    weights = dict(zip(trajectory.domains, average, strict=True))
    rows = []
    for domain in sorted(run.corpus.domains, key=lambda domain: -weights.get(domain.name, -1)):
        weight = weights.get(domain.name)
        shares = ["target", "-"] if weight is None else [f"{weight:.4f}", f"{1 / len(weights):.4f}"]
        losses = [f"{value[domain.name]:.4f}" if domain.name in value else "-" for value in (start, end)]
        rows.append([domain.name, tokens_text(domain.tokens), *shares, *losses])
    header = ["domain", "tokens", "learned weight", "uniform weight", "loss start", "loss end"]
    note = f"learned weight: average over {len(trajectory.steps)} steps; loss: {kind}, nats per token"
    return f"{table(header, rows)}\n{note}"


def _losses(run_dir: str | Path) -> tuple[dict[str, float], dict[str, float], str]:
    """({domain: loss} at the first and at the last evaluation, what it is); empty where there are no two."""
    evaluation = read_evaluation(run_dir)
    if evaluation["step"].nunique() < 2:
        return {}, {}, ""
    first, last = evaluation["step"].min(), evaluation["step"].max()
    ends = [evaluation[evaluation["step"] == step].set_index("domain")["loss"].to_dict() for step in (first, last)]
    return ends[0], ends[1], f"held out, steps {first} and {last}"


def show(mixture: Mixture) -> str:
    """The mixture as text: what it is, then shares, tokens and epochs of every domain, most tokens first."""
    blocks = [_facts(mixture)]
    for first in range(0, len(mixture.stages), STAGES_A_TABLE):
        chosen = range(first, min(first + STAGES_A_TABLE, len(mixture.stages)))
        blocks.append(_shares(mixture, chosen))
    if warnings := [fill(f"{check.status}: {check.detail}", WIDTH) for check in mixture.checks if check.status != "pass"]:
        blocks.append("\n".join(warnings))
    return "\n\n".join(blocks)


def _facts(mixture: Mixture) -> str:
    horizon, provenance = mixture.horizon, mixture.provenance
    seeds = ", ".join(map(str, provenance.seeds)) or "-"
    objective: str | dict[str, float] = provenance.objective or "-"
    if not isinstance(objective, str):
        objective = ", ".join(f"{shorten(name)} {value:.3g}" for name, value in objective.items())
    facts = {
        "mixture": mixture.id,
        "horizon": f"{horizon.total_tokens:,} tokens from {horizon.start_tokens:,}, {len(mixture.stages)} stage(s)",
        "tokenizer": f"{mixture.tokenizer.name}, {mixture.tokenizer.vocab_size:,} tokens",
        "method": f"{provenance.method}, objective {objective}, seeds {seeds}",
        "weights": "fractions of trained tokens",
    }
    lines = [fill(f"{name + ':':<11}{value}", WIDTH, subsequent_indent=" " * 11) for name, value in facts.items()]
    return "\n".join(lines)


def _shares(mixture: Mixture, chosen: range) -> str:
    """One table: a single stage in full, several by their shares, with tokens and epochs over the whole schedule."""
    stages, spans = [mixture.stages[number] for number in chosen], mixture.stage_tokens()
    single = len(mixture.stages) == 1
    header = ["domain", *("share" if single else f"from {tokens_text(stage.start_tokens)}" for stage in stages)]
    header += ["tokens", "epochs"]
    rows = []
    for row in sorted(mixture.compute_expected(), key=lambda row: -row.tokens):
        shares = [f"{stage.weights[row.domain]:.4f}" for stage in stages]
        epochs = f"{row.epochs:.2f}" if row.epochs < 1000 else f"{row.epochs:,.0f}"
        rows.append([row.domain, *shares, tokens_text(row.tokens), epochs])
    if single:
        return table(header, rows)
    names = [f"{stage.name}: {tokens_text(spans[number])} tokens" for number, stage in zip(chosen, stages, strict=True)]
    return f"{fill('; '.join(names), WIDTH)}\n{table(header, rows)}"
