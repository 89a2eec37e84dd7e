"""Which run a directory's files belong to, and their hashes: the file `_SHA256SUMS` in the directory.

`sha256sum -c _SHA256SUMS`, in that directory, checks the files without this package. The first line is `# run ID`, with
the id in the run's config.yaml (environment.run_id); every other line is a hash, two spaces and the name of a file.

A file is written first and named last, so a file without a name here is unfinished: readers leave it out, and whoever
goes on writes it again. Programs that read a directory of Parquet files skip names that begin with an underscore.

Several processes that write into one directory each append to a file of their own, and the first one unites these files
when all are done (`merge_sums`). Runs of earlier versions have no id (None), and none of this is done or checked for
them.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
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


def write_sums(directory: Path, sums: Mapping[str, str], *, run_id: str) -> None:
    """Write {name: sha256} as the directory's `_SHA256SUMS`, in one step. Raises OSError."""
    lines = [_header(run_id), *(f"{digest}  {name}" for name, digest in sorted(sums.items()))]
    write_atomic(directory / NAME, "\n".join(lines) + "\n")


def add_sums(
    directory: Path, names: Iterable[str], *, run_id: str | None, new: bool = False, process: int | None = None
) -> None:
    """Name finished files of a directory in its `_SHA256SUMS`; nothing is done for a run without an id.

    new:      the run starts: a `_SHA256SUMS` that is there, of a start that was killed, does not count.
    process:  number of this process where several write into the directory at once; its lines go into a file of its
              own until `merge_sums`.

    Raises OSError, and UserError as `read_sums`.
    """
    if run_id is None:
        return
    sums = {name: file_sum(directory / name) for name in names}
    if process is None:
        before = {} if new else read_sums(directory, run_id=run_id)
        write_sums(directory, before | sums, run_id=run_id)
        return
    lines = [f"{digest}  {name}\n" for name, digest in sums.items()]
    with open(directory / f"{NAME}-{process}", "a", encoding="utf-8") as file:
        file.writelines(lines if file.tell() else [f"{_header(run_id)}\n", *lines])


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
        found = file_sum(path)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == digest else f"is not the file in {NAME}: it was damaged, or comes from another run"


def require_whole(path: Path, *, run_id: str | None, remedy: str = "restore it from a copy") -> None:
    """Check that a file is the one that the `_SHA256SUMS` beside it names; in a run without an id nothing is checked.

    Raises UserError, which ends with `remedy`.
    """
    if run_id is not None and (fault := fault_of(path, read_sums(path.parent, run_id=run_id).get(path.name))):
        raise UserError(f"{path} {fault}; {remedy}")


def file_sum(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits; the file is read piece by piece. Raises OSError."""
    return sha256_file(path).removeprefix("sha256:")


def _header(run_id: str) -> str:
    return f"# run {run_id}"


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
