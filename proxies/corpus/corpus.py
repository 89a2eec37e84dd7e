"""The corpus of a run: every domain is tokenized once, kept on disk (cache.py), and memory-mapped by every process."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, TypeVar

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from mixtures.errors import UserError
from mixtures.stream.cached import DOCUMENTS, changed, write_sums
from mixtures.text import WIDTH
from proxies.corpus import cache
from proxies.corpus import tokenizer as tokenizers
from proxies.corpus.ends import END_OF_TEXT
from proxies.corpus.pool import Pool
from proxies.corpus.settings import CorpusSettings, SourceSettings
from proxies.corpus.sources import documents
from proxies.corpus.spelling import spelling_warning
from proxies.corpus.tokenizer import TextEncoder

NO_COLUMNS = ("txt", "builtin")  # formats of sources without columns
BPE_CHARACTERS = 40_000_000  # characters that a BPE is trained on at most, all domains together
BPE_DOMAIN_CHARACTERS = 2_000_000  # characters of one domain that a BPE is trained on at most

Result = TypeVar("Result")


@dataclass(frozen=True)
class CorpusData:
    """A prepared corpus: the token ids of every domain and target, and what is recorded about them."""

    names: tuple[str, ...]  # training domains, then targets; this is the order of the run
    domains: tuple[str, ...]  # training domains only
    tokens: dict[str, np.ndarray]  # name: flat training token ids (uint16 or uint32, read-only memory map)
    held_out: dict[str, np.ndarray]  # name: flat held-out token ids
    documents: dict[str, Path]  # name: parquet of its documents (id, split: train or held_out, start, tokens, bytes)
    record: dict[str, Any]  # content of corpus.json
    tokenizer_path: Path  # a tokenizer.json
    eos_id: int  # id of the end-of-text token that follows every document
    vocab_size: int  # all token ids are below this
    row_tokens: int  # length of a row (tokens)
    # The rows of the domain `reused` (proxies/reuse.py), if there is one. It is then the first domain, and has no
    # entry in `tokens`.
    pool: Pool | None = None

    def members(self, name: str) -> tuple[str, ...]:
        """Return the domains that a name stands for: the domains of the pool for `reused`, else the name itself."""
        return tuple(self.pool.tokens) if self.pool is not None and name == self.domains[0] else (name,)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of everything that has held-out text; the domains of the pool stand in the place of `reused`."""
        return tuple(member for name in self.names for member in self.members(name))

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, which are evaluated but not trained on."""
        return self.names[len(self.domains) :]

    def entry(self, name: str) -> dict[str, Any]:
        """Return the record of one domain or target: documents, tokens, rows, bytes, held_out_tokens, ..."""
        members = self.record.get("reused", {}).get("domains", [])
        return next(entry for entry in [*self.record["domains"], *members] if entry["name"] == name)


def prepare_everywhere(
    corpus: CorpusSettings, cache_dir: Path, draws: Mapping[str, int], accelerator: Accelerator
) -> CorpusData:
    """Do what `prepare` does: first in the main process, then in the first one of every other machine, then elsewhere.

    So one process builds the caches, or compares them with their hashes, and the others open them.
    """
    with accelerator.main_process_first(), accelerator.local_main_process_first():
        main, check = accelerator.is_main_process, accelerator.is_local_main_process
        return prepare(corpus, cache_dir, draws, progress=main, check=check)


def prepare(
    corpus: CorpusSettings, cache_dir: Path, draws: Mapping[str, int], *, progress: bool = False, check: bool = True
) -> CorpusData:
    """Build or open the token cache of every domain and target; the result is the same in every process and every run.

    `cache_dir` is the directory of the caches. `draws` is how many tokens of each domain and target the run reads, by
    name; a streamed source without `max_tokens` stops there. `progress` shows a bar. `check` compares the caches with
    their hashes, unless corpus.check_tokens is off. Raises UserError listing all domains that cannot be read, are
    shorter than a row, or of which the tokenizer loses a large part.
    """
    check = check and corpus.check_tokens
    inputs = _each(corpus, lambda name, source: cache.reading(source, held_out=corpus.held_out, draws=draws[name]))
    with tqdm(unit="B", unit_scale=True, delay=0.5, disable=not progress) as bar:
        tokenizer, tokenizer_path = _tokenizer(corpus, inputs, cache_dir, bar)

        def opened(name: str, source: SourceSettings) -> tuple[Path, dict[str, Any]]:
            path, meta = cache.open_domain(cache_dir, name, source, tokenizer, inputs[name], bar, check=check)
            if "spelling" in meta:
                counts = [meta[split] for split in cache.SPLITS]
                if warning := spelling_warning(meta["spelling"], counts, tokenizer.name):
                    warnings.append(f"warning: {name}: {warning}")
            _refuse_short(meta, corpus)
            if progress and source.only:
                counts = meta["only"]
                bar.write(f"{name}: {counts['matched']:,} of {counts['lines']:,} lines match `only`")
            return path, meta

        warnings: list[str] = []
        caches = _each(corpus, opened)
        bar.set_description_str("corpus")
        if check and (unhashed := [name for name, (path, _) in caches.items() if not cache.is_hashed(path)]):
            warnings.append(
                f"note: the token caches of {', '.join(unhashed)} are of an earlier version, without hashes: only the "
                f"sizes of their files are checked; remove them from {cache_dir} to have them built again"
            )
        if progress:
            for warning in warnings:
                bar.write(fill(warning, WIDTH, subsequent_indent=" " * 4))
    return CorpusData(
        names=tuple(corpus.sources),
        domains=tuple(corpus.domains),
        tokens={name: cache.open_tokens(path, "train", tokenizer) for name, (path, _) in caches.items()},
        held_out={name: cache.open_tokens(path, "held_out", tokenizer) for name, (path, _) in caches.items()},
        documents={name: path / DOCUMENTS for name, (path, _) in caches.items()},
        record={
            "tokenizer": tokenizer.record(),
            "row_tokens": corpus.row_tokens,
            "domains": [_entry(name, meta, corpus) for name, (_, meta) in caches.items()],
        },
        tokenizer_path=tokenizer_path,
        eos_id=tokenizer.eos_id,
        vocab_size=tokenizer.vocab_size,
        row_tokens=corpus.row_tokens,
    )


def _tokenizer(corpus: CorpusSettings, inputs: dict[str, Any], directory: Path, bar: tqdm) -> tuple[TextEncoder, Path]:
    """Return the tokenizer of the settings and the path of its tokenizer.json in the cache; train a BPE if needed."""
    size = corpus.tokenizer.train_bpe
    tokenizer = None if size else tokenizers.load(corpus.tokenizer)
    made_from = tokenizer.fingerprint if tokenizer else [cache.FORMAT, size, [inputs[name] for name in corpus.domains]]
    path = directory / f"tokenizer-{cache.content_hash(made_from)}.json"
    sums = path.with_suffix(".sha256")
    if path.exists() and not changed(sums, [path.name]):
        with suppress(UserError):  # damaged, and of an earlier version, which wrote no hash
            return tokenizer or tokenizers.from_file(path, f"bpe-{size}", end=END_OF_TEXT), path
    if tokenizer is None:
        bar.set_description_str("training the tokenizer")
        tokenizer = _train_bpe(corpus, inputs, size, progress=not bar.disable)
    try:
        tokenizer.save(path)
        write_sums(sums, [path.name])
    except OSError as error:
        raise cache.unwritable(directory, error) from error
    return tokenizer, path


def _train_bpe(corpus: CorpusSettings, inputs: dict[str, Any], size: int, *, progress: bool) -> TextEncoder:
    """Train a BPE on the beginning of every training domain, equally many characters each, 2 million at most."""
    most = min(BPE_DOMAIN_CHARACTERS, BPE_CHARACTERS // len(corpus.domains))

    def beginning(name: str, source: SourceSettings) -> list[str]:
        if name not in corpus.domains:
            return []
        return list(tokenizers.head(_training_texts(source, inputs[name]["held_out"]), most))

    heads = _each(corpus, beginning)
    texts = list(tokenizers.equal_text([heads[name] for name in corpus.domains]))
    long = sum(map(len, texts)) >= tokenizers.LONG_TRAINING
    return tokenizers.train_bpe(texts, size, progress=progress and long)


def _training_texts(source: SourceSettings, held_out: float | None) -> Iterator[str]:
    return (document.text for document in documents(source) if not cache.is_held_out(document.text, held_out))


def _each(corpus: CorpusSettings, act: Callable[[str, SourceSettings], Result]) -> dict[str, Result]:
    """Call `act` for every domain and target and return the results by name.

    Raises a single UserError with the faults of all of them.
    """
    results, faults = {}, []
    for name, source in corpus.sources.items():
        try:
            results[name] = act(name, source)
        except UserError as error:
            place = "corpus.domains" if name in corpus.domains else "corpus.targets"
            faults += [f"{place}.{name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise UserError("\n".join(faults))
    return results


def _refuse_short(meta: dict[str, Any], corpus: CorpusSettings) -> None:
    """Raise UserError if a domain's training or held-out text does not fill one row."""
    remedies = {
        "train": "add text to the domain, or shorten corpus.row_tokens",
        "held_out": f"raise corpus.held_out ({corpus.held_out}), give `validation` files, or shorten corpus.row_tokens",
    }
    faults = []
    for split, remedy in remedies.items():
        tokens, count = meta[split]["tokens"], meta[split]["documents"]
        if tokens < corpus.row_tokens:
            total = sum(meta[name]["documents"] for name in remedies)
            what = "held-out" if split == "held_out" else "training"
            faults.append(
                f"{tokens} {what} tokens ({count} of {total} documents), fewer than one row of {corpus.row_tokens}; "
                f"{remedy}"
            )
    if faults:
        raise UserError("\n".join(faults))


def _entry(name: str, meta: dict[str, Any], corpus: CorpusSettings) -> dict[str, Any]:
    """Return the entry of a domain or target in corpus.json.

    Its tokens include the end-of-text token of each document, its bytes do not.
    """
    train, held_out, column = meta["train"], meta["held_out"], meta["inputs"]["text"]
    return {
        "name": name,
        "role": "domain" if name in corpus.domains else "target",
        "sources": [
            source if source["format"] in NO_COLUMNS else {**source, "text": column}
            for source in meta["inputs"]["train"]
        ],
        "validation_sources": meta["inputs"]["validation"],
        "complete": meta["complete"],
        **({"only": meta["only"]} if "only" in meta else {}),
        "fingerprint": meta["fingerprint"],
        **train,
        "rows": train["tokens"] // corpus.row_tokens,
        **{f"held_out_{key}": value for key, value in held_out.items()},
        "held_out_rows": held_out["tokens"] // corpus.row_tokens,
        **({"spelling": meta["spelling"]} if "spelling" in meta else {}),
    }
