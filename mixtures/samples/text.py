"""The table that is printed after scoring: one line per domain."""

from textwrap import fill

import numpy as np

from mixtures.samples.scores import Scores
from mixtures.samples.summary import rank_correlation
from mixtures.text import WIDTH, shorten, table, tokens_text

SHOWN = {"nll_mean": "nll", "information_v3": "information", "word_embedding": "word emb."}
SCOPES_SHOWN = 3


def scores_text(scores: Scores) -> str:
    """Return a table with documents, tokens, medians of the main scores, and a rank correlation with length per domain.

    The last column is Spearman's correlation of self-influence (or of the first score shown) with length.
    """
    influences = [name for name in scores.columns if name.startswith("self_influence_")][:SCOPES_SHOWN]
    shown = {name: shorten(name.removeprefix("self_influence_"), 12) for name in influences}
    shown |= {name: title for name, title in SHOWN.items() if name in scores.columns}
    by = influences[0] if influences else next(iter(shown))
    rows = [_line(scores, name, list(shown), by) for name in scores.domains]
    unit = f"{scores.meta.unit}s"
    header = ["domain", unit, "tokens", *shown.values(), "rho length"]
    steps = ", ".join(str(checkpoint.step) for checkpoint in scores.meta.checkpoints)
    scopes = (
        f"{', '.join(shown[name] for name in influences)}: self-influence over these parameters; " if influences else ""
    )
    note = (
        f"medians; {scopes}nll and information in nats per token; rho length: Spearman of {by} with tokens; "
        f"checkpoint {steps}"
    )
    return f"{table(header, rows)}\n{fill(note, WIDTH)}"


def _line(scores: Scores, domain: str, columns: list[str], by: str) -> list[str]:
    """Return the cells of one domain's line; `by`: the score that is compared with length."""
    frame = scores.frame(domain, ["tokens", *columns])
    medians = [f"{np.median(frame[name]):.4g}" if len(frame) else "-" for name in columns]
    rho = rank_correlation(frame["tokens"].to_numpy(), frame[by].to_numpy())
    return [
        domain,
        f"{len(frame):,}",
        tokens_text(frame["tokens"].sum()),
        *medians,
        f"{rho:.2f}" if np.isfinite(rho) else "-",
    ]
