"""Files that are either all there or not there: a kill or a full disk never leaves half of one."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mixtures.errors import UserError


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Put `data` (text as UTF-8) into the file `path` in one step; missing parent directories are made.

    Readers see the old file or the new one, never a mixture, and the new one has reached the disk on return.
    On an error (a full disk, no permission) the temporary file is removed, the old file stays, and an OSError of
    the same errno that names `path` is raised.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_dir(path: str | Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` when the block ends well.

    Everything in it is on the disk before the rename. If the block raises (or the disk is full), the temporary
    directory is removed and `path` is untouched. A `path` that exists already raises FileExistsError, at the start
    or, when somebody else was faster, at the rename.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(errno.EEXIST, "already exists", str(path))
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for directory, _, names in os.walk(temporary, topdown=False):
            for name in names:
                with open(Path(directory, name), "rb") as file:
                    os.fsync(file.fileno())
            _sync_directory(Path(directory))
        os.rename(temporary, path)
        _sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256_file(path: str | Path) -> str:
    """`sha256:` and the hash of a file's bytes, read piece by piece. Raises OSError."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _temporary(path: Path) -> Path:
    """A name beside `path` that no glob for finished files matches (hidden), new at every call."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_yaml(path: Path) -> Any:
    """Parsed YAML. Raises UserError where it does not parse."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} does not parse: {error}; restore it from a copy") from error


def list_faults(error: ValidationError) -> list[str]:
    """Every fault that pydantic found, one line each, with its place and what was found."""
    lines = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        place = ".".join(str(step) for step in fault["loc"])
        if place:
            found = repr(fault["input"])
            shown = f" (found {found})" if fault["type"] != "missing" and len(found) <= 80 else ""
            message = f"{place}: {message}{shown}"
        lines += [f"  - {line}" for line in message.split("\n")]
    return lines


def read_json(path: str | Path) -> Any:
    """Parsed JSON. Raises UserError for a missing file, broken JSON (line and column), and a key given twice."""
    path = Path(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
            raise UserError(f"{path} gives {', '.join(twice)} twice in one object; keep one of them")
        return dict(pairs)

    try:
        return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not complete JSON: line {error.lineno}, column {error.colno}: {error.msg}; it is truncated or "
            "damaged: write it again, or restore it from a copy"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): give a JSON file") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; give the path of a JSON file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory; give the path of a JSON file") from error
