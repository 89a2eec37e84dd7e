"""Text tables of a mixture for the terminal, at most 100 columns wide, and sentences about bounds and intervals."""

from textwrap import fill

from mixtures.schedule.mixture import Mixture, learned_weights
from mixtures.schedule.records import Constraint, Domain, Expected, SamplePolicy, Uncertainty
from mixtures.text import EVERY, WIDTH, epochs_text, shorten, table, tokens_text

STAGES_A_TABLE = 3  # most stages in one table
BOUNDS_NAMED = 5  # most domains whose bounds are named
INTERVAL = "95 % interval"
STRONG, MODERATE = 0.9, 0.5  # least part of the learned departure from the prior that such evidence keeps


def mixture_text(mixture: Mixture) -> str:
    """Return the mixture as text: its facts, then shares, tokens and epochs of every domain, most tokens first.

    Where bounds moved the weights, the learned shares stand beside them. With several stages, a table of the whole
    schedule comes before those of the stages.
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
    """Return the lines above the tables: id, horizon, tokenizer, method, and what is known about the weights."""
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
            "; they are of the learned weights, before bounds moved these" if learned_weights(mixture) else ""
        )
        facts["prior"] = departure_text(record)
    for constraint in provenance.constraints:
        facts["bounds"] = constraint_text(constraint)
    lines = [fill(f"{name + ':':<11}{value}", WIDTH, subsequent_indent=" " * 11) for name, value in facts.items()]
    return "\n".join(lines)


def constraint_text(constraint: Constraint) -> str:
    """Return in words what was asked and how far it moved the learned weights."""
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
    return f"{'; '.join(asked)}; {effect if constraint.learned else 'the learned weights keep this unchanged'}"


def _most_first(mixture: Mixture) -> list[tuple[Domain, Expected]]:
    """Return the domains with what the schedule takes from them, most tokens first."""
    pairs = zip(mixture.domains, mixture.compute_expected(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[1].tokens)


def _whole(mixture: Mixture) -> str:
    """Return the table of the whole schedule: share, learned share, tokens, epochs and cap per domain.

    A column `limited by` says which bounds a domain has reached.
    """
    total, spans, learned = mixture.horizon.total_tokens, mixture.stage_tokens(), learned_weights(mixture)
    capped = any(domain.max_epochs is not None for domain in mixture.domains)
    limits = {domain.name: _held_by(mixture, domain, row.epochs) for domain, row in _most_first(mixture)}
    intervals = mixture.stages[0].weights_ci95 if len(spans) == 1 else None
    header = [
        "domain",
        "share",
        *([INTERVAL] if intervals else []),
        *(["learned"] if learned else []),
        "tokens",
        "epochs",
    ]
    header += [*(["cap"] if capped else []), *(["limited by"] if any(limits.values()) else [])]
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
        if any(limits.values()):
            cells.append(limits[domain.name])
        rows.append(cells)
    text = table(header, rows)
    return text if len(spans) == 1 else f"the whole schedule, {tokens_text(total)} tokens\n{text}"


def _held_by(mixture: Mixture, domain: Domain, epochs: float) -> str:
    """Return which bounds a domain has reached: `cap`, `min share` (in at least one stage), both or nothing."""
    least = max((constraint.least(domain.name) for constraint in mixture.provenance.constraints), default=0.0)
    smallest = min(stage.weights[domain.name] for stage in mixture.stages)
    reached = {"cap": domain.held_at_cap(epochs), "min share": least > 0 and smallest <= least * (1 + 1e-6)}
    return ", ".join(name for name, held in reached.items() if held)


def _stages(mixture: Mixture, chosen: range) -> str:
    """Return one table of the stages `chosen`: share, learned share, tokens and epochs per domain and stage."""
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
    """Return the table of what is read inside the domains; `scored`: the part of a domain's tokens that has scores."""
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
    """Return an interval as `0.1021-0.1530`."""
    return f"{interval[0]:.4f}-{interval[1]:.4f}"


def source_text(record: Uncertainty) -> str:
    """Return in words where the intervals come from, and what they leave out."""
    steps = f"{record.replicates} draws of the steps in blocks"
    if record.runs == 1:
        return (
            f"95 %, for the weights of another seed: from {steps}, widened by what seeds changed in real runs; several "
            "runs narrow them"
        )
    return f"95 %, from the spread of {record.runs} runs" + (f" and {steps}" if record.replicates else "")


def departure_text(record: Uncertainty) -> str:
    """Return in words how strong the evidence against the prior is, and how much of the learned departure is kept.

    Begins in lower case. Log-ratios to the prior are kept in part: `evidence is strong: 99 % of the learned departure
    from uniform is kept (signal to noise 83; needed 4.5)`. The evidence is that other seeds depart alike. Whether the
    mixture is better is another question, which only base runs answer.
    """
    uniform = max(record.prior.values()) - min(record.prior.values()) < 1e-9
    kind, prior = ("uniform", "the uniform prior") if uniform else ("the prior", "the prior")
    signals = ", ".join(map(_signal_text, record.signal))
    needed = ", ".join(map(_signal_text, sorted(set(record.needed))))
    numbers = f"(signal to noise {signals}; needed {needed})"
    several = len(record.factor) > 1
    if not record.mean:
        supported = any(signal >= least for signal, least in zip(record.signal, record.needed, strict=True))
        doubt = "" if supported else ", although there is no evidence for it"
        return f"the learned departure from {kind} is kept in full, without shrinkage{doubt} {numbers}"
    if not any(record.factor):
        where = " in any stage" if several else ""
        return f"there is no evidence for a departure from {kind}{where}: the weights are {prior} {numbers}"
    parts = ", ".join(map(part_text, record.factor))
    if several:
        none = f"; where 0 % is kept, the weights are {prior}" if 0 in record.factor else ""
        return f"evidence by stage: {parts} of the learned departure from {kind} is kept {numbers}{none}"
    strength = "strong" if record.factor[0] >= STRONG else "moderate" if record.factor[0] >= MODERATE else "weak"
    return (
        f"evidence is {strength}: {parts} of the learned departure from {kind} is kept {numbers}; other seeds would "
        "depart alike, and whether that is better is for base models to say (proxies.compare)"
    )


def _signal_text(signal: float) -> str:
    """Return a signal to noise with one decimal below 10, as a whole number above: `4.5`, `83`."""
    return f"{signal:.1f}" if signal < 9.95 else f"{signal:,.0f}"


def part_text(factor: float) -> str:
    """Return a fraction in per cent: `0 %`, `85 %`, `more than 99 %` where rounding would say 100 %."""
    return "more than 99 %" if 0.995 <= factor < 1 else f"{100 * factor:.0f} %"
