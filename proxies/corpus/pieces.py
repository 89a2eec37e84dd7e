"""Pieces of a long text that give, tokenized one after the other, the tokens of the whole text.

The tokenizers library needs 100 to 250 bytes of memory for every byte of a text, so a text of 64 MB would need more
memory than most machines have. A cut is made only where three things show that no token reaches over it:

- The tokenizer has only parts that look at a few characters around (LOCAL); a part that counts characters from the
  beginning of the text is none.
- No token of its vocabulary reaches over a place of this kind: before a space between two words, or after the single
  line break before a word. A vocabulary of single characters can be cut anywhere.
- The MARGIN characters before and after the place, tokenized apart and together, give the same tokens.
"""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders

from mixtures.errors import UserError

PIECE = 2**19  # characters from which on a text is cut, and about how many a piece has
LONGEST = 10_000_000  # characters of a piece without a place to cut, at most; they need 1 to 2.5 GB
MARGIN = 256  # characters on either side of a cut whose tokens are compared
TRIES = 1_000  # places that are tried for one piece; behind so many failures there is no cut in a text
BETWEEN_WORDS = re.compile(r"(?<=\w)(?= \w)")
AFTER_LINE = re.compile(r"(?<=\S\n)(?=\w)")
ANYWHERE = re.compile("")
LOCAL = {
    *("Sequence", "ByteLevel", "Metaspace", "Split", "Punctuation", "Digits", "Whitespace", "WhitespaceSplit"),
    *("BertPreTokenizer", "CharDelimiterSplit", "UnicodeScripts"),
    *("NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "StripAccents", "BertNormalizer", "Precompiled", "Replace"),
    *("Prepend", "Strip"),
}


def cutting_places(backend: Backend) -> list[re.Pattern[str]]:
    """Return patterns of the places at which a text can be cut; empty for a tokenizer that does not allow it."""
    content = json.loads(backend.to_str())
    model, parts = content["model"], [content["normalizer"], content["pre_tokenizer"]]
    kinds = {kind for part in parts for kind in _kinds(part)}
    if not kinds <= LOCAL:
        return []
    if model["type"] == "BPE" and not model["merges"]:
        return [ANYWHERE]
    entries = model["vocab"]
    tokens = [*(entry if isinstance(entry, str) else entry[0] for entry in entries)]
    tokens += [token["content"] for token in content["added_tokens"]]
    if "ByteLevel" in kinds:  # its tokens are bytes, spelled with other characters; a part of a character gives U+FFFD
        tokens = [decoders.ByteLevel().decode([token]) for token in tokens]
    crossing = {BETWEEN_WORDS: re.compile("[\\w\ufffd][ ▁]"), AFTER_LINE: re.compile("\n[\\w\ufffd]")}
    return [place for place, token in crossing.items() if not any(map(token.search, tokens))]


def cut(text: str, backend: Backend, places: Sequence[re.Pattern[str]], *, tokenizer: str) -> Iterator[str]:
    """Yield pieces of about PIECE characters that together are the text, cut at `places` (`cutting_places`).

    Raises UserError for a piece of more than LONGEST characters; `tokenizer` names the tokenizer in the message.
    """
    start = 0
    while len(text) - start > PIECE:
        stop = _next_cut(text, start + PIECE, min(start + LONGEST, len(text)), backend, places)
        if stop is None:
            if len(text) - start > LONGEST:
                raise UserError(
                    f"a document that has {text[start : start + 40]!r} at character {start} has no place in its next "
                    f"{LONGEST:,} characters where tokenizer {tokenizer} lets it be cut; a longer piece can take "
                    "more memory than there is, so split or leave out this document, or use `train_bpe` or `bytes`"
                )
            break
        yield text[start:stop]
        start = stop
    yield text[start:]


def _next_cut(text: str, start: int, stop: int, backend: Backend, places: Sequence[re.Pattern[str]]) -> int | None:
    """Return the first place between `start` and `stop` at which the text can be cut; None if there is none."""
    for place in places:
        for match in islice(place.finditer(text, start, stop), TRIES):
            at = match.start()
            before, after = text[max(at - MARGIN, 0) : at], text[at : at + MARGIN]
            if at < stop and _ids(backend, before) + _ids(backend, after) == _ids(backend, before + after):
                return at
    return None


def _ids(backend: Backend, text: str) -> list[int]:
    ids: list[int] = backend.encode(text, add_special_tokens=False).ids
    return ids


def _kinds(part: Any) -> Iterator[str]:
    """Yield the types of a normalizer or pre-tokenizer of a tokenizer.json and of all parts in it."""
    if isinstance(part, dict):
        if "type" in part:
            yield part["type"]
        for inner in [*part.get("normalizers", []), *part.get("pretokenizers", [])]:
            yield from _kinds(inner)
