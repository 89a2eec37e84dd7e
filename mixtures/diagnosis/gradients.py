"""Findings from the recorded grams: how repeatable the signal is, which domains hurt, which are alike or opposed."""

import math

import numpy as np

from mixtures.diagnosis.finding import Finding, make_finding, names_text
from mixtures.diagnosis.matrix import ALIKE, help_matrix, pairs_text
from mixtures.diagnosis.noise import SEEDS, interval_factor, mean_noise
from mixtures.run.run import RunRecord, importance_of

RELIABLE = 0.5  # below this, more than half of the variance between the domains' alignments is noise
SPLITS = 200
REDUNDANT = math.sqrt(0.5)  # above this cosine, one gradient explains more than half of the other's squared norm
MOST_TOLD = 3  # most pairs in a sentence
NO_GRAM = "The run recorded no gradient products (preset doremi computes none)"
BIASED = "The run has no unbiased self products (train.rows_per_domain is odd), and its objective counts them"


def gram_findings(run: RunRecord) -> tuple[Finding, Finding, Finding]:
    """Return the findings reliability, negative and pairs."""
    blocks = run.trajectory.gram_blocks
    if not len(blocks):
        unknown = [make_finding(name, f"{NO_GRAM}.") for name in ("reliability", "negative", "pairs")]
        return unknown[0], unknown[1], unknown[2]
    importance = importance_of(run)
    if np.isnan(run.trajectory.self_products).all() and importance[: len(run.trajectory.domains)].any():
        return make_finding("reliability", f"{BIASED}."), make_finding("negative", f"{BIASED}."), pairs(run)
    return reliability(run, blocks, importance), negative(run, blocks, importance), pairs(run)


def reliability(run: RunRecord, blocks: np.ndarray, importance: np.ndarray) -> Finding:
    """Return the split-half reliability of the domains' alignments, for the objective and for each of its members."""
    alignments = objective_alignments(run, blocks, importance)
    measured = ~np.isnan(alignments).any(axis=0)
    if len(blocks) < 2 or np.count_nonzero(measured) < 3:
        return make_finding("reliability", "Reliability needs three domains and two steps with gradient products.")
    whole = split_half(alignments[:, measured])
    columns = blocks[:, : len(measured)][:, measured]
    members = {
        run.trajectory.groups[number]: split_half(columns[:, :, number]) for number in np.flatnonzero(importance)
    }
    poor = whole < RELIABLE
    sentence = (
        f"Reliability of the differences between domains (half of the steps against the others; 1: no noise): "
        f"{whole:.2f}"
    )
    value = {"objective": whole, "members": members}
    if len(members) > 1:
        least = min(members, key=members.__getitem__)
        sentence += f", for each part of the objective alone {members[least]:.2f} or more (lowest: {least})"
    if poor:
        sentence += (
            "; most of what moved the weights is noise: trust them where several seeds agree, or take more steps "
            "or rows"
        )
    return make_finding("reliability", sentence + ".", warn=poor, value=value)


def objective_alignments(run: RunRecord, blocks: np.ndarray, importance: np.ndarray) -> np.ndarray:
    """Return the alignments (B, D) of the blocks; NaN for a domain whose own product counts but was not measured."""
    used = np.flatnonzero(importance)
    return np.asarray(blocks[:, : len(run.trajectory.domains), used] @ importance[used])


def split_half(alignments: np.ndarray) -> float:
    """Return the split-half reliability of the mean of `alignments` (B, D) over B blocks.

    r is the correlation over domains between the means of two halves of the blocks. The reliability of the whole is
    2r / (1 + r) (Spearman and Brown); it is 0 if the halves do not agree at all, or nothing differs. One block of every
    two neighbours goes into each half, so that both halves cover the whole run. r is the mean over SPLITS such splits,
    because with ten domains a single split can be off by 0.2.
    """
    count = len(alignments) // 2
    neighbours = alignments[: 2 * count].reshape(count, 2, -1)
    difference = neighbours[:, 0] - neighbours[:, 1]
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(SPLITS, count))
    middle, apart = neighbours.mean(axis=(0, 1)), signs @ difference / (2 * count)
    first, second = (half - half.mean(axis=1, keepdims=True) for half in (middle + apart, middle - apart))
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    differs = spread > 1e-24 * (middle @ middle)  # a smaller spread is rounding error
    agreement = float(np.divide((first * second).sum(axis=1), spread, out=np.zeros(SPLITS), where=differs).mean())
    return 2 * agreement / (1 + agreement) if agreement > 0 else 0.0


