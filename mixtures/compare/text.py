"""A comparison in words: two tables, a verdict per mixture, and notes on the method. At most 120 columns wide."""

from collections.abc import Sequence
from textwrap import fill

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
from mixtures.compare.comparison import Comparison, Outcome
from mixtures.compare.statistics import Difference
from mixtures.text import counted, table, tokens_text

WIDTH = 100  # columns of the sentences
COSTS = "FLOPs, time: cost of learning the mixture, in percent of one base run"


def comparison_text(comparison: Comparison) -> str:
    """Return tables of losses and differences, verdicts and notes, for the terminal and summary.txt."""
    tables = [table(*loss_cells(comparison)), f"{table(*difference_cells(comparison))}\n{COSTS}"]
    tables += [table(*reference_cells(comparison, name)) for name in references(comparison)]
    return "\n\n".join([*tables, _wrapped(verdicts(comparison)), _wrapped(notes(comparison))])


def verdicts(comparison: Comparison) -> list[str]:
    """Return the overall verdict, then the verdict of every mixture but the baseline, lowest loss first.

    A last line names the baseline's runs that diverged, if there are any.
    """
    others = [outcome for outcome in ranked(comparison) if outcome.name != comparison.baseline]
    return [overall(comparison), *(verdict(outcome, comparison) for outcome in others), *_baseline_faults(comparison)]


def overall(comparison: Comparison) -> str:
    """Return one line: the best mixture, or that none is distinguishable from the baseline; then what diverged."""
    diverged = [outcome.name for outcome in comparison.outcomes if outcome.diverged]
    return _best(comparison) + (f"; diverged: {', '.join(diverged)}" if diverged else "")


def _best(comparison: Comparison) -> str:
    baseline = comparison.baseline
    worse = [outcome.name for outcome in comparison.compared if outcome.difference and outcome.difference.worse]
    if comparison.best:
        difference = comparison.outcome(comparison.best).difference
        assert difference is not None
        tied = f"; not distinguishable from {comparison.best}: {', '.join(comparison.tied)}" if comparison.tied else ""
        return f"best: {comparison.best}, {compare_words(difference, baseline)}{tied}"
    if not any(outcome.difference and outcome.difference.known for outcome in comparison.compared):
        return f"no mixture could be compared with {baseline}"
    if not any(outcome.difference and outcome.difference.over_seeds for outcome in comparison.compared):
        return (
            f"one seed cannot say whether a mixture is better than {baseline}: another seed may reverse every "
            "difference below; add seeds"
        )
    if worse:
        return f"no mixture is distinguishably better than {baseline}; worse: {', '.join(worse)}"
    return f"no mixture is distinguishable from {baseline}"


def verdict(outcome: Outcome, comparison: Comparison) -> str:
    """Return the verdict of one mixture: its difference, the domains that paid and gained most, and its cost."""
    if outcome.difference is None:
        sentences = [_not_compared(outcome, comparison)]
    else:
        sentences = [f"{compare_words(outcome.difference, comparison.baseline)}"]
        if not outcome.difference.identical:
            sentences += _paid_and_gained(outcome, comparison)
    if outcome.flops_percent or outcome.seconds_percent:
        sentences.append(
            f"learning it took {percent(outcome.flops_percent)} of a base run's FLOPs and "
            f"{percent(outcome.seconds_percent)} of its time"
        )
    return f"{outcome.name}: {sentences[0]}." + "".join(f" {text[0].upper()}{text[1:]}." for text in sentences[1:])


