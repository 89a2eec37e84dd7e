"""The mixture of the hf_mixture.json beside this file, as a dataset of Hugging Face `datasets`. Needs nothing else; keep both together.

    from hf_loader import load_mixture

    train = load_mixture()                  # a stream in the order of the schedule; its last stage has no end, so give max_steps
    train = load_mixture(streaming=False)   # a Dataset with indices: the rows of the schedule, once

Rows come as they stand in the files, but for the text: where a domain has it in another column, that is called `text`. In a stage the domain of every row is drawn as `interleave_datasets(..., probabilities, seed)` draws
it; other than there a domain's text goes on from stage to stage, and begins again only once it was read to its end.

The stream is one shard: with several workers in a loader one reads, with several processes each takes its part of the same stream (what
accelerate and `split_dataset_by_node` do with one shard), so shares and stages hold for any number of them. `state_dict()` of the stream
resumes exactly, by reading again what was read; so does a Trainer's own resume. `train.shuffle(buffer_size=...)` blurs a boundary by that
many rows. A Dataset resumes at once (`train.select(range(rows_done, len(train)))`), but a Trainer shuffles it, which mixes the stages:
set `train_sampling_strategy="sequential"`, or give it `train.to_iterable_dataset()`.
"""

import json
from collections.abc import Iterator, Sequence
from glob import glob
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset, concatenate_datasets, load_dataset, load_from_disk

HERE = Path(__file__).parent
READERS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".txt": "text", ".arrow": "arrow"}
COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".xz")
DRAWN = 1000  # domains at once, as interleave_datasets does


def load_mixture(
    plan: str | Path = HERE / "hf_mixture.json", *, streaming: bool = True, columns: Sequence[str] | None = None
) -> Dataset | IterableDataset:
    """The mixture's rows; `columns` to keep, by default those that all domains have. Raises ValueError where files and plan differ."""
    record = json.loads(Path(plan).read_text())
    drawn = {name for stage in record["stages"] for name, share in stage["probabilities"].items() if share > 0}
    domains = {name: _domain(name, domain, Path(plan).parent) for name, domain in record["domains"].items() if name in drawn}
    columns = tuple(columns or _common_columns(domains))
    stages = tuple((stage["rows"], tuple(stage["probabilities"].get(name, 0.0) for name in domains)) for stage in record["stages"])
    if not streaming:
        return _table(tuple(domains.values()), stages, columns, record["seed"])
    settings = {"domains": tuple(domains.values()), "stages": stages, "columns": columns, "seed": record["seed"]}
    return IterableDataset.from_generator(_stream, gen_kwargs=settings)


def _stream(domains: tuple, stages: tuple, columns: tuple, seed: int) -> Iterator[dict[str, Any]]:
    texts = [_endless(domain) for domain in domains]
    for number, (rows, shares) in enumerate(stages):
        drawn = chain.from_iterable(_drawn(shares, seed + number))
        for place in drawn if number == len(stages) - 1 else islice(drawn, rows):
            row = next(texts[place])
            yield {column: row[column] for column in columns}


def _table(domains: tuple, stages: tuple, columns: tuple, seed: int) -> Dataset:
    draws = [islice(chain.from_iterable(_drawn(shares, seed + number)), rows) for number, (rows, shares) in enumerate(stages)]
    places = np.fromiter(chain.from_iterable(draws), dtype=np.int64)
    chosen, parts, before = np.empty(len(places), dtype=np.int64), [], 0
    for place, domain in enumerate(domains):
        part, order = _whole(domain)
        mine = np.flatnonzero(places == place)
        chosen[mine] = before + order[np.arange(len(mine)) % len(order)]
        parts.append(part.select_columns(list(columns)))
        before += len(part)
    return concatenate_datasets(parts).select(chosen)


def _drawn(shares: tuple, seed: int) -> Iterator[list[int]]:
    """Places of domains, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield rng.choice(len(shares), size=DRAWN, p=shares).tolist()


def _domain(name: str, record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A domain's files in order, and for those with a selection how often each row is read (rows past its end: once)."""
    files = list(chain.from_iterable(_files(path) for path in record["files"]))
    if not files:
        raise ValueError(f"{name}: no files at {', '.join(record['files'])}")
    times: dict[str, np.ndarray] = {}
    if record["samples"] is not None:
        listed = np.load(folder / record["samples"]["file"])
        for number, stem in enumerate(record["samples"]["files"]):
            if len(paths := [path for path in files if _stem(path) == stem]) != 1:
                raise ValueError(f"{name}: rows of a file {stem}.* were selected, found {paths or 'none'} of this name in its data")
            mine = listed["files"] == number
            counts = np.ones(listed["rows"][mine].max(initial=-1) + 1, dtype=np.int64)
            counts[listed["rows"][mine]] = listed["times"][mine]
            times[paths[0]] = counts
    return {"name": name, "files": tuple(files), "times": times, "text": record.get("text", "text")}


