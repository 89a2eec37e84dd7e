"""Files that are either complete or absent: a kill or a full disk never leaves half a file. Also their readers."""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import yaml
from pydantic import BaseModel, ValidationError

from mixtures.errors import NOTHING, UserError, grouped, quoted

MERGE = "tag:yaml.org,2002:merge"  # `<<: *block` takes the keys of another block
TOO_DEEP = "its brackets are nested too deeply to be read"  # Python's parsers stop at about 1,000 levels
MOST_NAME, MOST_PATH = 255, 4096  # bytes, on Linux and macOS
MOST_EXPANDED = 100_000  # values that a YAML file may stand for by its aliases
# names that Windows keeps for devices, whatever follows a dot
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))}
PLACE = re.compile(r"(?<![\w.:/+-])~?/(?:[^/\s<>&\"',;:]+/)+")  # all of an absolute path but its last name
MARKUP = re.compile(r"(<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>)", re.DOTALL)
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def write_atomic(path: str | Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) into the file `path` in one step, as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Give a file to write that becomes `path` when the block ends without an error; missing parents are made.

    Readers see the old file or the new one, never a mixture, and the new one has reached the disk at the end. On an
    error (a full disk, no permission) the temporary file is removed, the old file stays, and an OSError with the same
    errno that names `path` is raised. So it is for a `path` that is something else than a file: renaming a file over a
    device (/dev/null) would replace it.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        kind = "a directory" if path.is_dir() else "a device or a pipe"
        raise OSError(errno.EINVAL, f"is {kind}, not a file; give the name of a file", str(path))
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
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
def atomic_dir(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` when the block ends without an error.

    Everything in it is on the disk before it is renamed. If the block raises (or the disk is full), the temporary
    directory is removed and `path` is untouched. replace: a directory `path` is removed just before the renaming; else
    FileExistsError is raised where it exists already, at the start or, if another process was faster, at the end.
    """
    path = Path(path)
    if path.exists() and not replace:
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
        if replace:
            shutil.rmtree(path, ignore_errors=True)
        os.rename(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        if error.filename is None:  # as where a disk is full
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_url(path: str) -> bool:
    """Say whether a path is an address such as s3://bucket/name, and no path on this machine."""
    return URL.match(path) is not None


def without_home(text: str) -> str:
    """Return the text with the user's home directory written as `~`, also inside quotes: it names the user."""
    home = os.path.expanduser("~").rstrip("/")
    return re.sub(rf"(?<![\w./-]){re.escape(home)}(?![\w.-])", "~", text) if home.count("/") else text


def without_places(html: str) -> str:
    """Return a page whose texts have `.../name` in place of absolute paths, and `~` for the user's home directory."""
    texts = MARKUP.split(without_home(html))  # every second one is a tag
    return "".join(text if number % 2 else PLACE.sub(".../", text) for number, text in enumerate(texts))


def check_path(path: str, where: str) -> None:
    r"""Refuse what no file system takes: a `\0`, or names that are too long. Raises UserError naming `where`."""
    if "\0" in path:
        raise UserError(f"{where}: {quoted(path)} has the character \\0, which no path has; remove it")
    sizes = [len(part.encode(errors="replace")) for part in (path, *Path(path).parts)]
    if sizes[0] > MOST_PATH or max(sizes[1:], default=0) > MOST_NAME:
        raise UserError(
            f"{where}: {quoted(path)} is too long for a path: a name may have {MOST_NAME} bytes, all of it "
            f"{MOST_PATH}; "
            "give a shorter one"
        )


def file_name_faults(names: Iterable[str]) -> list[str]:
    """Return what keeps names from being file names everywhere: they differ only by case, or Windows changes them."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    faults = [f"{' and '.join(same)} differ only by case" for same in alike.values() if len(same) > 1]
    faults += [f"{quoted(name)} ends in a dot" for same in alike.values() for name in same if name.endswith(".")]
    return faults + [f"{quoted(same[0])} is a device" for key, same in alike.items() if key.split(".")[0] in DEVICES]


def glob_paths(pattern: str) -> list[str]:
    """Return the files and directories that a glob pattern names, sorted; `**` stands for any number of directories.

    Leading directories that exist are taken as they are called, so that one with `[ ]` in its name is no pattern.
    """
    if os.path.exists(pattern):
        return [pattern]
    parts = Path(pattern).parts
    existing = next((n for n in range(len(parts) - 1, 0, -1) if os.path.isdir(Path(*parts[:n]))), 0)
    literal = glob.escape(str(Path(*parts[:existing]))) if existing else ""
    return sorted(glob.glob(os.path.join(literal, *parts[existing:]), recursive=True))


def sha256_file(path: str | Path) -> str:
    """Return `sha256:` and the hash of a file's bytes, read piece by piece. Raises OSError."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _temporary(path: Path) -> Path:
    """Return a new hidden name beside `path`, which no glob for finished files matches."""
    return path.parent / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def _sync_directory(directory: Path) -> None:
    """Write a directory's entries to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def parse_yaml(text: str, where: str | Path, *, words: bool = False, text_keys: bool = False) -> Any:
    """Return what YAML text holds. Raises yaml.YAMLError where it does not parse, UserError for a key given twice.

    UserError also for a value that its type does not allow (a date 2024-13-01), and for brackets nested too deeply.

    where: the place of the text, for the message. words: scalars stay text. text_keys: keys that YAML reads as
    something else than text, such as `no` or `2024`, are refused (UserError).
    """

    class Loader(yaml.BaseLoader if words else yaml.SafeLoader):  # type: ignore[misc]
        """A loader that refuses a key given twice; plain YAML would silently take the last one."""

        def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            lines: dict[Any, list[int]] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                    line, name = key.start_mark.line + 1, self.construct_object(key)
                    if text_keys and not isinstance(name, str):
                        raise UserError(
                            f"{where}, line {line}: YAML reads the name {key.value} as {quoted(name)}; write "
                            f"it in quotes: "
                            f"'{key.value}'"
                        )
                    lines.setdefault(name, []).append(line)
            if twice := {str(key): places for key, places in lines.items() if len(places) > 1}:
                at = ", ".join(map(str, sorted({line for places in twice.values() for line in places})))
                raise UserError(
                    f"{where}: {', '.join(sorted(twice))} is given twice in the block that starts at line "
                    f"{node.start_mark.line + 1} (lines {at}); names must be unique: keep one of them"
                )
            return node

    loader = Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_aliases(node, where)
        return loader.construct_document(node)
    except (yaml.YAMLError, UserError):
        raise
    except RecursionError as error:
        raise UserError(f"{where}: {TOO_DEEP}; flatten them") from error
    except (ValueError, KeyError, AttributeError, TypeError, OverflowError) as error:  # of the values' constructors
        raise UserError(
            f"{where}: YAML takes a value for a number or a date, and it is none: {error}; write text in quotes"
        ) from error
    finally:
        loader.dispose()


def _check_aliases(root: yaml.Node, where: str | Path) -> None:
    """Refuse aliases that make a short file stand for very much, or a block for itself. Raises UserError."""
    sizes: dict[int, float] = {}  # of each block with its aliases expanded; infinite while it is being counted

    def size(node: yaml.Node) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            pairs = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = 1 + sum(map(size, pairs))
        return sizes[id(node)]

    if size(root) > max(MOST_EXPANDED, 10 * len(sizes)):
        raise UserError(
            f"{where}: its aliases (*name) repeat blocks until they are more than {MOST_EXPANDED:,} values, or a block "
            "holds itself; write out what is meant"
        )


def read_yaml(path: Path) -> Any:
    """Read a YAML file. Raises UserError where it does not parse, and for a key given twice."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8-sig"), path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} does not parse: {error}; restore it from a copy") from error


def list_faults(error: ValidationError) -> list[str]:
    """Return a line for each kind of fault that pydantic found, with its places and the value that it found."""
    faults = []
    for fault in error.errors(include_url=False, include_context=False):
        place = ".".join(str(step) for step in fault["loc"])
        hidden = not place or fault["type"] == "missing" or isinstance(fault["input"], dict | BaseModel)
        message = fault["msg"].removeprefix("Value error, ")
        faults.append((place, message, NOTHING if hidden else fault["input"]))
    return [f"  - {line}" for sentence in grouped(faults) for line in sentence.split("\n")]


def unique_keys(where: str | Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    """Return the `object_pairs_hook` for `json` that refuses a key given twice in one object; `where` is its place."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            twice = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
            raise UserError(f"{where} gives {', '.join(twice)} twice in one object; keep one of them")
        return record

    return unique


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises UserError for a missing file, broken JSON (line and column), and a key given twice."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=unique_keys(path))
    except json.JSONDecodeError as error:
        if error.doc[error.pos : error.pos + 2].startswith(("#", "//", "/*")):
            raise UserError(f"{path} has a comment in line {error.lineno}, and JSON has none; remove it") from error
        raise UserError(
            f"{path} is not complete JSON: line {error.lineno}, column {error.colno}: {error.msg}; it is truncated or "
            "damaged: write it again, or restore it from a copy"
        ) from error
    except RecursionError as error:
        raise UserError(f"{path}: {TOO_DEEP}; give the file that was meant") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory; give the path of a JSON file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): give a JSON file") from error
    except (ValueError, OverflowError) as error:  # a number of more than 4,300 digits, or \0 in the path
        raise UserError(f"{path} cannot be read: {error}; give the path of a JSON file") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; give the path of a JSON file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory; give the path of a JSON file") from error