def compare_words(difference: Difference, baseline: str) -> str:
    """Return a difference in words, such as `better than uniform by 0.031 nats (95 % 0.012 to 0.050)`."""
    value, low, high = difference.value, difference.low, difference.high
    if difference.identical:
        return f"not distinguishable from {baseline}: the same loss in every row with every seed"
    digits = decimals(difference)
    if not difference.known:
        return (
            f"difference to {baseline} {signed(value, digits)} nats, without an interval (a domain has only one "
            f"held-out row)"
        )
    if not difference.over_seeds:
        return (
            f"{'lower' if value < 0 else 'higher'} than {baseline} by {abs(value):.{digits}f} nats on these held-out "
            f"rows with one seed (difference over rows alone, 95 % {interval(difference, digits)})"
        )
    if difference.better:
        return f"better than {baseline} by {-value:.{digits}f} nats (95 % {-high:.{digits}f} to {-low:.{digits}f})"
    if difference.worse:
        return f"worse than {baseline} by {value:.{digits}f} nats (95 % {low:.{digits}f} to {high:.{digits}f})"
    return (
        f"not distinguishable from {baseline} (difference {signed(value, digits)} nats, 95 % "
        f"{interval(difference, digits)})"
    )


def notes(comparison: Comparison) -> list[str]:
    """Return notes on the sizes, the method, and the limits of the intervals."""
    counts = sorted(comparison.rows.values())
    seeds = sorted({seed for outcome in comparison.outcomes for seed in outcome.seeds})
    averaged = sorted({seed for outcome in comparison.outcomes for seed in outcome.averaged})
    unequal = [outcome for outcome in comparison.outcomes if set(outcome.seeds) != set(seeds)]
    rows = f"{counts[0]}" if counts[0] == counts[-1] else f"{counts[0]} to {counts[-1]}"
    lines = [
        f"Objective: {_objective(comparison)}. Losses in nats per token at step {comparison.step:,} "
        f"({tokens_text(comparison.tokens)} tokens), means over {counted(len(averaged), 'seed')} "
        f"({', '.join(map(str, averaged))}) and {rows} held-out rows per domain; worst: of the objective's domains; "
        "perplexity: exp of the mean loss; arithmetic: mean of exp(loss)."
    ]
    if unequal:
        listed = "; ".join(f"{outcome.name} {', '.join(map(str, outcome.seeds))}" for outcome in unequal)
        lines.append(
            f"Not every mixture has every seed ({listed}): a difference is over the seeds shared with "
            f"{comparison.baseline}, and mean losses are over "
            + (
                "the seeds that all mixtures share."
                if len({outcome.averaged for outcome in comparison.outcomes if outcome.averaged}) == 1
                else "each mixture's own seeds, because none is shared by all: compare the differences instead."
            )
        )
    lines.append(_method(comparison))
    lines.append("Rows count as independent; rows of one document are alike, so intervals may be too narrow.")
    lines.append(
        f"Every interval is for one comparison by itself: of many ({counted(len(comparison.compared), 'mixture')}, "
        f"{counted(len(counts), 'domain')}) some miss by chance, and the domain that paid or gained most was picked "
        f"for being extreme."
    )
    if any(outcome.flops_percent or outcome.seconds_percent for outcome in comparison.outcomes):
        lines.append(
            "Intervals are about the weights that were learned, not about learning them again with other seeds "
            "(proxy.seeds learns a mixture several times and takes the mean)."
        )
    return lines


def _wrapped(texts: Sequence[str]) -> str:
    """Return the texts wrapped to WIDTH columns; a number stays on one line with its percent sign."""
    return "\n".join(fill(text.replace(" %", "\xa0%"), WIDTH, subsequent_indent="  ") for text in texts).replace(
        "\xa0%", " %"
    )


def _paid_and_gained(outcome: Outcome, comparison: Comparison) -> list[str]:
    """Return who paid and who gained most: of the objective's domains, then of the others and on their average."""
    own = [name for name in outcome.by_domain if name in comparison.importance]
    others = [name for name in outcome.by_domain if name not in comparison.importance]
    if not others:
        return _extremes(outcome, own, comparison) if len(own) > 1 else []
    sentences = [f"of the objective, {text}" for text in _extremes(outcome, own, comparison)] if len(own) > 1 else []
    if outcome.trained is not None:
        digits = decimals(outcome.trained)
        sentences.append(
            f"all trained domains alike: {signed(outcome.trained.value, digits)} nats"
            + (f" ({interval(outcome.trained, digits)})" if outcome.trained.known else "")
        )
    return [*sentences, *(f"outside of the objective, {text}" for text in _extremes(outcome, others, comparison))]


