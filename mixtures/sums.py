"""Which run a directory's files belong to, and their hashes: the file `_SHA256SUMS` in the directory.

`sha256sum -c _SHA256SUMS`, in that directory, checks the files without this package. The first line is `# run ID`, with
the id in the run's config.yaml (environment.run_id); every other line is a hash, two spaces and the name of a file.

A file is written first and named last, so a file without a name here is unfinished: readers leave it out, and whoever
goes on writes it again. Programs that read a directory of Parquet files skip names that begin with an underscore.

Several processes that write into one directory each append to a file of their own (`append_sum`), and the first one
unites these files when all are done (`merge_sums`). Runs of earlier versions have no id, and none of this is done or
checked for them.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

from mixtures.errors import UserError
from mixtures.files import read_yaml, sha256_file, write_atomic

NAME = "_SHA256SUMS"
HEADER = re.compile(r"# run (\S+)")
LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def new_run_id() -> str:
    """Return an id for a run that starts: 16 hexadecimal digits, drawn at random."""
    return secrets.token_hex(8)


def read_run_id(run_dir: str | Path) -> str | None:
    """Return the id of the run or comparison in a directory; None where it has none (earlier versions)."""
    path = Path(run_dir) / "config.yaml"
    config = read_yaml(path) if path.is_file() else None
    return run_id_in(config.get("environment")) if isinstance(config, dict) else None


def run_id_in(environment: object) -> str | None:
    """Return the id in the environment block of a config.yaml; None where it has none."""
    found = environment.get("run_id") if isinstance(environment, dict) else None
    return None if found is None else str(found)


def sum_of(data: bytes) -> str:
    """Return the sha256 of the bytes, as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sums_of(directory: Path) -> dict[str, str]:
    """Return {name: sha256} of all files in a directory. Raises OSError."""
    return {path.name: _file_sum(path) for path in sorted(directory.iterdir()) if path.name != NAME}


def write_sums(directory: Path, sums: Mapping[str, str], *, run_id: str) -> None:
    """Write {name: sha256} as the directory's `_SHA256SUMS`, in one step. Raises OSError."""
    lines = [f"# run {run_id}", *(f"{digest}  {name}" for name, digest in sorted(sums.items()))]
    write_atomic(directory / NAME, "\n".join(lines) + "\n")


def append_sum(directory: Path, name: str, digest: str, *, run_id: str, process: int) -> None:
    """Append the sha256 of a file to this process's own file of sums, until `merge_sums`. Raises OSError."""
    with open(directory / f"{NAME}-{process}", "a", encoding="utf-8") as file:
        file.write(f"{digest}  {name}\n" if file.tell() else f"# run {run_id}\n{digest}  {name}\n")


def merge_sums(directory: Path, *, run_id: str) -> dict[str, str]:
    """Unite the files of sums of all processes with `_SHA256SUMS`, and return {name: sha256}.

    A line that a killed process did not finish is left out. Raises OSError, and UserError as `read_sums`.
    """
    sums = read_sums(directory, run_id=run_id)
    own = sorted(directory.glob(f"{NAME}-*"))
    for path in own:
        whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
        sums |= _parse(whole, path, run_id) if whole else {}
    if own:
        write_sums(directory, sums, run_id=run_id)
        for path in own:
            path.unlink()
    return sums


def read_sums(directory: Path, *, run_id: str) -> dict[str, str]:
    """Read {name: sha256} of the finished files of a directory; empty where it has no `_SHA256SUMS`.

    Raises UserError where the directory belongs to another run than `run_id`, and for a damaged file.
    """
    path = directory / NAME
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    return _parse(text, path, run_id)


def fault_of(path: Path, digest: str | None) -> str | None:
    """Return what is wrong with a file that should have this sha256, in words that follow its name; None if nothing is.

    digest: None for a file that `_SHA256SUMS` does not name.
    """
    if digest is None:
        return f"is not in {NAME}: it is unfinished, or comes from another run"
    try:
        found = _file_sum(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == digest else f"is not the file in {NAME}: it was damaged, or comes from another run"


def _file_sum(path: Path) -> str:
    return sha256_file(path).removeprefix("sha256:")


def _parse(text: str, path: Path, run_id: str) -> dict[str, str]:
    head, *lines = text.splitlines() or [""]
    if (header := HEADER.fullmatch(head)) is None:
        raise UserError(f"{path} is damaged: its first line is {head[:80]!r}, not `# run ID`; restore it from a copy")
    if header[1] != run_id:
        raise UserError(
            f"{path.parent} belongs to run {header[1]}, this is run {run_id} (environment.run_id in config.yaml): its "
            "files were replaced; restore them from a copy of this run"
        )
    matches = [LINE.fullmatch(line) for line in lines]
    if None in matches:
        raise UserError(
            f"{path} is damaged: line {matches.index(None) + 2} is not a sha256 and the name of a file; restore it "
            "from a copy"
        )
    return {match[2]: match[1] for match in matches if match}
