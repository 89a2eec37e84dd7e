"""From text to token ids: one kind of tokenizer (a tokenizer.json), trained here, given, pretrained, or raw bytes."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mixtures.errors import UserError
from mixtures.files import write_atomic
from proxies.corpus.settings import TokenizerSettings

END_OF_TEXT = "<|endoftext|>"
KNOWN_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "<|end▁of▁sentence|>", "[EOS]")


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and its end-of-text token; build it with the functions below."""

    name: str
    backend: Backend
    eos_id: int

    separators_per_document = 1  # end-of-text tokens after each document

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (uint32) of each text, without the end-of-text token; text that spells one stays text."""
        return [
            np.array(each.ids, dtype=np.uint32)
            for each in self.backend.encode_batch_fast(texts, add_special_tokens=False)
        ]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special tokens spelled out."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def vocab_size(self) -> int:
        """Number above every token id (tokens)."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that decides the token ids; the order of keys or white space in the file does not count."""
        content = json.dumps([json.loads(self.backend.to_str()), self.eos_id], sort_keys=True)
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json, atomically; `from_file` reads it back (if the end-of-text token is a known one)."""
        write_atomic(path, self.backend.to_str())

    def record(self) -> dict[str, Any]:
        """What corpus.json says of a tokenizer."""
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
            "separators_per_document": self.separators_per_document,
        }


def train_bpe(texts: Iterable[str], vocab_size: int) -> TextEncoder:
    """A byte-level BPE of `vocab_size` tokens (fewer where no pair is left to merge), determined by the text."""
    backend = _byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return _finish(f"bpe-{vocab_size}", backend, None)


def head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """The first `characters` of some texts, the last one cut short."""
    left = characters
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def equal_text(domains: Sequence[Sequence[str]]) -> Iterator[str]:
    """As many characters of each domain as the longest has: shorter ones are repeated, so that all count alike."""
    most = max(sum(map(len, texts)) for texts in domains)
    return itertools.chain.from_iterable(head(itertools.cycle(texts), most) for texts in domains)


def raw_bytes() -> TextEncoder:
    """Each byte of the UTF-8 text is a token (id: its value), 256 is the end of text."""
    printable = [
        *range(33, 127),
        *range(161, 173),
        *range(174, 256),
    ]  # the byte-level alphabet writes these as they are,
    others = [byte for byte in range(256) if byte not in printable]  # and these as the characters from 256 on
    vocabulary = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
    backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens([END_OF_TEXT])
    return _finish("bytes", backend, None)


def from_file(path: str | Path, name: str = "") -> TextEncoder:
    """The tokenizer of a tokenizer.json. Raises UserError if it is none or has no end-of-text token."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer file {path} cannot be read: {error}") from error
    try:
        backend = Backend.from_str(text)
    except Exception as error:  # the library raises no other type
        raise UserError(f"{path} is not a tokenizer.json of the tokenizers library: {error}") from error
    return _finish(name or str(path), backend, None)


def from_pretrained(name: str) -> TextEncoder:
    """The tokenizer of a model that transformers can load, by name or directory.

    Raises UserError where there is none, where it has no tokenizer.json form, and where it has no end-of-text token.
    """
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"no tokenizer {name!r}: {reason}; give a directory or a name on the Hugging Face hub that transformers "
            f"can load"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise UserError(
            f"tokenizer {name!r} ({type(loaded).__name__}) has no tokenizer.json form; give a fast tokenizer"
        )
    return _finish(name, Backend.from_str(backend.to_str()), loaded.eos_token)


def load(block: TokenizerSettings) -> TextEncoder:
    """The tokenizer that the settings name; `train_bpe` needs the corpus and is not for here."""
    assert not block.train_bpe
    if block.bytes:
        return raw_bytes()
    return from_file(block.file) if block.file else from_pretrained(block.pretrained)


def _byte_level(model: models.Model) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _finish(name: str, backend: Backend, end: str | None) -> TextEncoder:
    """A tokenizer that encodes whole documents: a file's rules for cutting, padding and special tokens are off."""
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    ends = [end] if end else [token for token in KNOWN_ENDS if backend.token_to_id(token) is not None]
    eos_id = backend.token_to_id(ends[0]) if ends else None
    if eos_id is None:
        raise UserError(
            f"tokenizer {name} has no end-of-text token, which documents are joined with; "
            f"known ones: {', '.join(KNOWN_ENDS)}; add one as a special token to its tokenizer.json, "
            "or use `train_bpe` or `bytes`"
        )
    return TextEncoder(name, backend, eos_id)
