"""The documents in Megatron's data that a sample policy lists, found by their place in the tokens or by their rows."""

from collections.abc import Sequence

import numpy as np

from mixtures.convert.formats.megatron.idx import Index
from mixtures.convert.job import Job
from mixtures.convert.lengths import Selection
from mixtures.errors import UserError

ALIKE = 0.8  # least correlation of the log lengths of the same documents under two tokenizers


def times_read(job: Job, name: str, indexes: Sequence[Index]) -> list[np.ndarray]:
    """Return how often every document is read, one int64 array (D,) per prefix.

    Raises UserError where the documents of the sample policy cannot be found in the data.
    """
    times = [np.ones(len(index.borders) - 1, dtype=np.int64) for index in indexes]
    if name not in job.selections:
        return times
    selection, lengths = job.selections[name], [index.document_tokens for index in indexes]
    if not _by_place(selection, lengths, times):
        _by_row(name, job.paths[name], selection, lengths, times)
    return times


def _by_place(selection: Selection, lengths: Sequence[np.ndarray], times: Sequence[np.ndarray]) -> bool:
    """Set the times of the documents that begin at the listed tokens of the domain and have the listed lengths.

    Returns False, with `times` unchanged, where one of the listed documents is not found so.
    """
    flat = np.concatenate(lengths)
    begins = np.cumsum(flat) - flat
    documents = np.searchsorted(begins, selection.start, side="right") - 1
    if len(flat) == 0 or (begins[documents] != selection.start).any() or (flat[documents] != selection.tokens).any():
        return False
    together = np.concatenate(times)
    together[documents] = selection.times
    for part, prefix_times in zip(
        np.split(together, np.cumsum([len(prefix_times) for prefix_times in times])[:-1]), times, strict=True
    ):
        prefix_times[:] = part
    return True


def _by_row(
    name: str, prefixes: Sequence[str], selection: Selection, lengths: Sequence[np.ndarray], times: Sequence[np.ndarray]
) -> None:
    """Set the times of documents by their rows in the files that the mixture was learned from, one prefix per file.

    Raises UserError where there is not one prefix per file, and where the documents of a prefix are not those of its
    file.
    """
    if selection.rows is None or len(prefixes) != len(selection.names):
        raise UserError(
            f"the sample policy of {name} lists documents of {', '.join(selection.names)}; {', '.join(prefixes)} holds "
            "other tokens, so that they cannot be found by their place, and not one prefix for each of these files, "
            "so that not by their row either; give a prefix for each file, in this order (--data again), or --samples "
            "drop"
        )
    for number, prefix in enumerate(prefixes):
        in_file = selection.files == number
        rows, tokens = selection.rows[in_file], selection.tokens[in_file]
        if len(rows) and rows.max() >= len(lengths[number]):
            raise UserError(
                f"the sample policy of {name} lists row {rows.max():,} of {selection.names[number]}, {prefix} has "
                f"{len(lengths[number]):,} "
                "documents; make it from that file, all rows in their order, or give --samples drop"
            )
        if not _same_order(tokens, lengths[number][rows]):
            raise UserError(
                f"the documents of {prefix} are not as long as those that the sample policy of {name} lists, row by "
                f"row, of "
                f"{selection.names[number]}; make it from that file, all rows in their order, or give --samples drop"
            )
        times[number][rows] = selection.times[in_file]


def _same_order(wanted: np.ndarray, found: np.ndarray) -> bool:
    """Say whether these could be the lengths of the same documents, perhaps under another tokenizer.

    The logarithms of the lengths must correlate by at least ALIKE. Always True for less than 30 documents and for equal
    lengths, which do not tell.
    """
    if len(wanted) < 30 or len(set(wanted.tolist())) == 1 or len(set(found.tolist())) == 1:
        return True
    return bool(np.corrcoef(np.log1p(wanted), np.log1p(found))[0, 1] >= ALIKE)
