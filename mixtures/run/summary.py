"""The table that is printed at the end of a run."""

from textwrap import fill

from mixtures.run.run import RunRecord
from mixtures.schedule.show import INTERVAL, departure_text, interval_text, source_text
from mixtures.text import WIDTH, table, tokens_text


def summary(run: RunRecord) -> str:
    """Return what a run learned as text: one line per domain (largest weight first), then one per target.

    The weight is the average over all steps. Losses are held-out losses at the first and last evaluation; a run without
    two evaluations shows training losses at the first and last step. Raises UserError for a damaged run.
    """
    from mixtures.run.learned import average_runs  # imported here, because it imports scipy

    trajectory = run.trajectory
    learned = average_runs([run], run.trajectory.domains)
    intervals = learned.intervals[0]
    start, end, kind = _losses(run)
    if not start:
        start = dict(zip(trajectory.groups, trajectory.losses[0], strict=True))
        end, kind = dict(zip(trajectory.groups, trajectory.losses[-1], strict=True)), "training loss"
    average = trajectory.average
    weights = dict(zip(trajectory.domains, average, strict=True))
    uniform = dict(zip(trajectory.domains, run.uniform, strict=True))
    rows = []
    for domain in sorted(run.corpus.domains, key=lambda domain: -weights.get(domain.name, -1)):
        weight = weights.get(domain.name)
        shares = ["target", "-"] if weight is None else [f"{weight:.4f}", f"{uniform[domain.name]:.4f}"]
        if intervals is not None:
            shares.insert(1, "-" if weight is None else interval_text(intervals[domain.name]))
        losses = [f"{value[domain.name]:.4f}" if domain.name in value else "-" for value in (start, end)]
        rows.append([domain.name, tokens_text(domain.tokens), *shares, *losses])
    header = ["domain", "tokens", "learned weight", "uniform weight", "loss start", "loss end"]
    if intervals is not None:
        header[2:4] = ["learned", INTERVAL, "uniform"]
    notes = [f"learned weight: average over {len(trajectory.steps)} steps; loss: {kind}, nats per token"]
    if learned.record is not None:
        notes += [
            fill(f"intervals: {source_text(learned.record)}", WIDTH),
            fill(f"mixture: {departure_text(learned.record)}", WIDTH),
        ]
    if (reused := run.corpus.reused) is not None:
        text = (
            f"reused: {len(reused.relative)} domain(s) as one, with their relative weights from another mixture; "
            f"mixture.json has all "
        )
        notes.append(fill(f"{text}{len(run.mixed)} domains", WIDTH))
    return "\n".join([table(header, rows), *notes])


def _losses(run: RunRecord) -> tuple[dict[str, float], dict[str, float], str]:
    """Return ({domain: loss} at the first evaluation, at the last one, which losses); empty without two evaluations."""
    evaluation = run.evaluation
    if evaluation["step"].nunique() < 2:
        return {}, {}, ""
    first, last = evaluation["step"].min(), evaluation["step"].max()
    ends = [evaluation[evaluation["step"] == step].set_index("domain")["loss"].to_dict() for step in (first, last)]
    return ends[0], ends[1], f"held out, steps {first} and {last}"
