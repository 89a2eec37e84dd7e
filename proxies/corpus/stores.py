"""Files in object stores (s3://, gs://, hf://, memory://, ...), found and read through fsspec."""

import glob
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.registry import known_implementations

from mixtures.errors import UserError

# What a store says of a file's content; it saves reading the file to learn whether it changed.
CONTENT = ("md5Hash", "content_md5", "ETag", "etag", "xet_hash", "blob_id")


def find(pattern: str) -> list[str]:
    """Return the addresses of the files that an address or a glob of one names, sorted.

    Raises UserError if there is none, if the store cannot be reached, and if the package that reads it is missing.
    """
    files, path = _store(pattern)
    with _blamed(pattern):
        if not glob.has_magic(path):
            return [_require_file(files, path, pattern)]
        if files.isfile(path):  # the name itself has brackets
            return [pattern]
        entries = files.glob(path, detail=True)
        matches = sorted(files.unstrip_protocol(name) for name, entry in entries.items() if entry["type"] == "file")
    if not matches:
        raise UserError(f"{pattern}: no file in the store matches this glob; check the address")
    return matches


def _require_file(files: Any, path: str, address: str) -> str:
    """Return the address of a file. Raises UserError for a directory and where nothing is, the store's other errors."""
    try:
        kind = files.info(path)["type"]  # `isfile` would say no where the account is wrong
    except FileNotFoundError as error:
        raise UserError(f"{address}: no such file in the store; check the address") from error
    if kind == "directory":
        raise UserError(
            f"{address}: is a directory; name its files with a glob such as {address.rstrip('/')}/*.parquet"
        )
    return address


@contextmanager
def open_url(address: str) -> Iterator[Any]:
    """Open a file of a store for reading its bytes. Raises UserError for what goes wrong in the store."""
    files, path = _store(address)
    with _blamed(address):
        file = files.open(path, "rb")
    with file:
        yield file


def identity(address: str) -> str:
    """Return an identifier that changes with a file's content: what its store says of it, or the hash of its bytes."""
    files, path = _store(address)
    with _blamed(address):
        about = files.info(path)
        if known := [f"{key}:{about[key]}" for key in CONTENT if about.get(key)]:
            return f"store:{known[0]}:{about.get('size')}"
        with files.open(path, "rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _store(address: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it. Raises UserError for one that cannot be used here."""
    protocol = address.partition("://")[0]
    if "::" in address:
        raise UserError(f"{address}: `::` links two addresses; give the address of a file, and unpack archives before")
    if protocol not in fsspec.available_protocols():
        common = "s3, gs, hf, az, http, https"
        raise UserError(f"{address}: {protocol}:// is no store that fsspec knows; allowed: {common} and its others")
    try:
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        inner = error.__cause__ or error.__context__ or error
        missing = getattr(inner, "name", None) or known_implementations[protocol]["class"].partition(".")[0]
        raise UserError(
            f"{address}: reading {protocol}:// needs the package {missing}, which is not installed here; install it "
            f"(pip install {missing}), or copy the files to this machine"
        ) from error
    except Exception as error:  # each store has errors of its own, for accounts and for addresses
        raise _refused(address, error) from error


@contextmanager
def _blamed(address: str) -> Iterator[None]:
    """Turn what a store's client raises into a UserError that names the address."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the errors of the clients' HTTP libraries have no class in common
        raise _refused(address, error) from error


def _refused(address: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return UserError(f"{address}: cannot be read: {reason}; check the address, the network and the account")
