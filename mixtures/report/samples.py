"""The section on a run's sample scores: their distribution, and the documents with the lowest and highest scores."""

import numpy as np
import pandas as pd

from mixtures.errors import UserError
from mixtures.report.html import Cell, Html, data_table, element, folded, join, number
from mixtures.report.page import Section
from mixtures.report.svg import Whisker, figure, whisker_chart
from mixtures.run.run import RunRecord
from mixtures.samples.documents import CHARACTERS, Reader, open_reader, printable
from mixtures.samples.scores import Scores, read_scores
from mixtures.samples.summary import DomainScores, Summary, summarise
from mixtures.text import capital

PREFERRED = "word_embedding"  # the score that `export --samples` uses by default
ENDS = 3  # number of documents listed at each end


def samples_section(run: RunRecord) -> list[Section]:
    """Return a list with the section about a run's scores; empty if nothing was scored.

    If the scores cannot be read, the section says why.
    """
    if not (run.path / "scores").is_dir():
        return []
    try:
        return [Section("samples", "Samples", _samples(run))]
    except UserError as error:
        return [Section("samples", "Samples", element("p", f"The scores cannot be shown: {error}"))]


def _samples(run: RunRecord) -> Html:
    scores = read_scores(run.path)
    summary = summarise(scores)
    main = PREFERRED if PREFERRED in summary.names else next(iter(summary.names))
    others = [score for score in summary.names if score != main]
    read, note = open_reader(run)
    title = f"{capital(summary.unit)}s with the lowest and highest {main}"
    documents = [_documents(domain, summary, main, read) for domain in summary.domains]
    notes = [element("p", note.strip(), class_="quiet")] if note else []
    more = (
        [folded(f"Other scores: {', '.join(others)}", *(_spread(summary, score) for score in others))] if others else []
    )
    return join(
        [_spread(summary, main), _table(scores, summary, main), *more, folded(f"{title} by domain", *notes, *documents)]
    )


def _spread(summary: Summary, score: str) -> Html:
    """Draw the quantiles of a score per domain."""
    rows = []
    for domain in summary.domains:
        _, low, first, median, third, high, _ = domain.quantiles[score]
        rows.append(Whisker(domain.name, median, low, high, f"{median:.4g}", inner=(first, third)))
    rows.sort(key=lambda row: np.nan_to_num(-row.value, nan=np.inf))
    logarithmic = summary.heavy_tailed(score)
    label = f"Score {score} by domain: median, middle half, and 1 % to 99 % of the {summary.unit}s"
    chart = whisker_chart(
        rows, label=label, x_label=score, x_format=lambda value: f"{value:g}", logarithmic=logarithmic
    )
    same = [name for name in summary.names[score] if name != score]
    return figure(chart, label + (f"; {', '.join(same)} hold the same values." if same else "."), label=label)


def _table(scores: Scores, summary: Summary, score: str) -> Html:
    rows: list[list[Cell]] = []
    for domain in summary.domains:
        entry, rho = scores.meta.domains[domain.name], domain.rho[score]
        part = entry.scored_tokens / max(entry.tokens, 1)
        numbers = [
            number(entry.samples, ","),
            (f"{100 * part:.0f} %", part),
            number(domain.quantiles[score][3], ".4g"),
            number(rho, ".2f"),
        ]
        rows.append([domain.name, *numbers])
    header = ["domain", f"{summary.unit}s", "of the tokens", f"median {score}", "rank correlation with length"]
    return data_table(header, rows, caption=f"What was scored; {score}")


def _documents(domain: DomainScores, summary: Summary, score: str, read: Reader | None) -> Html:
    """Return a table of the lowest and highest documents of a domain, with the beginning of their text."""
    ranked = domain.ends[score]
    if len(ranked) > 2 * ENDS:
        ranked = pd.concat([ranked[:ENDS], ranked[-ENDS:]])
    rows: list[list[Cell]] = []
    for document, start, tokens, value in ranked[["document", "start", "tokens", score]].itertuples(index=False):
        text = printable(read(domain.name, int(start), int(tokens)))[:CHARACTERS] if read else "-"
        rows.append([printable(document), number(value, ".4g"), number(tokens, ","), text])
    return data_table([summary.unit, score, "tokens", "text begins"], rows, caption=f"{domain.name}: lowest first")
