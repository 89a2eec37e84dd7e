"""Findings about a run's weights and steps; every function returns one finding, as data and as a sentence."""

import numpy as np

from mixtures.diagnosis.finding import Finding, make_finding, names_text
from mixtures.run.average import span_average
from mixtures.run.run import RunRecord
from mixtures.text import shorten

SETTLED = 0.1  # the running average has settled if it stays within this relative distance of its end
LATE = 0.5  # share of the steps after which settling is late
MOST_CLIPPED = 0.5  # above this share of clipped steps, the finding warns
FEW_DOMAINS = 0.25  # below this share of all domains, the effective number of domains is low
MOST_MOVED = 4  # most domains that are named with their weights
LEAST_WEIGHT = 1e-300  # smaller ones count as this one: the logarithm of 0 is not finite
LEFT_OUT = 0.05  # a domain is almost left out if its weight ends at this share of its prior weight, or below


def settled(run: RunRecord) -> Finding:
    """Find the step from which on the running average of the weights stays within 10 % of its end in every domain."""
    trajectory = run.trajectory
    before = np.concatenate([[0], trajectory.tokens[:-1]])
    trained = (trajectory.tokens - before)[:, None]
    average = np.cumsum(trajectory.weights * trained, axis=0) / np.cumsum(trained, axis=0)
    outside = np.abs(average - average[-1]) > SETTLED * average[-1] * (1 + 1e-9)
    steps = len(outside)
    since = steps - np.argmax(outside[::-1], axis=0)  # the step after the last one outside, by domain
    since = np.where(outside.any(axis=0), since + 1, 1)
    last, step = trajectory.domains[int(since.argmax())], int(since.max())
    late = step > LATE * steps and steps > 1
    sentence = f"The average weights are within {SETTLED:.0%} of their end from step {step} of {steps} on"
    if late:
        sentence += (
            f" ({shorten(last)} was the last): they still moved in the second half, so a longer run would give other "
            f"weights"
        )
    return make_finding("settled", sentence + ".", warn=late, value={"step": step, "steps": steps, "last": last})


def effective_domains(run: RunRecord) -> Finding:
    """Compute exp of the entropy of the average weights: the number of equal domains that are as spread out."""
    weights, names = run.trajectory.average, run.trajectory.domains
    positive = weights[weights > 0]
    effective = float(np.exp(-(positive * np.log(positive)).sum()))
    largest = int(weights.argmax())
    few = effective < max(1.5, FEW_DOMAINS * len(names))
    sentence = (
        f"The mixture is as spread out as {effective:.1f} equal domains of {len(names)}; the largest, "
        f"{shorten(names[largest])}, "
    )
    sentence += f"has {weights[largest]:.1%}" + (": most of the text is hardly used" if few else "")
    value = {
        "effective": effective,
        "domains": len(names),
        "largest": names[largest],
        "weight": float(weights[largest]),
    }
    return make_finding("effective_domains", sentence + ".", warn=few, value=value)


def clipped(run: RunRecord) -> Finding:
    """Compute the share of the steps whose combined gradient was longer than train.max_grad_norm."""
    bound, norms = (
        run.config.train.get("max_grad_norm"),
        run.trajectory.frame["gradient_norm"].to_numpy(dtype=np.float64),
    )
    norms = norms[np.isfinite(norms)]
    if bound is None or not len(norms):
        return make_finding("clipped", "The run does not record gradient norms or the norm that they are clipped to.")
    share = float((norms > bound).mean())
    much = share > MOST_CLIPPED
    sentence = f"{share:.0%} of the steps had their gradient clipped to norm {bound:g}"
    sentence += f" (median {np.median(norms):.3g}): raise train.max_grad_norm or lower train.lr" if much else ""
    return make_finding(
        "clipped",
        sentence + ".",
        warn=much,
        value={"share": share, "max_grad_norm": bound, "median": float(np.median(norms))},
    )


def floor(run: RunRecord) -> Finding:
    """Find domains that end with a twentieth of their prior weight or less, or at `update.floor`.

    The weight at the end is the mean over the last tenth of the steps.
    """
    weights, names, prior = run.trajectory.weights, run.trajectory.domains, run.prior
    end = weights[-max(1, len(weights) // 10) :].mean(axis=0)
    lowest = max(LEFT_OUT, 1.05 * float(run.rule.get("floor", 0)))
    low = [number for number in np.argsort(end / prior) if end[number] <= lowest * prior[number]]
    chosen = {names[number]: float(end[number] / prior[number]) for number in low}
    value = {"at_most": lowest, "shares_of_prior": chosen}
    if not low:
        sentence = (
            f"No weight ends below {lowest:.2g} of the prior ({shorten(names[int(np.argmin(end / prior))])} is "
            f"lowest, with "
        )
        return make_finding("floor", sentence + f"{np.min(end / prior):.2f}).", value=value)
    sentence = (
        f"Almost left out, with a weight at the end of {lowest:.2g} of the prior or less: {names_text(list(chosen))}."
    )
    return make_finding("floor", sentence, warn=True, value=value)


def held(run: RunRecord) -> Finding:
    """Find whether `update.reach` decided how far the weights left the prior, and the average weights without it."""
    bound = run.rule.get("reach")
    if run.rule.get("preset", "stable") != "stable":
        return make_finding(
            "reach", "The rule does not bound the weights (update.reach is of preset stable).", value={}
        )
    factors = run.trajectory.reach_factors
    if bound is None or "floor" not in run.rule or np.isnan(factors).any():
        return make_finding("reach", "The run does not record whether update.reach held its weights.")
    names, average, free = run.trajectory.domains, run.trajectory.average, without_reach(run)
    share, last = float((factors < 1).mean()), bool(factors[-1] < 1)
    value = {"reach": bound, "steps": share, "factor": float(factors[-1])}
    value |= {"without": dict(zip(names, free.tolist(), strict=True))}
    if not share:
        return make_finding("reach", f"The weights stayed within update.reach ({bound:g}) by themselves.", value=value)
    moved = np.argsort(-np.abs(free - average))[:MOST_MOVED]
    listed = ", ".join(f"{shorten(names[n])} {free[n]:.2f} instead of {average[n]:.2f}" for n in moved)
    sentence = f"The weights were held by update.reach ({bound:g}) in {share:.0%} of the steps"
    sentence += ", and at the end" if last else ", but not at the end"
    sentence += f"; without it the average weights would be {listed}"
    sentence += ". The bound and not the text decided how far they go: try a larger one in a comparison" if last else ""
    return make_finding("reach", sentence + ".", warn=last, value=value)


def without_reach(run: RunRecord) -> np.ndarray:
    """Return the average weights (D,) that the run's alignments give if `update.reach` bounds nothing.

    The gradients stay those of the run, although other weights would have changed the model.
    """
    prior, share = run.prior, float(run.rule["floor"])
    learned = np.maximum(run.trajectory.weights - share * prior, LEAST_WEIGHT) / prior
    scores = np.log(learned) / run.trajectory.reach_factors[:, None]
    weights = prior * np.exp(scores - scores.max(axis=1, keepdims=True))
    weights = (1 - share) * weights / weights.sum(axis=1, keepdims=True) + share * prior
    tokens = run.trajectory.tokens
    return span_average(weights, tokens, start=0, end=tokens[-1])