def _extremes(outcome: Outcome, names: Sequence[str], comparison: Comparison) -> list[str]:
    """Return which of these domains paid most, and which gained most."""
    lowest, highest = (choose(names, key=lambda name: outcome.by_domain[name].value) for choose in (min, max))
    paid, gained = outcome.by_domain[highest].value > 0, outcome.by_domain[lowest].value < 0
    return [
        f"paid most: {_domain(outcome, highest, comparison)}" if paid else "no domain's loss rose",
        f"gained most: {_domain(outcome, lowest, comparison)}" if gained else "no domain's loss fell",
    ]


def _domain(outcome: Outcome, name: str, comparison: Comparison) -> str:
    """Return one domain in words, such as `code_py +0.210 (0.150 to 0.270), share 1.2 % against 9.1 %`."""
    difference, shares = (
        outcome.by_domain[name],
        [weights.get(name) for weights in (outcome.weights, comparison.outcomes[0].weights)],
    )
    digits = decimals(difference)
    text = f"{name} {signed(difference.value, digits)}" + (
        f" ({interval(difference, digits)})" if difference.known else ""
    )
    if difference.known and difference.over_seeds and not (difference.better or difference.worse):
        text += ", not distinguishable from 0"
    if None in shares:
        return f"{text}, not trained on" if shares == [None, None] else text
    return f"{text}, share {100 * shares[0]:.1f} % against {100 * shares[1]:.1f} %"  # type: ignore[operator]


def _not_compared(outcome: Outcome, comparison: Comparison) -> str:
    if not outcome.diverged:
        return f"not compared, no seed that finished is shared with {comparison.baseline}; run it with the same seeds"
    left = ", ".join(f"{signed(gap, 4)} (seed {seed})" for seed, gap in outcome.by_seed.items())
    kept = f"; difference of the others: {left}" if left else ""
    return f"{_diverged(outcome)}; no average and no interval{kept}"


def _baseline_faults(comparison: Comparison) -> list[str]:
    baseline = comparison.outcomes[0]
    return [f"{baseline.name}: {_diverged(baseline)}, left out of every difference."] if baseline.diverged else []


def _diverged(outcome: Outcome) -> str:
    """Return the seeds that diverged in words, such as `diverged (loss not finite) with 1 of 2 seeds: 0`."""
    gone = ", ".join(map(str, outcome.diverged))
    return f"diverged (loss not finite) with {len(outcome.diverged)} of {counted(len(outcome.seeds), 'seed')}: {gone}"


def _objective(comparison: Comparison) -> str:
    names = comparison.importance
    if len(names) == 1:
        return next(iter(names))
    if len({round(weight, 9) for weight in names.values()}) == 1:
        return f"mean over {len(names)} domains alike"
    return "mean over " + ", ".join(f"{name} {weight:.3g}" for name, weight in names.items())


def _method(comparison: Comparison) -> str:
    start = (
        f"Differences to {comparison.baseline} are paired by seed and held-out row, with 95 % intervals of Student's t"
    )
    if not comparison.seed_degrees:
        return (
            f"{start} over the held-out rows alone: with one seed the comparison says nothing about other seeds; add "
            "seeds before you rely on it."
        )
    return (
        f"{start} from two variances: between held-out rows, and between seeds, of the pair or of all mixtures (what "
        f"the means of mixtures and of seeds leave: {comparison.seed_residual:.2g} nats with "
        f"{counted(comparison.seed_degrees, 'degree')} of freedom), whichever is larger."
        + (" With so few degrees they are rough: add seeds." if comparison.seed_degrees < 3 else "")
    )
