"""One command at a time in a directory: a lock that says who holds it and that a killed process cannot leave behind."""

import fcntl
import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mixtures.errors import UserError

NAME = ".lock"
LEFTOVER = re.compile(r"^\..*\.(\d+)-[0-9a-f]+\.tmp$")  # names of `mixtures.files`, with the number of their process


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs, so that no other process holds it; yield True.

    With wait=False, yield False at once if another process holds it. The lock is the kernel's (flock), so it ends with
    the process. A file that was removed in the meantime is opened again.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    yield True
                    return


@contextmanager
def lock_beside(path: Path, *, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `.NAME.lock` beside `path` while the block runs, and remove it at the end.

    Where another process holds it, `on_wait` is called once, and then its end is waited for.
    """
    lock = path.with_name(f".{path.name}.lock")
    with ExitStack() as locks:
        if not locks.enter_context(locked(lock, wait=False)):
            on_wait()
            locks.enter_context(locked(lock))
        locks.callback(lock.unlink, missing_ok=True)
        yield


@contextmanager
def directory_lock(directory: str | Path, *, remedy: str) -> Iterator[None]:
    """Hold the lock of a directory, which is made if it is missing, while the block runs.

    The lock file `.lock` in it names the host, the process and its command, for whoever finds it held. Temporary files
    of processes that are gone are removed first. If the block leaves nothing in the directory, the directory is
    removed. Raises UserError, with `remedy`, if another process holds the lock.
    """
    directory = Path(directory)
    path = directory / NAME
    with locked(path, wait=False) as mine:
        if not mine:
            raise UserError(f"{directory} is in use by {_holder(path)}; {remedy}")
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "command": " ".join(sys.argv)}
        try:
            path.write_text(json.dumps(holder), encoding="utf-8")
        except OSError as error:  # a full disk: Python does not say where
            raise OSError(error.errno, error.strerror, str(path)) from error
        remove_leftovers(directory)
        try:
            yield
        finally:
            if os.listdir(directory) == [NAME]:
                path.unlink()
                directory.rmdir()


def remove_leftovers(directory: Path) -> None:
    """Remove the temporary files and directories below `directory` that processes of this machine left when killed."""
    for parent, directories, files in os.walk(directory):  # unlike a glob, it goes on where a directory disappears
        for path in [Path(parent, name) for name in (*directories, *files)]:
            name = LEFTOVER.match(path.name)
            if name is None or _alive(int(name[1])):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def _alive(process: int) -> bool:
    """Say whether a process with this number runs on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it runs as somebody else
        return True
    return True


def _holder(path: Path) -> str:
    """Return in words who holds a lock, from what it wrote into its file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} on {record['host']} ({record['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
