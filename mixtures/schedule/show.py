"""Text tables for the terminal: of a mixture, and of a run at its end. At most 100 columns wide."""

from textwrap import fill

from mixtures.schedule.mixture import Mixture, learned_weights
from mixtures.schedule.records import Constraint, Domain, Expected, SamplePolicy, Uncertainty
from mixtures.text import EVERY, WIDTH, epochs_text, shorten, table, tokens_text

STAGES_A_TABLE = 3
BOUNDS_NAMED = 5
INTERVAL = "95 % interval"


def mixture_text(mixture: Mixture) -> str:
    """The mixture as text: what it is, then shares, tokens and epochs of every domain, most tokens first.

    Where weights were moved to keep caps and least shares, the learned share stands beside. Several stages: the whole
    schedule, then the stages.
    """
    blocks = [_facts(mixture), _whole(mixture)]
    if len(mixture.stages) > 1:
        known = any(stage.weights_ci95 is not None for stage in mixture.stages)
        several = 1 if known else STAGES_A_TABLE - 1 if learned_weights(mixture) else STAGES_A_TABLE
        for first in range(0, len(mixture.stages), several):
            blocks.append(_stages(mixture, range(first, min(first + several, len(mixture.stages)))))
    if any(domain.sample_policy for domain in mixture.domains):
        blocks.append(_samples(mixture))
    if warnings := [
        fill(f"{check.status}: {check.detail}", WIDTH) for check in mixture.checks if check.status != "pass"
    ]:
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
    if isinstance(samples := provenance.proxy.get("samples"), dict):
        facts["samples"] = ", ".join(f"{name} {value}" for name, value in samples.items() if value is not None)
    if isinstance(reused := provenance.proxy.get("reused"), dict):
        facts["reused"] = f"{len(reused)} domain(s) keep the relative weights of {provenance.parent_schedule}"
    if (record := provenance.uncertainty) is not None:
        facts["intervals"] = source_text(record) + (
            "; of the learned weights, before these were held" if learned_weights(mixture) else ""
        )
        facts["prior"] = departure_text(record)
    for constraint in provenance.constraints:
        facts["held to"] = constraint_text(constraint)
    lines = [fill(f"{name + ':':<11}{value}", WIDTH, subsequent_indent=" " * 11) for name, value in facts.items()]
    return "\n".join(lines)


def constraint_text(constraint: Constraint) -> str:
    """What was asked and how far it moved the learned weights, in words."""
    asked = []
    for what, bounds in (
        ("epochs at most", constraint.max_epochs),
        ("share of every stage at least", constraint.min_share),
    ):
        named = [
            f"{shorten(name)} {'any' if value is None else f'{value:g}'}"
            for name, value in bounds.items()
            if name != EVERY
        ]
        if len(named) > BOUNDS_NAMED:
            named[BOUNDS_NAMED:] = [f"{len(named) - BOUNDS_NAMED} more"]
        if (every := bounds.get(EVERY)) is not None:
            asked.append(f"{what} {every:g}" + (f" ({', '.join(named)})" if named else ""))
        elif named:
            asked.append(f"{what} {', '.join(named)}")
    distance = "infinite" if constraint.kl is None else f"{constraint.kl:.3g} nats"
    effect = f"this moved {constraint.moved:.2%} of the tokens (KL to the learned weights {distance})"
    return f"{'; '.join(asked)}; {effect if constraint.learned else 'the learned weights keep this as they are'}"


