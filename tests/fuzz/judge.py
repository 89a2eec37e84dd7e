"""What a case is judged by: what the command wrote and where, what it said, and how it ended."""

import os
import re
import stat
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.proxies.helpers import REPOSITORY

PACKAGES = tuple(str(REPOSITORY / name) for name in ("proxies", "mixtures", "doge"))
LONGEST_MESSAGE = 20_000  # characters of an error message
CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x9f]")  # all but tab, line feed and carriage return
MOVES_CURSOR = re.compile(r"\x1b\[A")  # tqdm, for several bars
MESSAGE = re.compile(r"(?:^|/s\] *)(?:mixtures[^:\n]*: )?error: ", re.MULTILINE)  # also behind a progress bar
TEMPORARY = re.compile(r"^\..*\.tmp$")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink", "os.link", "os.chmod", "os.truncate")
HARMLESS = ("/dev/null", "/dev/tty", "/dev/shm")

Snapshot = dict[str, tuple[int, int, int]]


def snapshot(folder: Path) -> Snapshot:
    """Return {path below a directory: (mode, size, time of the last change)}; of directories only the mode."""
    found: Snapshot = {}
    for root, directories, names in os.walk(folder):
        for name in (*directories, *names):
            path = os.path.join(root, name)
            status = os.lstat(path)
            inside = stat.S_ISDIR(status.st_mode)
            found[os.path.relpath(path, folder)] = (
                (status.st_mode, 0, 0) if inside else (status.st_mode, status.st_size, status.st_mtime_ns)
            )
    return found


def strays(before: Snapshot, after: Snapshot, folder: Path, outputs: Iterable[str]) -> list[str]:
    """Return what was made, changed or removed outside of `outputs` (relative to `folder`), and temporary files."""
    allowed = [place for output in outputs for place in _places(folder, output)]
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    outside = [path for path in changed if not _below(os.path.join(folder, path), allowed)]
    left = [path for path in after if TEMPORARY.match(os.path.basename(path)) and path not in before]
    return sorted({*outside, *left})


def _places(folder: Path, output: str) -> list[str]:
    """Return the places that a name may mean: settings read `~` as the home directory, as shells do; `-o` does not."""
    name = output.encode(errors="ignore").decode().replace("\0", "")  # no file has halves of characters in its name
    return [os.path.realpath(os.path.join(folder, each)) for each in {name, os.path.expanduser(name)}]


def _below(path: str, allowed: Iterable[str]) -> bool:
    """Say whether a path is one of `allowed`, lies below one, or is a directory on the way to one."""
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return any(path == place or path.startswith(f"{place}/") or place.startswith(f"{path}/") for place in allowed)


class Fence:
    """What refuses this process to write outside of some directories, and to read files that nobody may read.

    A refusal is a PermissionError, as of a file system; `crossed` lists the paths that are not below `named`, the
    places which the user named. Root is not asked for permission by the kernel, hence the files that nobody may read.
    It sees what Python opens, not what C++ libraries open, and it cannot be taken down.
    """

    def __init__(self, allowed: Iterable[Path], named: Iterable[str], folder: Path) -> None:
        self.allowed = [*(os.path.realpath(path) for path in allowed), *HARMLESS]
        self.named = [place for name in named if name for place in _places(folder, name)]
        self.folder = os.path.realpath(folder)
        self.crossed: list[str] = []
        self.programs: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            if isinstance(flags, int) and flags & WRITING:
                self._refuse(path)
            elif self._is_forbidden(path):
                raise PermissionError(13, "Permission denied", os.fsdecode(path))
        elif event == "subprocess.Popen":
            self.programs.append(str(arguments[0]))
        elif event in CHANGES:
            paths = arguments[:2] if event == "os.rename" else arguments[1:2] if "link" in event else arguments[:1]
            if -1 in arguments[len(paths) :] or event in ("os.truncate",):  # else relative to an open directory
                for path in paths:
                    self._refuse(path)

    def _is_forbidden(self, path: Any) -> bool:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and not stat.S_IMODE(status.st_mode)

    def _refuse(self, path: Any) -> None:
        if isinstance(path, int):
            return
        place = os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(path)))
        if _below(place, self.allowed) and not any(where.startswith(f"{place}/") for where in self.allowed):
            return
        if not _below(place, self.named):
            self.crossed.append(place)
        raise PermissionError(13, "Permission denied", os.fsdecode(path))


def message_fault(out: str, err: str, code: int) -> str:
    """Return what is wrong with what a command said: "" for a success, or for a refusal with one message."""
    said = MOVES_CURSOR.sub("", out + err)
    if control := CONTROLS.search(said):
        place = control.start()
        return f"control character in the output: {said[max(place - 30, 0) : place + 30]!r}"
    if code != 2:
        return "" if "Traceback (most recent" not in said else "a traceback in the output"
    messages = MESSAGE.findall(err)
    if len(messages) > 1:
        return f"{len(messages)} messages"
    if not messages and "usage:" not in out + err and "FAIL" not in out:
        return "no message"
    start = err.rfind("error: ")
    return f"a message of {len(err) - start} characters" if len(err) - start > LONGEST_MESSAGE else ""


def describe(error: BaseException) -> tuple[str, str]:
    """Return (kind, trace) of an uncaught error; its kind is its type and the last place in our packages."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(PACKAGES)] or frames
    last = ours[-1]
    name = os.path.relpath(last.filename, REPOSITORY) if last.filename.startswith(str(REPOSITORY)) else last.filename
    said = " ".join(str(error)[:300].split())
    trace = [f"  {os.path.relpath(frame.filename, REPOSITORY)}:{frame.lineno} {frame.name}" for frame in ours[-4:]]
    return (
        f"{type(error).__name__} in {name}:{last.name}",
        "\n".join([*trace, f"  {type(error).__name__}: {said[:200]}"]),
    )


def install(fence: Fence) -> None:
    """Put up a fence around this process, for good."""
    sys.addaudithook(fence)
