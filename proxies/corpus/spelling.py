"""What a tokenizer cannot spell: characters that become its unknown token or are dropped, counted per domain.

A model predicts unknown tokens easily, so a domain that is full of them looks as if it were learned best.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

from mixtures.errors import UserError

REFUSED = 0.1  # share of a domain's characters or tokens that are lost, from which on it is refused
WARNED = 0.001  # and from which on the run warns
SAMPLE_CHARACTERS = 100_000  # characters that are checked at most, of each batch of documents that are tokenized
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def spells_all_bytes(backend: Backend) -> bool:
    """Say whether a tokenizer is a BPE with a token for every byte, which has no unknown characters."""
    content = json.loads(backend.to_str())
    model = content["model"]
    if model["type"] != "BPE":
        return False
    byte_level = '"type": "ByteLevel"' in json.dumps([content["pre_tokenizer"], content["normalizer"]])
    if not byte_level and not model["byte_fallback"]:
        return False
    if byte_level and (model["continuing_subword_prefix"] or model["end_of_word_suffix"]):
        return False
    return all(
        token in model["vocab"] for token in (pre_tokenizers.ByteLevel.alphabet() if byte_level else BYTE_TOKENS)
    )


def model_of(backend: Backend) -> dict[str, Any]:
    """Return the `model` of a tokenizer.json: type, vocabulary, unknown token; takes a second for a large one."""
    model: dict[str, Any] = json.loads(backend.to_str())["model"]
    return model


def count_lost(backend: Backend, model: dict[str, Any], texts: Iterable[str]) -> Counter[str]:
    """Count what a tokenizer loses of texts: `characters`, `lost_characters`, `tokens`, `unknown_tokens`.

    `model` is what `model_of` returns.

    White space and characters without a shape do not count. Accents and capitals that the tokenizer's normalizer takes
    away are not lost; letters that it takes away are.
    """
    unknown = model.get("unk_id")
    if unknown is None and model.get("unk_token") is not None:
        unknown = backend.token_to_id(model["unk_token"])
    # text never becomes a special token, except the unknown one
    added = [
        place for place, token in backend.get_added_tokens_decoder().items() if not token.special and place != unknown
    ]
    counts: Counter[str] = Counter(characters=0, lost_characters=0, tokens=0, unknown_tokens=0)
    for text in texts:
        encoding = backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, dtype=np.int64)
        known = ids != (-1 if unknown is None else unknown)
        counts.update(tokens=len(ids), unknown_tokens=int((~known).sum()))
        spans = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        if model["type"] == "BPE":
            apart = spans[np.isin(ids, added)].tolist()  # the model does not see what added tokens spell
            counts.update(characters=sum(_visible(letter) for start, stop in apart for letter in text[start:stop]))
            borders = [0, *itertools.chain.from_iterable(apart), len(text)]
            segments = [text[start:stop] for start, stop in zip(borders[::2], borders[1::2], strict=True)]
            counts.update(_lost_by_bpe(backend, model, segments))
        else:
            counts.update(_uncovered(text, spans[known]))
    return counts


def spelling_warning(lost: dict[str, int], counts: list[dict[str, int]], tokenizer: str) -> str:
    """Return a sentence for a domain of which a small part is lost; empty if it is next to nothing.

    lost: what `count_lost` counted. counts: documents, tokens and bytes of the domain's splits. tokenizer: its name.
    Raises UserError from REFUSED on.
    """
    characters = lost["lost_characters"] / max(lost["characters"], 1)
    tokens = lost["unknown_tokens"] / max(lost["tokens"], 1)
    if max(characters, tokens) < WARNED:
        return ""
    size = sum(split["bytes"] for split in counts)
    count = sum(split["tokens"] - split["documents"] for split in counts)
    facts = (
        f"tokenizer {tokenizer} cannot spell {characters:.1%} of its characters ({lost['lost_characters']:,} of "
        f"{lost['characters']:,} checked: dropped, or part of an unknown token); {tokens:.1%} of its tokens are the "
        f"unknown token; {f'{size / count:.1f} bytes per token' if count else 'no tokens at all'}"
    )
    if max(characters, tokens) < REFUSED:
        return (
            f"{facts}. What is lost counts as learned; `train_bpe`, `bytes` and tokenizers with all bytes lose nothing"
        )
    raise UserError(
        f"{facts}. Less than {REFUSED:.0%} is allowed, because what is lost would count as learned; use a tokenizer "
        "that has all bytes (`train_bpe`, `bytes`, or a byte-level one), or leave the domain out"
    )


def _lost_by_bpe(backend: Backend, model: dict[str, Any], segments: list[str]) -> dict[str, int]:
    """Count characters of text without added tokens whose symbol the vocabulary lacks.

    A BPE without an unknown token drops them, and the offsets of its tokens are then wrong.
    """
    pieces: Counter[str] = Counter()
    for segment in segments:
        normalized = backend.normalizer.normalize_str(segment) if backend.normalizer else segment
        words = backend.pre_tokenizer.pre_tokenize_str(normalized) if backend.pre_tokenizer else [(normalized, None)]
        pieces.update(word for word, _ in words)
    prefix, suffix = model["continuing_subword_prefix"] or "", model["end_of_word_suffix"] or ""
    vocabulary, fallback = model["vocab"], model["byte_fallback"]
    characters = lost = 0
    for piece, times in pieces.items():
        whole = model.get("ignore_merges") and piece in vocabulary
        for place, character in enumerate(piece):
            if not _visible(character):
                continue
            characters += times
            symbol = (prefix if place else "") + character + (suffix if place == len(piece) - 1 else "")
            spelt = whole or symbol in vocabulary
            if not spelt and not (fallback and all(BYTE_TOKENS[byte] in vocabulary for byte in symbol.encode())):
                lost += times
    return {"characters": characters, "lost_characters": lost}


def _uncovered(text: str, spans: np.ndarray) -> dict[str, int]:
    """Count the visible characters of a text that are in none of the spans (n, 2) of start and end."""
    depth = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(depth, spans[:, 0], 1)
    np.add.at(depth, spans[:, 1], -1)
    visible = np.fromiter(map(_visible, text), dtype=bool, count=len(text))
    return {
        "characters": int(visible.sum()),
        "lost_characters": int((visible & (np.cumsum(depth)[:-1] == 0)).sum()),
    }


def _visible(character: str) -> bool:
    return character != " " and character.isprintable()