def _most_first(mixture: Mixture) -> list[tuple[Domain, Expected]]:
    pairs = zip(mixture.domains, mixture.compute_expected(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[1].tokens)


def _whole(mixture: Mixture) -> str:
    """One table over the whole schedule: share, learned share and what holds it elsewhere, tokens, epochs, cap."""
    total, spans, learned = mixture.horizon.total_tokens, mixture.stage_tokens(), learned_weights(mixture)
    capped = any(domain.max_epochs is not None for domain in mixture.domains)
    held = {domain.name: _held_by(mixture, domain, row.epochs) for domain, row in _most_first(mixture)}
    intervals = mixture.stages[0].weights_ci95 if len(spans) == 1 else None
    header = [
        "domain",
        "share",
        *([INTERVAL] if intervals else []),
        *(["learned"] if learned else []),
        "tokens",
        "epochs",
    ]
    header += [*(["cap"] if capped else []), *(["held by"] if any(held.values()) else [])]
    rows = []
    for domain, row in _most_first(mixture):
        cells = [domain.name, f"{row.tokens / total:.4f}"]
        if intervals:
            cells.append(interval_text(intervals[domain.name]))
        if learned:
            cells.append(
                f"{sum(weights[domain.name] * span for weights, span in zip(learned, spans, strict=True)) / total:.4f}"
            )
        cells += [tokens_text(row.tokens), epochs_text(row.epochs)]
        if capped:
            cells.append("-" if domain.max_epochs is None else f"{domain.max_epochs:.6g}")
        if any(held.values()):
            cells.append(held[domain.name])
        rows.append(cells)
    text = table(header, rows)
    return text if len(spans) == 1 else f"the whole schedule, {tokens_text(total)} tokens\n{text}"


def _held_by(mixture: Mixture, domain: Domain, epochs: float) -> str:
    """`cap`, `min share` (in one stage at least), both or nothing."""
    least = max((constraint.least(domain.name) for constraint in mixture.provenance.constraints), default=0.0)
    smallest = min(stage.weights[domain.name] for stage in mixture.stages)
    found = {"cap": domain.held_at_cap(epochs), "min share": least > 0 and smallest <= least * (1 + 1e-6)}
    return ", ".join(name for name, held in found.items() if held)


def _stages(mixture: Mixture, chosen: range) -> str:
    """One table of some stages: share, learned share, tokens and epochs of every domain in each."""
    stages, spans, learned = mixture.stages, mixture.stage_tokens(), learned_weights(mixture)
    known = any(stages[number].weights_ci95 is not None for number in chosen)
    rows = []
    for domain, _ in _most_first(mixture):
        cells = [domain.name]
        for number in chosen:
            tokens = stages[number].weights[domain.name] * spans[number]
            intervals = stages[number].weights_ci95
            cells.append(f"{stages[number].weights[domain.name]:.4f}")
            cells += [interval_text(intervals[domain.name]) if intervals else "-"] if known else []
            cells += [f"{learned[number][domain.name]:.4f}"] if learned else []
            cells += [tokens_text(tokens), epochs_text(tokens / domain.pass_tokens)]
        rows.append(cells)
    header = [
        "domain",
        *["share", *([INTERVAL] if known else []), *(["learned"] if learned else []), "tokens", "epochs"] * len(chosen),
    ]
    names = [f"{stages[number].name}: {tokens_text(spans[number])} tokens" for number in chosen]
    titles = [f"from {tokens_text(stages[number].start_tokens)}" for number in chosen]
    return f"{fill('; '.join(names), WIDTH)}\n{table(header, rows, titles=titles)}"


def _samples(mixture: Mixture) -> str:
    """One table of what is read inside the domains; `scored`: the part of a domain's tokens that the rule is about."""
    rows = []
    for domain, _ in _most_first(mixture):
        policy = domain.sample_policy or SamplePolicy()
        size, scored, documents = policy.effective_sample_size, policy.scored_tokens, policy.kept_documents
        shares = [
            "-" if scored is None else f"{scored / domain.unique_tokens:.1%}",
            "-" if size is None else f"{size:.3f}",
        ]
        tokens = [tokens_text(domain.pass_tokens), tokens_text(domain.unique_tokens)]
        kept = [str(documents), str(domain.unique_documents)] if documents is not None else ["-", "-"]
        rows.append([domain.name, *shares, *tokens, *kept])
    return table(["samples of", "scored", "effective", "one pass", "of tokens", "kept", "of documents"], rows)


def interval_text(interval: tuple[float, float]) -> str:
    """`0.1021-0.1530`."""
    return f"{interval[0]:.4f}-{interval[1]:.4f}"


def source_text(record: Uncertainty) -> str:
    """Where the intervals come from, and what they do not hold."""
    steps = f"{record.replicates} draws of the steps in blocks"
    if record.runs == 1:
        return f"95 %, from {steps}; another seed may differ by more, give several runs to hold that too"
    return f"95 %, from the spread of {record.runs} runs" + (f" and {steps}" if record.replicates else "")


def departure_text(record: Uncertainty) -> str:
    """Do the runs support a departure from the prior, and how far was it shrunk?"""
    kind = "uniform prior" if max(record.prior.values()) - min(record.prior.values()) < 1e-9 else "prior"
    signals = ", ".join(f"{signal:.3g}" for signal in record.signal)
    needed = ", ".join(f"{needed:.3g}" for needed in sorted(set(record.needed)))
    found = f"signal to noise {signals} ({needed} needed)"
    if not record.mean:
        return f"not shrunk; {found} against the {kind}"
    if not any(record.factor):
        return f"{found}: this supports no departure from the {kind}, the weights are the prior"
    factors = ", ".join(f"{factor:.3g}" for factor in record.factor)
    stages = (
        "" if len(record.factor) == 1 else " stage by stage" + (", 0: the prior itself" if 0 in record.factor else "")
    )
    return f"{found}: log-ratios to the {kind} multiplied by {factors}{stages}"
