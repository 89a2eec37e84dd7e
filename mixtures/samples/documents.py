"""documents.txt: the documents with the highest and lowest scores of every domain, with the beginning of their text."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import fill

import pandas as pd

from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.run.run import RunRecord
from mixtures.samples.summary import ENDS, DomainScores, Summary
from mixtures.stream.tokens import open_sources
from mixtures.sums import require_whole

CHARACTERS = 100  # of a document's text
TOKENS_READ = 4 * CHARACTERS  # a character may be four tokens of one byte each
WIDTH = 100  # of the sentences

Reader = Callable[[str, int, int], str]  # (domain, first token, number of tokens) -> the beginning of this text


def write_documents(summary: Summary, run: RunRecord, directory: str | Path) -> Path:
    """Write documents.txt into `directory`: the documents at both ends of every score, by domain; return its path.

    Where the text cannot be read, the file says why and has no text.
    """
    read, note = open_reader(run)
    blocks = [_heading(summary, run) + note]
    blocks += ["\n\n".join(_domain_blocks(domain, summary, read)) for domain in summary.domains]
    path = Path(directory) / "documents.txt"
    write_atomic(path, "\n\n\n".join(blocks) + "\n")
    return path


def open_text(run: RunRecord) -> Reader:
    """Return a function that reads the run's text, from the run's token cache with its tokenizer.json.

    Raises UserError where the cache or the tokenizer is missing or is another one.
    """
    from tokenizers import Tokenizer

    cache = run.config.corpus.get("cache_dir") or run.path.resolve().parent / "cache"
    domains = [domain.as_domain() for domain in run.mixed]
    sources = open_sources(domains, run.corpus.tokenizer, cache, check_text=True)
    path = run.path / "tokenizer.json"
    require_whole(path, run_id=run.run_id)
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; restore it from a copy") from error
    except Exception as error:  # the library raises no narrower class
        raise UserError(
            f"{path} is not a tokenizer.json of the tokenizers library: {error}; restore it from a copy"
        ) from error

    def read(domain: str, start: int, tokens: int) -> str:
        ids = sources[domain].ids[start : start + min(tokens, TOKENS_READ)]
        text: str = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        return text

    return read


def printable(text: str) -> str:
    """Return the text on one line, with control and format characters written as escapes.

    Such characters could hide or change what a terminal shows.
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def open_reader(run: RunRecord) -> tuple[Reader | None, str]:
    """Return (a function that reads the run's text, no note), or (None, a note that says why it cannot be read)."""
    try:
        return open_text(run), ""
    except UserError as error:
        return None, f"\n\nwithout the text of the documents: {error}"


def _heading(summary: Summary, run: RunRecord) -> str:
    """Return the sentence at the top of the file."""
    text = (
        f"The {ENDS} highest and lowest {summary.unit}s of every score and domain, of the run {run.path}. tokens: "
        f"length; text: the first {CHARACTERS} characters, control characters as escapes such as \\n; then the "
        "document's id."
    )
    return fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _domain_blocks(domain: DomainScores, summary: Summary, read: Reader | None) -> Iterator[str]:
    """Yield the title of a domain, then one block per score and end."""
    title = f"{domain.name}: {domain.documents:,} {summary.unit}{'' if domain.documents == 1 else 's'} scored"
    yield f"{title}\n{'=' * len(title)}"
    for score, same in summary.names.items():
        ranked = domain.ends[score]
        ends = {"highest": ranked[::-1][:ENDS], "lowest": ranked[:ENDS]}
        if len(ranked) <= ENDS:
            ends = {"highest first": ranked[::-1]}
        for which, frame in ends.items():
            if len(frame):
                yield "\n".join([f"{' = '.join(same)}, {which}", *_lines(domain.name, frame, score, read)])


def _lines(domain: str, frame: pd.DataFrame, score: str, read: Reader | None) -> Iterator[str]:
    """Yield aligned lines of score, tokens, text and id; the id comes last, because it may be long."""
    yield f"  {'score':>10}  {'tokens':>7}  " + (f"{'text':<{CHARACTERS}}  " if read else "") + "document"
    for value, tokens, start, document, row in zip(
        frame[score], frame["tokens"], frame["start"], frame["document"], frame["row"], strict=True
    ):
        text = printable(read(domain, start, tokens))[:CHARACTERS].ljust(CHARACTERS) + "  " if read else ""
        place = printable(document) + ("" if pd.isna(row) else f" row {int(row)}")
        yield f"  {value:>10.4g}  {tokens:>7,}  {text}{place}"
