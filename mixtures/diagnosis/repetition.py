"""Findings about repeated text: repetition in proxy and base model, and domains that the proxy learned by heart."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mixtures.diagnosis.finding import Finding, make_finding, names_text
from mixtures.run.run import RunRecord
from mixtures.schedule.bounds import Bound, by_name, check_bounds
from mixtures.schedule.records import MANY_EPOCHS
from mixtures.text import epochs_text, shorten, tokens_text

MISMATCH = 2.0  # epochs of proxy and base that differ by more than this factor do not match
RISE = 0.01  # relative rise of the held-out loss from its lowest, and relative fall of the training loss
FAR = 5.0  # a gap is far above the median gap from this many standard deviations on (1.4826 * median abs. deviation)
LEAST_GAP = 0.1  # and from this many nats on


def repetition(run: RunRecord, *, token_budget: float | None, unique_tokens: Bound) -> Finding:
    """Find domains that repeat more or less often in the proxy than in the base model.

    Without a token budget, given or simulated, find domains that the proxy repeats often.
    """
    names = [domain.name for domain in run.domains]
    check_bounds(names, max_epochs=None, min_share=None, unique_tokens=unique_tokens)
    proxy = proxy_epochs(run)
    if token_budget is None:
        token_budget = next((float(domain.simulated.budget_tokens) for domain in run.domains if domain.simulated), None)
    value: dict[str, Any] = {"proxy_epochs": dict(zip(names, proxy.tolist(), strict=True))}
    if token_budget is None:
        often = [name for name, epochs in zip(names, proxy, strict=True) if epochs > MANY_EPOCHS]
        sentence = f"The proxy read no domain more than {epochs_text(proxy.max())} times"
        if often:
            sentence = (
                f"The proxy read {_with(often, value['proxy_epochs'])} more than {MANY_EPOCHS:g} times: repeated "
                f"text teaches less, so "
            )
            sentence += (
                "a base that repeats it less needs more of it (corpus.simulate_budget makes the proxy repeat as "
                "the base does)"
            )
        return make_finding(
            "repetition", sentence + ".", warn=bool(often), value=value | {"base_epochs": None, "mismatched": often}
        )
    counts = by_name(unique_tokens, names)
    simulated = {domain.name: float(domain.simulated.unique_tokens) for domain in run.domains if domain.simulated}
    unique = np.array([counts.get(domain.name, simulated.get(domain.name, domain.tokens)) for domain in run.domains])
    base = run.trajectory.average * token_budget / unique
    value |= {"base_epochs": dict(zip(names, base.tolist(), strict=True)), "token_budget": token_budget}
    apart = (np.maximum(proxy, base) > MANY_EPOCHS) & (np.maximum(proxy, base) > MISMATCH * np.minimum(proxy, base))
    order = np.argsort(-np.maximum(proxy, base))
    chosen = [names[number] for number in order if apart[number]]
    sentence = (
        f"With {tokens_text(token_budget)} tokens, no domain repeats much more or less often in the base than in "
        f"the proxy"
    )
    if chosen:
        listed = [
            f"{shorten(names[number])} {epochs_text(base[number])} ({epochs_text(proxy[number])})"
            for number in order
            if apart[number]
        ]
        sentence = (
            f"With {tokens_text(token_budget)} tokens, epochs in the base (in the proxy): {names_text(listed)}; the "
            f"weights were learned "
        )
        sentence += "at another repetition: set corpus.simulate_budget, or cap epochs at export"
    return make_finding("repetition", sentence + ".", warn=bool(chosen), value=value | {"mismatched": chosen})


def memorised(run: RunRecord) -> Finding:
    """Find domains that the proxy learned by heart.

    Their held-out loss rises while their training loss falls, or the gap between the two is far above that of the other
    domains. Only domains that the proxy read more than once count: for others, a gap means that the held-out text is of
    another kind.
    """
    evaluation, names = run.evaluation, run.trajectory.domains
    repeated = proxy_epochs(run) > 1
    held_out = evaluation.pivot_table(index="step", columns="domain", values="loss").reindex(columns=list(names))
    if held_out.empty or held_out.index[-1] == 0:
        return make_finding("memorised", "The run has no held-out losses after its first step.")
    width = max(1, len(run.trajectory.steps) // 10)
    training = np.array([_around(run, step, width) for step in held_out.index])
    losses = held_out.to_numpy()
    rising = [
        name for column, name in enumerate(names) if repeated[column] and _rises(losses[:, column], training[:, column])
    ]
    gaps = losses[-1] - training[-1]
    middle = np.nanmedian(gaps)
    deviation = 1.4826 * np.nanmedian(np.abs(gaps - middle))
    high = repeated & (gaps - middle > max(FAR * deviation, LEAST_GAP))
    far = [name for name, chosen in zip(names, high, strict=True) if chosen]
    numbers = dict(zip(names, gaps.tolist(), strict=True))
    value = {
        "gaps": {name: None if np.isnan(gap) else gap for name, gap in numbers.items()},
        "median_gap": None if np.isnan(middle) else float(middle),
        "rising": rising,
        "far": far,
    }
    signs = []
    if rising:
        signs.append(f"held-out loss rises while training loss falls: {names_text(rising)}")
    if far:
        signs.append(
            f"held-out loss further above training loss than in other domains (median {middle:.2f} nats): "
            f"{_with(far, numbers)}"
        )
    if signs:
        return make_finding("memorised", f"Probably learned by heart; {'; '.join(signs)}.", warn=True, value=value)
    if not repeated.any():
        return make_finding(
            "memorised", "No domain was read more than once, so none was learned by heart.", value=value
        )
    return make_finding(
        "memorised", "No repeated domain's held-out loss rises or lies far above its training loss.", value=value
    )


def proxy_epochs(run: RunRecord) -> np.ndarray:
    """Return how often the run read each domain's text (D,), in epochs.

    Every step draws equally many rows of every domain, whatever the weights.
    """
    tokens = np.array([domain.tokens for domain in run.domains], dtype=np.float64)
    return run.trajectory.tokens[-1] / len(tokens) / tokens


def _around(run: RunRecord, step: int, width: int) -> np.ndarray:
    """Return the mean training loss (D,) over the `width` steps up to `step`; for step 0, that of the first step."""
    losses = run.trajectory.losses[:, : len(run.trajectory.domains)]
    return losses[max(0, step - width) : max(step, 1)].mean(axis=0)


def _rises(held_out: np.ndarray, training: np.ndarray) -> bool:
    """Say whether the held-out loss rises after its lowest value while the training loss falls, both by RISE or more.

    The last evaluation is compared with the one that has the lowest held-out loss.
    """
    if np.isnan(held_out).all():
        return False
    lowest = int(np.nanargmin(held_out))
    return bool(held_out[-1] > (1 + RISE) * held_out[lowest] and training[-1] < (1 - RISE) * training[lowest])


def _with(names: list[str], numbers: Mapping[str, float]) -> str:
    """List names with their numbers, such as `a (6.30), b (4.10)`."""
    return names_text([f"{shorten(name)} ({numbers[name]:.2f})" for name in names])
