"""A directory of the token cache that `proxies.train` keeps: names of its files, and whether they changed.

`_SHA256SUMS` names the sha256 of every other file: `sha256sum -c _SHA256SUMS`, in that directory, checks them without
this package. Directories of earlier versions have no such file, so no change of their files is found.
"""

from collections.abc import Iterable
from pathlib import Path

from mixtures.files import write_atomic
from mixtures.sums import NAME as SUMS
from mixtures.sums import file_sum

__all__ = ["DOCUMENTS", "META", "REMEDY", "SUMS", "TOKENS", "changed", "write_sums"]

META = "meta.json"  # counts, fingerprints of the text and the tokenizer, and where the text came from
TOKENS = "train.bin"  # the training tokens
DOCUMENTS = "documents.parquet"  # which tokens belong to which document
REMEDY = "build it again with `proxies.train`, or restore it from a copy"


def write_sums(sums: Path, names: Iterable[str]) -> None:
    """Write the hashes of files into the file `sums` beside them. Raises OSError."""
    write_atomic(sums, "".join(f"{_line(sums.with_name(name))}\n" for name in names))


def changed(sums: Path, names: Iterable[str]) -> str | None:
    """Return in words which of the files beside `sums` have other hashes than it names; None where none has.

    A missing file counts as changed. Reads the files whole, about 1 GB per second; nothing where `sums` is missing
    (earlier versions). Raises OSError.
    """
    if not sums.exists():
        return None
    lines = sums.read_text(encoding="utf-8", errors="replace").splitlines()
    paths = [sums.with_name(name) for name in names]
    other = [path.name for path in paths if not path.is_file() or _line(path) not in lines]
    return f"{', '.join(other)} changed after {sums.name} was written" if other else None


def _line(path: Path) -> str:
    return f"{file_sum(path)}  {path.name}"
