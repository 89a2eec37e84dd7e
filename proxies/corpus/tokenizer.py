"""Tokenizers in the form of a tokenizer.json: trained on the corpus, read from a file, pretrained, or raw bytes."""

import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers
from tqdm import tqdm

from mixtures.errors import UserError, printable, quoted
from mixtures.files import write_atomic
from proxies.corpus import pieces, spelling
from proxies.corpus.ends import END_OF_TEXT, choose_end, fingerprint
from proxies.corpus.settings import TokenizerSettings
from proxies.model_faults import ERRORS, cause

LONGEST_WORD = 1024  # bytes of a word that a BPE is trained on; the time grows with the square of a word's length
LONG_TRAINING = 5_000_000  # characters from which on the training of a BPE shows its progress; some seconds


@dataclass(frozen=True)
class TextEncoder:
    """A tokenizer and its end-of-text token. The functions of this module build it."""

    name: str
    backend: Backend
    eos_id: int

    separators_per_document = 1  # end-of-text tokens after each document

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids (uint32) of each text, without an end-of-text token.

        Text that spells the end-of-text token is encoded as ordinary text. Texts of more than `pieces.PIECE` characters
        are encoded in pieces, which bounds the memory. Raises UserError for text that the tokenizer has no tokens for.
        """
        if max(map(len, texts), default=0) <= pieces.PIECE:
            return self._encode_whole(texts)
        return [self._encode_long(text) for text in texts]

    def _encode_long(self, text: str) -> np.ndarray:
        """Encode a text piece by piece; say the memory that a piece of many characters needs."""
        ids = bytearray()
        for piece in pieces.cut(text, self.backend, self._cutting_places):
            if len(piece) >= pieces.LONG:
                tqdm.write(printable(pieces.warning(piece, self.name)), file=sys.stderr)
            ids += self._encode_whole([piece])[0].tobytes()
        return np.frombuffer(ids, dtype=np.uint32)

    def _encode_whole(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises no other type
            raise self._cannot_encode(texts, error) from error
        batch = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        return [
            self._encode_apart(text) if (ids == self.eos_id).any() else ids
            for text, ids in zip(texts, batch, strict=True)
        ]

    def _encode_apart(self, text: str) -> np.ndarray:
        """Encode a text that spells the end-of-text token, cut after the first character of each such place."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        ends = [span for place, span in zip(encoding.ids, encoding.offsets, strict=True) if place == self.eos_id]
        cuts = [0, *(start + 1 for start, _ in ends), len(text)]
        parts = [text[start:stop] for start, stop in itertools.pairwise(cuts)]
        ids = [place for part in parts for place in self.backend.encode(part, add_special_tokens=False).ids]
        if self.eos_id in ids:
            start, stop = ends[0]
            raise UserError(
                f"tokenizer {self.name} ends documents with {quoted(self.end)}, but its ordinary text has this "
                f"token, too "
                f"({quoted(text[start:stop])} at character {start} of a document); set corpus.tokenizer.end to "
                f"a token that "
                "text does not hold"
            )
        return np.array(ids, dtype=np.uint32)

    def _cannot_encode(self, texts: Sequence[str], error: Exception) -> UserError:
        """Return the error for texts that the library refuses, with the beginning of the first one."""
        for text in texts:
            try:
                self.backend.encode(text, add_special_tokens=False)
            except Exception:  # the library raises no other type
                break
        return UserError(
            f"tokenizer {self.name} cannot encode the document that begins with {text[:40]!r}: {error}. It lacks a "
            "token for what it does not know; add its unknown token to the vocabulary of its tokenizer.json, or use "
            "`train_bpe` or `bytes`"
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, with special tokens spelled out."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    @cached_property
    def vocab_size(self) -> int:
        """Size of the vocabulary: the largest token id plus one (tokens)."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the token ids; order of keys and white space in the file do not count."""
        return fingerprint(self.backend, self.eos_id)

    @property
    def end(self) -> str:
        """The end-of-text token, spelled out."""
        return str(self.backend.id_to_token(self.eos_id))

    @cached_property
    def spells_all(self) -> bool:
        """Say whether the tokenizer has tokens for every text; else what it loses is counted (spelling.py)."""
        return spelling.spells_all_bytes(self.backend)

    def count_lost(self, texts: Iterable[str]) -> Counter[str]:
        """Count characters and tokens of texts, and how many are lost (`spelling.count_lost`)."""
        return spelling.count_lost(self.backend, self._model, texts)

    @cached_property
    def _cutting_places(self) -> list[re.Pattern[str]]:
        return pieces.cutting_places(self.backend)

    @cached_property
    def _model(self) -> dict[str, Any]:
        return spelling.model_of(self.backend)

    def save(self, path: str | Path) -> None:
        """Write a tokenizer.json, atomically. `from_file` reads it back, given `end` or beside a run's corpus.json."""
        write_atomic(path, self.backend.to_str())

    def record(self) -> dict[str, Any]:
        """Return the entry of this tokenizer in corpus.json."""
        return {
            "name": self.name,
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
            "separators_per_document": self.separators_per_document,
            "end": self.end,
        }


def train_bpe(texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> TextEncoder:
    """Train a byte-level BPE of `vocab_size` tokens on texts; fewer tokens if no pair is left to merge.

    The same texts always give the same tokenizer. It learns no token across the pieces of a word of more than
    LONGEST_WORD bytes. `progress` shows the library's bars on a terminal.
    """
    backend = _byte_level(models.BPE())
    words = backend.pre_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(LONGEST_WORD)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=progress,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = words
    return _finish(f"bpe-{vocab_size}", backend, end=END_OF_TEXT)


def head(texts: Iterable[str], characters: int) -> Iterator[str]:
    """Yield texts up to a total of `characters` characters; the last one is cut short."""
    left = characters
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def equal_text(domains: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield equally many characters of every domain: those shorter than the longest are repeated."""
    most = max(sum(map(len, texts)) for texts in domains)
    return itertools.chain.from_iterable(head(itertools.cycle(texts), most) for texts in domains)


def raw_bytes() -> TextEncoder:
    """Return a tokenizer whose token ids are the bytes of the UTF-8 text; 256 is the end of text."""
    # The byte-level alphabet writes printable bytes as the character of the same number, the others as characters from
    # number 256 on.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    vocabulary = {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(unprintable)
    }
    backend = _byte_level(models.BPE(vocab=vocabulary, merges=[]))
    backend.add_special_tokens([END_OF_TEXT])
    return _finish("bytes", backend, end=END_OF_TEXT)


def from_file(path: str | Path, name: str = "", *, end: str = "") -> TextEncoder:
    """Read a tokenizer.json. `end` is its end-of-text token; empty: see `choose_end`, which reads files beside it.

    Raises UserError if it is no tokenizer.json, and as `choose_end`.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"tokenizer file {path} cannot be read: {error}") from error
    try:
        backend = Backend.from_str(text)
    except Exception as error:  # the library raises no other type
        raise UserError(f"{path} is not a tokenizer.json of the Hugging Face tokenizers library: {error}") from error
    return _finish(name or str(path), backend, end=end, folder=Path(path).parent)


def from_pretrained(name: str, *, end: str = "") -> TextEncoder:
    """Load the tokenizer of a model that transformers can load, by name or directory.

    `end` is the end-of-text token; empty: the one that transformers knows, or else as `choose_end`. Raises UserError if
    there is no tokenizer, if it has no tokenizer.json form, and as `choose_end`.
    """
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        loaded = AutoTokenizer.from_pretrained(name)
    except ERRORS as error:
        reason = cause(error)
        raise UserError(
            f"no tokenizer {name!r}: {reason}; give a directory or a name on the Hugging Face hub that transformers "
            "can load"
        ) from error
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise UserError(
            f"tokenizer {name!r} ({type(loaded).__name__}) has no tokenizer.json form; give a tokenizer that "
            "transformers has a fast version of"
        )
    return _finish(name, Backend.from_str(backend.to_str()), end=end or loaded.eos_token or "")


def load(block: TokenizerSettings) -> TextEncoder:
    """Load the tokenizer that the settings name. `train_bpe` must be unset, because it needs the corpus."""
    assert not block.train_bpe
    if block.bytes:
        return raw_bytes()
    if block.file:
        return from_file(block.file, end=block.end)
    return from_pretrained(block.pretrained, end=block.end)


def _byte_level(model: models.Model) -> Backend:
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _finish(name: str, backend: Backend, *, end: str = "", folder: Path | None = None) -> TextEncoder:
    """Return a tokenizer that encodes whole documents, without a file's rules for truncation, padding, special tokens.

    end, folder: as in `choose_end`, which names the end-of-text token.
    """
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    eos_id = backend.token_to_id(choose_end(backend, name, end=end, folder=folder))
    assert eos_id is not None
    return TextEncoder(name, backend, eos_id)
