"""A domain's tokens on disk or in memory, and whether they are the text that a mixture was made for."""

import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mixtures.errors import UserError
from mixtures.files import read_json
from mixtures.schedule.records import Domain, Tokenizer
from mixtures.stream.cached import META, REMEDY, SUMS, TOKENS, changed

Source = np.ndarray | str | Path

SCANNED = 2**20  # ids of a source that are compared with the vocabulary when it is opened


@dataclass(frozen=True)
class Tokens:
    """One domain's token ids (N,), every document followed by its separators, and fingerprints where they are known.

    where: the place of the tokens, for messages. A whole memory map pickles as its file's name, so that worker
    processes map it again instead of copying it.
    """

    ids: np.ndarray
    where: str
    tokenizer: str | None = None
    fingerprint: str | None = None

    def __getstate__(self) -> dict[str, Any]:
        state, ids = dict(self.__dict__), self.ids
        if isinstance(ids, np.memmap) and isinstance(ids.base, mmap.mmap):
            state["ids"] = (str(ids.filename), ids.dtype.str, ids.offset, len(ids))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(state["ids"], tuple):
            path, dtype, offset, length = state["ids"]
            state["ids"] = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(length,))
        self.__dict__.update(state)


def as_rows(ids: np.ndarray, row_tokens: int) -> np.ndarray:
    """Return a view (rows, row_tokens) of flat token ids; a last short row is left out."""
    rows = len(ids) // row_tokens
    return ids[: rows * row_tokens].reshape(rows, row_tokens)


def token_dtype(vocab_size: int) -> np.dtype:
    """Return the type that token ids of a vocabulary are stored in: two bytes if they suffice, else four."""
    return np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32)


def id_fault(name: str, ids: np.ndarray, where: str, tokenizer: Tokenizer) -> str | None:
    """Return what is wrong with token ids of a domain: one is below 0 or beyond the vocabulary; None where none is.

    Reads all of `ids`, in their own type: a cast to int64 would hide what is beyond it.
    """
    if not ids.size or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size):
        return None
    wrong = int(ids.min() if ids.min() < 0 else ids.max())
    return (
        f"the source of {name} holds token {wrong}, the mixture's tokenizer {tokenizer.name} has "
        f"{tokenizer.vocab_size} tokens ({where}, {ids.dtype}); allowed: 0 to {tokenizer.vocab_size - 1}; give tokens "
        "of that tokenizer (and the array's right dtype)"
    )


def open_sources(
    domains: Sequence[Domain],
    tokenizer: Tokenizer,
    sources: Mapping[str, Source] | str | Path,
    *,
    check_text: bool,
    check_files: bool = True,
) -> dict[str, Tokens]:
    """Return {name: tokens} of every domain of the mixture, in its order.

    A source is an array of token ids (N,) or a directory of the token cache that `proxies.train` keeps; `sources`
    itself may be that cache. check_text: the tokens must be the text that the mixture names. check_files: with
    check_text, the tokens in a token cache are compared with their hashes. Of the ids only the first SCANNED of each
    source are compared with the vocabulary. Raises UserError listing every fault.
    """
    names = [domain.name for domain in domains]
    if not isinstance(sources, Mapping):
        sources = find_sources(domains, tokenizer, Path(sources))
    missing, unknown = [name for name in names if name not in sources], [name for name in sources if name not in names]
    if missing or unknown:
        raise UserError(
            f"mixture and sources name different domains: only the mixture has {', '.join(missing) or 'none'}; only "
            f"the sources have {', '.join(unknown) or 'none'}; give one source for each of {', '.join(names)}"
        )
    opened = {name: _open(name, sources[name]) for name in names}
    faults = [fault for domain in domains for fault in _faults(tokenizer, domain, opened[domain.name], check_text)]
    first = {name: id_fault(name, tokens.ids[:SCANNED], tokens.where, tokenizer) for name, tokens in opened.items()}
    faults += [fault for fault in first.values() if fault]
    if check_text and check_files and not faults:
        directories = {name: Path(source) for name, source in sources.items() if isinstance(source, str | Path)}
        faults = [
            f"{name}: {path} is damaged ({fault}); {REMEDY}"
            for name, path in directories.items()
            if (fault := changed(path / SUMS, [META, TOKENS]))
        ]
    if faults:
        raise UserError("these sources cannot be streamed:\n" + "\n".join(f"  - {fault}" for fault in faults))
    return opened


