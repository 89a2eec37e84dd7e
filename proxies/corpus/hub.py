"""Datasets of the Hugging Face hub and local dataset directories, opened through `datasets`."""

from pathlib import Path
from typing import Any

from mixtures.errors import UserError
from proxies.corpus.settings import SourceSettings


def open_dataset(source: SourceSettings) -> Any:
    """Open the split that a source names, as a `datasets.Dataset`, or with streaming as an `IterableDataset`.

    Raises UserError if it cannot be opened.
    """
    import datasets  # takes seconds to import, and most runs read files

    try:
        if any(Path(source.dataset, name).is_file() for name in ("state.json", "dataset_dict.json")):
            saved = datasets.load_from_disk(source.dataset)
            return saved[source.split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(source.dataset, source.name, split=source.split, streaming=source.streaming)
    except (OSError, ValueError, KeyError, ImportError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"dataset {source.dataset!r} (name {source.name}, split {source.split!r}) cannot be opened: {reason}; "
            "give a dataset on the Hugging Face hub or a local dataset directory, and a name and split that it has"
        ) from error


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
            f"dataset {source.dataset!r} is neither a local directory nor found on the Hugging Face hub: {reason}; "
            "check the name and the network"
        ) from error