def negative(run: RunRecord, blocks: np.ndarray, importance: np.ndarray) -> Finding:
    """Find the domains whose mean alignment is below 0: a step on them raises the objective's loss.

    It is certain only beyond what another seed would change; standard errors contain that.
    """
    names = run.trajectory.domains
    alignments = objective_alignments(run, blocks, importance)
    mean, noise = alignments.mean(axis=0), np.sqrt(SEEDS) * mean_noise(alignments)
    scale = np.nanmean(np.abs(mean)) or 1.0
    sure = mean + interval_factor(len(blocks), claims=len(names)) * noise < 0  # False where the noise is not known
    below = [int(number) for number in np.argsort(mean) if mean[number] < 0]
    certain, perhaps = ([names[number] for number in below if sure[number] == wanted] for wanted in (True, False))
    means, errors = ([None if math.isnan(each) else each for each in (of / scale).tolist()] for of in (mean, noise))
    value = {
        "alignments": dict(zip(names, means, strict=True)),
        "standard_errors": dict(zip(names, errors, strict=True)),
        "negative": certain,
        "within_noise": perhaps,
    }
    sentence = (
        f"A step on {names_text(certain)} raises the objective's loss"
        if certain
        else "No domain's gradient works against the objective"
    )
    sentence += f"; below 0, but within what another seed may change: {names_text(perhaps)}" if perhaps else ""
    return make_finding("negative", sentence + ".", warn=bool(certain), value=value)


def too_small(run: RunRecord) -> Finding:
    """Find domains and targets with too few rows to split a step's rows into two halves of different rows."""
    products = run.trajectory.self_products
    if np.isnan(products).all():
        return make_finding("too_small", f"{NO_GRAM}, or train.rows_per_domain is odd.")
    small = [name for name, each in zip(run.trajectory.groups, products.T, strict=True) if np.isnan(each).all()]
    if not small:
        return make_finding(
            "too_small", "Every domain has rows enough for unbiased self products.", value={"names": []}
        )
    sentence = (
        f"{names_text(small)} fill(s) only one row: the product of such a gradient with itself cannot be told from "
        "noise and is not used, so a domain that needs it keeps its prior weight; add text, merge domains, or "
        "shorten corpus.row_tokens."
    )
    return make_finding("too_small", sentence, warn=True, value={"names": small})


def pairs(run: RunRecord) -> Finding:
    """Find the pairs of domains whose gradients are most alike, and most opposed."""
    matrix = help_matrix(run)
    assert matrix is not None, "there are blocks of the gram"
    same = [pair for pair in matrix.redundant if pair.low > REDUNDANT]
    parts = [f"most alike: {pairs_text(matrix.redundant[:MOST_TOLD]) or f'no two at {ALIKE} or more beyond noise'}"]
    parts.append(f"most opposed: {pairs_text(matrix.conflicting[:MOST_TOLD]) or 'no two below 0 beyond noise'}")
    if matrix.unmeasured:
        parts.append(f"gradient lost in noise: {names_text(matrix.unmeasured)}")
    if same:
        parts.append(f"{same[0].first} and {same[0].second} teach mostly the same: merge them, or keep one")
    kinds = {"redundant": matrix.redundant, "conflicting": matrix.conflicting}
    value = {kind: [vars(pair) for pair in listed] for kind, listed in kinds.items()} | {
        "unmeasured": list(matrix.unmeasured)
    }
    return make_finding("pairs", f"Cosines of gradients: {'; '.join(parts)}.", warn=bool(same), value=value)