def _open(name: str, source: Source) -> Tokens:
    """Return the tokens of a source. Raises UserError for one that is neither token ids nor of the token cache."""
    if not isinstance(source, str | Path):
        ids = np.asanyarray(source)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(
                f"the source of {name} is an array of {ids.dtype} with shape {ids.shape}; give token ids: integers "
                f"of shape (N,)"
            )
        return Tokens(ids, where=str(getattr(ids, "filename", None) or "an array in memory"))
    path = Path(source)
    if not (path / META).is_file():
        raise UserError(
            f"the source of {name}, {path}, is no directory of the token cache (it has no meta.json); give one, or "
            f"an array of "
            'token ids such as np.memmap("tokens.bin", dtype="uint16", mode="r")'
        )
    meta = read_json(path / META)
    try:
        tokenizer = meta["tokenizer"]
        ids = np.memmap(path / TOKENS, dtype=token_dtype(tokenizer["vocab_size"]), mode="r")
        if len(ids) != meta["train"]["tokens"]:
            raise UserError(
                f"{path} holds {len(ids):,} tokens, its meta.json says {meta['train']['tokens']:,}: it is damaged; "
                f"build it again"
            )
        return Tokens(ids, where=str(path), tokenizer=tokenizer["fingerprint"], fingerprint=meta["fingerprint"])
    except (KeyError, TypeError, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} is damaged ({type(error).__name__}: {error}); build it again with `proxies.train`"
        ) from error


def find_sources(domains: Sequence[Domain], tokenizer: Tokenizer, cache: Path) -> dict[str, Path]:
    """Return the directory of every domain in a token cache: the one with the mixture's text and tokenizer.

    Raises UserError listing every domain that has none.
    """
    directories: dict[str, Path] = {}
    faults = []
    for domain in domains:
        candidates = sorted(path.parent for path in cache.glob(f"{domain.name}-*/meta.json"))
        tokens = {
            path: _open(domain.name, path)
            for path in candidates
            if path.name[: -len("-0123456789abcdef")] == domain.name
        }
        fitting = [
            path for path, opened in tokens.items() if not list(_faults(tokenizer, domain, opened, check_text=True))
        ]
        if fitting:
            directories[domain.name] = min(fitting, key=lambda path: tokens[path].fingerprint != domain.fingerprint)
        elif tokens:
            faults.append(
                f"{domain.name}: {'; '.join(path.name for path in tokens)} hold another text or another tokenizer's "
                f"tokens"
            )
        else:
            faults.append(f"{domain.name}: no directory {domain.name}-*")
    if faults:
        lines = "\n".join(f"  - {fault}" for fault in faults)
        raise UserError(
            f"the token cache {cache} does not hold the mixture's text (tokenizer "
            f"{tokenizer.fingerprint}):\n{lines}\n"
            "give the `cache` directory beside the run that learned the mixture, or a source for every domain"
        )
    return directories


def _faults(tokenizer: Tokenizer, domain: Domain, tokens: Tokens, check_text: bool) -> list[str]:
    """Return what keeps a source from being the mixture's text; empty where it is."""
    faults = []
    if tokens.tokenizer is not None and tokens.tokenizer != tokenizer.fingerprint:
        faults.append(
            f"{domain.name}: {tokens.where} was tokenized with {tokens.tokenizer}, the mixture counts tokens of "
            f"{tokenizer.name} ({tokenizer.fingerprint}); tokenize the text with that one"
        )
    elif check_text and domain.complete and domain.fingerprint is not None:
        changed = (
            tokens.fingerprint != domain.fingerprint if tokens.fingerprint else len(tokens.ids) != domain.unique_tokens
        )
        if changed:
            faults.append(
                f"{domain.name}: {tokens.where} ({len(tokens.ids):,} tokens) is not the text that the mixture was made "
                f"for ({domain.unique_tokens:,} tokens): it changed; restore it, or, if it is meant to be another "
                "text, export with --unique-tokens or pass check_text=False"
            )
    return faults
