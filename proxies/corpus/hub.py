"""Datasets of the Hugging Face hub and local dataset directories, opened through `datasets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mixtures.errors import UserError, quoted
from proxies.corpus.settings import SourceSettings

MOST = 300  # most characters of a reason in a message
GIVE = "give a dataset on the Hugging Face hub or a local dataset directory, and a name and split that it has"


def open_dataset(source: SourceSettings) -> Any:
    """Open the split that a source names, as a `datasets.Dataset`, or with streaming as an `IterableDataset`.

    A dataset that `save_to_disk` wrote is always a `datasets.Dataset`. Raises UserError if it cannot be opened, and for
    a name or a split that it does not have.
    """
    import datasets  # takes seconds to import, and most runs read files

    try:
        if is_saved(source):
            return _split(datasets.load_from_disk(source.dataset), source)
        return datasets.load_dataset(source.dataset, source.name, split=source.split, streaming=source.streaming)
    except UserError:
        raise
    except Exception as error:  # `datasets` raises what its readers and its HTTP library raise, of many classes
        raise UserError(
            f"{_described(source)} cannot be opened: {_cause(error)}; {_remedy(error, source) or GIVE}"
        ) from error


def rows(dataset: Any, source: SourceSettings) -> Iterator[dict[str, Any]]:
    """Yield the rows of an opened dataset. Raises UserError for what goes wrong on the way, such as in a stream."""
    iterator = iter(dataset)
    row = 0
    while True:
        try:
            record = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # as above
            raise UserError(
                f"{_described(source)} cannot be read after row {row}: {_cause(error)}; "
                + (_remedy(error, source) or "replace the file, or start again if the network failed")
            ) from error
        row += 1
        yield record


def _described(source: SourceSettings) -> str:
    return f"dataset {quoted(source.dataset)} (name {source.name}, split {quoted(source.split)})"


def _innermost(error: BaseException) -> BaseException:
    """Return the error that `datasets` wrapped in one that says only that something failed."""
    from datasets.exceptions import DatasetGenerationError

    while isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _cause(error: BaseException) -> str:
    """Return in one line why `datasets` failed."""
    from datasets.table import CastError

    error = _innermost(error)
    if isinstance(error, CastError):
        there, expected = error.table_column_names, error.requested_column_names
        differences = {
            "also has": [name for name in there if name not in expected],
            "lacks": [name for name in expected if name not in there],
        }
        other = " and ".join(f"{verb} {', '.join(names)}" for verb, names in differences.items() if names)
        return f"its files have different columns: the first one {', '.join(expected)}; another one {other}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return reason if len(reason) <= MOST else f"{reason[:MOST]} ..."


def _remedy(error: BaseException, source: SourceSettings) -> str:
    """Return what to do about an error of `datasets`; empty where the error itself does not tell."""
    error = _innermost(error)
    if "scripts are no longer supported" in str(error):
        return (
            "give a copy as parquet: data_files with hf://datasets/OWNER/NAME@refs/convert/parquet/**/*.parquet if the "
            "hub made one, or a directory that save_to_disk wrote with datasets below 4"
        )
    if isinstance(error, TypeError | pa.ArrowException) or type(error).__name__ == "CastError":
        return (
            "where its files differ in columns or types, give them as data_files, which reads each by itself and needs "
            f"no more than the column {quoted(source.text)}; a damaged file: replace it"
        )
    return ""


def is_saved(source: SourceSettings) -> bool:
    """Say whether a source's dataset is a directory that `save_to_disk` wrote."""
    return any(Path(source.dataset, name).is_file() for name in ("state.json", "dataset_dict.json"))


def _split(saved: Any, source: SourceSettings) -> Any:
    """Return the split of a saved dataset that a source names: one of its splits, a slice of one, or a sum of these.

    A dataset that was saved without the name of its split counts as `train`. Raises UserError for a name, which saved
    datasets do not have, and for a split that is not there.
    """
    import datasets

    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {str(saved.split or "train"): saved}
    if source.name is not None:
        raise UserError(
            f"dataset {quoted(source.dataset)} is saved on this disk, where a dataset has no configurations, and the "
            f"setting `name` is {quoted(source.name)}; leave `name` out"
        )
    if source.split in splits:
        return splits[source.split]
    try:
        instruction = datasets.ReadInstruction.from_spec(source.split)
        parts = instruction.to_absolute({name: len(rows) for name, rows in splits.items()})
    except (ValueError, AssertionError) as error:
        there = ", ".join(f"{name} ({len(rows):,} rows)" for name, rows in splits.items())
        raise UserError(
            f"dataset {quoted(source.dataset)} is saved on this disk with the "
            f"split{'s' if len(splits) > 1 else ''} {there}; "
            f"the setting `split` is {quoted(source.split)}: {' '.join(str(error).split())}; give a split that "
            f"is there, or "
            f"a slice of it such as '{next(iter(splits))}[:2]'"
        ) from error
    return datasets.concatenate_datasets([splits[part.splitname].select(range(part.from_, part.to)) for part in parts])


def identity(source: SourceSettings) -> str:
    """Return an identifier that changes with the content of a dataset on the hub.

    It is the dataset's fingerprint, or its revision if it is streamed. Raises UserError if the hub does not have the
    dataset or cannot be reached.
    """
    if not source.streaming:
        return f"fingerprint:{open_dataset(source)._fingerprint}"
    import huggingface_hub

    try:
        return f"revision:{huggingface_hub.HfApi().dataset_info(source.dataset).sha}"
    except Exception as error:  # the client also raises errors of its HTTP library, whose types change with versions
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset {quoted(source.dataset)} is neither a local directory nor found on the Hugging Face hub: "
            f"{reason}; "
            "check the name and the network"
        ) from error
