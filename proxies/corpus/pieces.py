"""Pieces of a long text that give, tokenized one after the other, the tokens of the whole text.

The tokenizers library needs 100 to 250 bytes of memory for every character of a text, so a text of 64 MB would need
more than most machines have. A cut is made only where three things show that no token reaches over it, and that the
tokens on either side do not depend on the text on the other:

- The tokenizer has only parts that look at a few characters around (LOCAL, FAR); a part that counts characters from the
  beginning of the text, or puts something before it (as Llama 2's), is none.
- No token of its vocabulary reaches over a place of this kind (PLACES). So no merge of a BPE does, and the merges on
  either side do not know of each other. A vocabulary of single characters can be cut anywhere.
- The MARGIN characters before and after the place, tokenized apart and together, give the same tokens, also with one
  character less before it: what the tokenizer does at the place does not depend on where it began to read.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders

PIECE = 2**19  # characters from which on a text is cut, and about how many a piece has
MARGIN = 256  # characters on either side of a cut whose tokens are compared
TRIES = 100  # places that are tried for one piece; behind so many failures there is no cut in a text
CHARACTER_BYTES = 250  # memory that the library needs for a character, at most
LONG = 4_000_000  # characters of a piece from which on its memory is told: 1 GB
ANYWHERE = re.compile("")
BETWEEN_WORDS = re.compile(r"(?<=\w)(?= \w)")
PLACES = {  # a place, and what a token that reaches over it contains; U+FFFD: a part of a character
    BETWEEN_WORDS: re.compile("[\\w\ufffd][ ▁]"),
    re.compile(r"(?<=\S\n)(?=\w)"): re.compile("\n[\\w\ufffd]"),
    re.compile(r'(?<=\w)(?=[,;:="()\[\]{}])'): re.compile('[\\w\ufffd][,;:="()\\[\\]{}]'),
}
LOCAL = {
    *("Sequence", "ByteLevel", "Metaspace", "Split", "Punctuation", "Digits", "Whitespace", "WhitespaceSplit"),
    *("BertPreTokenizer", "CharDelimiterSplit", "UnicodeScripts"),
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled", "Replace"),
    "Strip",
}
# parts of a regular expression that count many characters, look around without limit, or know the ends of the text
FAR = re.compile(r"\{\d*,?\d{2,}\}|\{\d{2,},|\(\?<?[=!][^)]*[*+{]|\\[AGZz]")


def cutting_places(backend: Backend) -> list[re.Pattern[str]]:
    """Return patterns of the places at which a text can be cut; empty for a tokenizer that does not allow it."""
    content = json.loads(backend.to_str())
    model, parts = content["model"], [*_parts(content["normalizer"]), *_parts(content["pre_tokenizer"])]
    if not all(map(_is_local, parts)):
        return []
    if model["type"] == "BPE" and not model["merges"]:
        return [ANYWHERE]
    tokens = [entry if isinstance(entry, str) else entry[0] for entry in model["vocab"]]
    tokens += [token["content"] for token in content["added_tokens"]]
    if any(part["type"] == "ByteLevel" for part in parts):  # its tokens are bytes, spelled with other characters
        tokens = [decoders.ByteLevel().decode([token]) for token in tokens]
    places = [place for place, crossing in PLACES.items() if not any(map(crossing.search, tokens))]
    if model["type"] == "Unigram":  # it adds up scores along a word; another beginning may round them another way
        return [place for place in places if place is BETWEEN_WORDS and _splits_words(backend)]
    return places


def cut(text: str, backend: Backend, places: Sequence[re.Pattern[str]]) -> Iterator[str]:
    """Yield pieces of about PIECE characters that together are the text, cut at `places` (`cutting_places`).

    A piece without such a place is as long as it has to be.
    """
    start = 0
    while len(text) - start > PIECE and (stop := _next_cut(text, start + PIECE, backend, places)) is not None:
        yield text[start:stop]
        start = stop
    yield text[start:]


def warning(piece: str, tokenizer: str) -> str:
    """Return a sentence for a piece of LONG characters or more: what memory the tokenizer called `tokenizer` needs."""
    return (
        f"warning: a document has {len(piece):,} characters (from {piece[:40]!r} on) in which tokenizer {tokenizer} "
        f"allows no exact cut; to tokenize them in one go takes up to {len(piece) * CHARACTER_BYTES / 1e9:,.1f} GB of "
        "memory. Split the document where that is too much, or use `bytes`"
    )


def _next_cut(text: str, start: int, backend: Backend, places: Sequence[re.Pattern[str]]) -> int | None:
    """Return the first place from `start` on at which the text can be cut; None if there is none."""
    for place in places:
        for match in islice(place.finditer(text, start, len(text) - 1), TRIES):
            at = match.start()
            before, after = text[max(at - MARGIN, 0) : at], text[at : at + MARGIN]
            if all(
                _ids(backend, left) + _ids(backend, after) == _ids(backend, left + after)
                for left in (before, before[1:])
            ):
                return at
    return None


def _ids(backend: Backend, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


def _parts(part: Any) -> Iterator[dict[str, Any]]:
    """Yield a normalizer or pre-tokenizer of a tokenizer.json and all parts in it."""
    if part is not None:
        yield part
        for inner in [*part.get("normalizers", []), *part.get("pretokenizers", [])]:
            yield from _parts(inner)


def _is_local(part: dict[str, Any]) -> bool:
    """Say whether what a part does at a place depends on a few characters around it alone."""
    pattern = part.get("pattern", {}).get("Regex", "")
    return part["type"] in LOCAL and not FAR.search(pattern) and part.get("replacement", "▁") == "▁"


def _splits_words(backend: Backend) -> bool:
    text = backend.normalizer.normalize_str("a b") if backend.normalizer else "a b"
    return backend.pre_tokenizer is not None and len(backend.pre_tokenizer.pre_tokenize_str(text)) > 1