def _files(path: str) -> list[str]:
    if "://" in path:
        return [path]
    found = [Path(path)] if Path(path).exists() else sorted(map(Path, glob(path, recursive=True)))
    inside = [sorted(one.glob("[!.]*")) if one.is_dir() and not _saved(one) else [one] for one in found]  # none that are hidden
    return [str(one) for one in chain.from_iterable(inside) if one.is_dir() or _ending(str(one)) in READERS]


def _saved(path: Path) -> bool:
    """Is it what `save_to_disk` wrote?"""
    return (path / "state.json").exists()


def _ending(path: str) -> str:
    endings = Path(path).suffixes
    return next((ending for ending in reversed(endings) if ending not in COMPRESSED), "")


def _stem(path: str) -> str:
    """The file's name without the endings that say how to read it."""
    name = Path(path).name
    while (ending := Path(name).suffix) in READERS or ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name


def _open(path: str, *, streaming: bool) -> Dataset | IterableDataset:
    if "://" not in path and Path(path).is_dir():
        saved = load_from_disk(path)
        return saved.to_iterable_dataset() if streaming else saved
    reader = READERS[_ending(path)]
    options = {"sample_by": "document"} if reader == "text" else {}  # a text file is one document
    return load_dataset(reader, data_files=[path], split="train", streaming=streaming, **options)


def _common_columns(domains: dict[str, Any]) -> list[str]:
    """Columns of the first row of every domain."""
    firsts = {name: list(next(iter(_endless(domain)))) for name, domain in domains.items()}
    if 0 < (found := sum("text" in first for first in firsts.values())) < len(firsts):
        raise ValueError(f"the column text is in {found} of {len(firsts)} domains: {firsts}; rename the others' column of text, or give columns")
    first, *others = firsts.values()
    if common := [column for column in first if all(column in other for other in others)]:
        return common
    raise ValueError(f"no column that all domains have: {firsts}; rename some")


def _endless(domain: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Rows of a domain, pass after pass; a row that is read k times a pass comes once in each of k readings of its file."""
    once = np.ones(0, dtype=np.int64)
    while True:
        read = False
        for turn in range(max([1, *(times.max(initial=1) for times in domain["times"].values())])):
            for path in domain["files"]:
                times = domain["times"].get(path, once)
                if turn and times.max(initial=1) <= turn:
                    continue
                rows = 0
                for rows, row in enumerate(_open(path, streaming=True), start=1):
                    if (times[rows - 1] if rows <= len(times) else 1) > turn:
                        read = True
                        yield _named(row, domain["text"])
                _check_rows(domain["name"], path, times, rows)
        if not read:
            raise ValueError(f"{domain['name']}: its files hold no row that is to be read")


def _named(row: dict[str, Any], text: str) -> dict[str, Any]:
    """The row with its column of text called `text`."""
    return row if text == "text" or text not in row else {key: row[key] for key in row if key not in (text, "text")} | {"text": row[text]}


def _renamed(rows: Dataset, text: str) -> Dataset:
    """The rows with their column of text called `text`."""
    if text == "text" or text not in rows.column_names:
        return rows
    return rows.remove_columns([name for name in rows.column_names if name == "text"]).rename_column(text, "text")


def _whole(domain: dict[str, Any]) -> tuple[Dataset, np.ndarray]:
    """A domain's rows, and in which order one pass reads them."""
    files = [_renamed(_open(path, streaming=False), domain["text"]) for path in domain["files"]]
    counts = [np.ones(len(file), dtype=np.int64) for file in files]
    for path, count in zip(domain["files"], counts, strict=True):
        times = domain["times"].get(path, count[:0])
        _check_rows(domain["name"], path, times, len(count))
        count[: len(times)] = times
    times = np.concatenate(counts)
    order = np.concatenate([np.flatnonzero(times > turn) for turn in range(max(1, times.max(initial=0)))])
    if not len(order):
        raise ValueError(f"{domain['name']}: its files hold no row that is to be read")
    return concatenate_datasets(files), order


def _check_rows(name: str, path: str, times: np.ndarray, rows: int) -> None:
    if len(times) > rows:
        raise ValueError(f"{name}: row {len(times) - 1} of {path} was selected, it has {rows} rows; give the file as it was then")
