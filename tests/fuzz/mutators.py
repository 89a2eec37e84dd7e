"""What damages inputs: values, trees of settings, text, bytes, tables, and what lies at a path.

Every function takes a `random.Random` first and returns the damaged thing, so that a case follows from its seed.
"""

import copy
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

DIGITS, DEEP = "<5,000 digits>", "<1,000 levels>"  # stand for what the writers of JSON and YAML cannot write
LITERALS = {DIGITS: "9" * 5000, DEEP: "[" * 1000 + "]" * 1000}
NUMBERS = (2**63, -(2**63) - 1, 2**64, 2**31, 10**12, 18 * 10**12, 1e300, -1e300, 1e-300, 0, -1, -0.0, 0.5, 1, 3, 1000)
ODD_NUMBERS = (float("nan"), float("inf"), -float("inf"), DIGITS, True, None, "1e3", "1_000", "0x10", "٣", "1:30")
PATHS = (
    "",
    ".",
    "..",
    "../..",
    "run.yaml",
    "data",
    "run",
    "missing/deep/file",
    "/dev/null",
    "/",
    "~",
    "loop",
    "a" * 300,
)
ODD_PATHS = (
    "nul\0.json",
    "a/" * 3000,
    "\ud800.json",
    "[",
    "*",
    "**/*",
    "{domain}",
    "$HOME",
    "file:///x",
    "s3://none/x",
)
WORDS = ("\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\rb", "\u202eabc", "; touch stray", "$(touch stray)", "null", "~")
NAMES = (
    "VOWELS",
    "Vowels",
    "con",
    "NUL",
    "..",
    "vowels@held_out",
    "vowels ",
    "<b>",
    "é",
    "e\u0301",
    "reused",
    "x" * 129,
)
COLLECTIONS: tuple[Any, ...] = ([], {}, [[]], DEEP, {"": ""}, [None], {"text": 1}, [0.1] * 1000)
VALUES = (NUMBERS, ODD_NUMBERS, PATHS, ODD_PATHS, WORDS, NAMES, COLLECTIONS)


def value(draw: random.Random, old: Any = None) -> Any:
    """Return an extreme value: mostly of the type of `old`, if given, so that it gets past the checks of types."""
    if draw.random() < 0.7:
        if isinstance(old, bool):
            return not old
        if isinstance(old, int | float):
            return draw.choice((*NUMBERS, *NUMBERS, *ODD_NUMBERS, -old, old * 1000, old / 1000))
        if isinstance(old, str):
            return draw.choice(draw.choice((PATHS, ODD_PATHS, WORDS, NAMES)))
    return copy.deepcopy(draw.choice(draw.choice(VALUES)))


def tree(draw: random.Random, root: Any) -> Any:
    """Return a copy of nested dicts and lists with one to three entries changed, removed, added, renamed or swapped."""
    holder = [copy.deepcopy(root)]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        block, key = _place(draw, holder)
        act = draw.choice(("set", "set", "set", "set", "remove", "add", "rename", "swap", "wrap"))
        if act == "set":
            block[key] = value(draw, block[key])
        elif act == "swap":
            other, place = _place(draw, holder)
            block[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(block[key])
        elif act == "wrap":
            block[key] = draw.choice(([block[key]], {"a": block[key]}))
        elif block is holder:
            block[0] = value(draw)
        elif isinstance(block, list):
            if act == "remove":
                del block[key]
            else:
                block.insert(key, draw.choice((value(draw, block[key]), block[key])))
        elif act == "remove":
            del block[key]
        elif act == "rename":
            block[draw.choice((*NAMES, f"{key}s", key.upper()))] = block.pop(key)
        else:
            block[draw.choice((*NAMES, *WORDS))] = value(draw)
    return holder[0]


def _place(draw: random.Random, holder: list[Any]) -> tuple[Any, Any]:
    """Return (dict or list, key or position) of an entry, mostly one without entries; a long list counts like one."""
    block: Any = holder
    key: Any = 0
    while isinstance(block[key], dict | list) and block[key] and draw.random() < 0.9:
        block = block[key]
        key = draw.choice(list(block)) if isinstance(block, dict) else draw.randrange(len(block))
    return block, key


def json_text(draw: random.Random, record: Any) -> bytes:
    """Return a record as JSON, with the literals that no writer makes."""
    return _literal(json.dumps(record, indent=draw.choice((None, 1))), '"')


def yaml_text(draw: random.Random, record: Any) -> bytes:
    """Return a record as YAML, with the literals that no writer makes."""
    return _literal(yaml.safe_dump(record, sort_keys=False, default_flow_style=draw.choice((False, None))), "")


def _literal(written: str, quote: str) -> bytes:
    for name, literal in LITERALS.items():
        written = written.replace(f"{quote}{name}{quote}", literal)
    return written.encode("utf-8", "surrogatepass")


def text(draw: random.Random, content: bytes) -> bytes:
    """Return text with lines given twice, removed, swapped or joined, a number replaced, or odd characters put in."""
    lines = content.splitlines(keepends=True) or [b""]
    here, there = (draw.randrange(len(lines)) for _ in range(2))
    act = draw.randrange(8)
    if act == 0:
        lines.insert(there, lines[here])
    elif act == 1:
        del lines[here]
    elif act == 2:
        lines[here], lines[there] = lines[there], lines[here]
    elif act == 3:
        lines[here] = lines[here].rstrip(b"\r\n")
    elif act == 4:
        lines.insert(
            here, draw.choice((b" ", b"\t", b"- ", b"&a [*a]\n", b"<<: *a\n", b"---\n", b"# x\n", b"[", b'"', b"}"))
        )
    elif act == 5:
        lines.insert(here, bomb())
    elif act == 6:
        spots = [place for place, byte in enumerate(lines[here]) if chr(byte).isdigit()]
        place = draw.choice(spots or [0])
        number = str(draw.choice((*NUMBERS, *ODD_NUMBERS))).replace(DIGITS, LITERALS[DIGITS]).encode()
        lines[here] = lines[here][:place] + number + lines[here][place + 1 :]
    else:
        place = draw.randrange(len(lines[here]) + 1)
        mark = draw.choice((*WORDS, *NAMES, "\0", "\ufeff", "\u2028", "\x85", "\x0c", "\ud800", "\x1a"))
        lines[here] = lines[here][:place] + mark.encode("utf-8", "surrogatepass") + lines[here][place:]
    return b"".join(lines)


def bomb() -> bytes:
    """Return YAML whose aliases stand for 10^8 entries."""
    blocks = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    blocks += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    return "\n".join([*blocks, ""]).encode()


def binary(draw: random.Random, content: bytes) -> bytes:
    """Return bytes with bits flipped, cut off, repeated, zeroed or overwritten, or in another encoding."""
    place = draw.randrange(len(content) + 1)
    size = draw.choice((1, 2, 8, 64, 1000))
    act = draw.randrange(10)
    if act <= 2:
        flipped = bytearray(content)
        for _ in range(draw.choice((1, 1, 1, 2, 16)) if content else 0):
            # half of the flips near the ends: most formats keep what they need to find the rest there
            flip = draw.randrange(len(content))
            near = draw.choice((flip, flip, min(flip % 64, len(content) - 1), -1 - flip % min(64, len(content))))
            flipped[near] ^= 1 << draw.randrange(8)
        return bytes(flipped)
    if act == 3:
        return content[:place]
    if act == 4:
        return b""
    if act == 5:
        return content[:place] + bytes(size) + content[place + size :]
    if act == 6:
        return content[:place] + draw.randbytes(size) + content[place:]
    if act == 7:
        return content + content[place:]
    if act == 8:
        return draw.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\x1f\x8b\x08\x00", b"PAR1", b"\n\n")) + content
    written = content.decode("utf-8", "replace")
    return written.encode(draw.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "cp037", "utf-7")), "replace")


def csv_table(draw: random.Random, content: bytes) -> bytes:
    """Return a CSV table with one or two of its cells, columns or lines changed."""
    lines = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw.choice((1, 1, 2))):
        row, column = draw.randrange(len(lines)), draw.randrange(len(lines[0]))
        act = draw.randrange(7)
        if act <= 2:
            cell = str(value(draw)).replace(DIGITS, LITERALS[DIGITS])
            lines[row][column % len(lines[row])] = cell
        elif act == 3:
            lines[row].append(str(value(draw)))
        elif act == 4:
            lines.insert(row, list(lines[draw.randrange(len(lines))]))
        elif act == 5:
            lines = [line[:column] + line[column + 1 :] or [""] for line in lines]
        else:
            lines = lines[: max(row, 1)]
    return "\n".join(map(",".join, lines)).encode("utf-8", "surrogatepass") + b"\n"


def parquet_table(draw: random.Random, content: bytes) -> bytes:
    """Return a parquet table with a column removed, renamed, of another type, or with odd numbers, or other rows."""
    frame = pd.read_parquet(io.BytesIO(content))
    column = draw.choice(list(frame.columns))
    act = draw.randrange(8)
    if act == 0:
        frame = frame.drop(columns=column)
    elif act == 1:
        frame = frame.rename(columns={column: draw.choice((*NAMES, column.upper()))})
    elif act == 2:
        frame[column] = frame[column].astype(str)
    elif act == 3:
        frame[column] = draw.choice((float("nan"), float("inf"), -1, 0, 2**62, None, True))
    elif act == 4:
        frame[column] = [[1.0, 2.0]] * len(frame)
    elif act == 5:
        frame = frame.iloc[: draw.randrange(len(frame) + 1)]
    elif act == 6:
        frame = pd.concat([frame, frame])
    else:
        frame = frame.sample(frac=1, random_state=draw.randrange(2**31))
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


STRUCTURED: dict[str, tuple[Callable[[random.Random, bytes], bytes], ...]] = {
    ".json": (lambda draw, content: json_text(draw, tree(draw, json.loads(content))),),
    ".yaml": (lambda draw, content: yaml_text(draw, tree(draw, yaml.safe_load(content))),),
    ".csv": (csv_table,),
    ".parquet": (parquet_table,),
}
TEXTS = (".json", ".yaml", ".csv", ".txt", ".jsonl")


def file(draw: random.Random, path: Path, suffix: str = "") -> str:
    """Damage a file in place, at the level of its records, its text, its bytes or its directory; return in what way.

    suffix: the format, where the file's name does not tell.
    """
    suffix = suffix or path.suffix
    kinds = ["bytes"] * 2 + ["place"]
    kinds += ["records"] * 6 * (suffix in STRUCTURED) + ["text"] * 3 * (suffix in TEXTS)
    kind = draw.choice(kinds)
    if kind == "place":
        return place(draw, path)
    content = path.read_bytes()
    if kind == "records":
        damaged = draw.choice(STRUCTURED[suffix])(draw, content)
    else:
        damaged = (text if kind == "text" else binary)(draw, content)
    path.write_bytes(damaged)
    return kind


def place(draw: random.Random, path: Path) -> str:
    """Put something else where a file was: nothing, a directory, a loop, another file, or one that nobody may read."""
    kind = draw.choice(("missing", "directory", "loop", "dangling", "swapped", "forbidden"))
    others = sorted(other for other in path.parent.iterdir() if other.is_file() and other != path)
    if kind == "swapped" and others:
        shutil.copyfile(draw.choice(others), path)
        return kind
    if kind == "forbidden":
        path.chmod(0)
        return kind
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind in ("loop", "dangling"):
        path.symlink_to(path if kind == "loop" else path.with_name("nowhere"))
    return kind


def directory(draw: random.Random, path: Path) -> str:
    """Exchange a directory with another one beside it; return with which."""
    other = draw.choice(sorted(other for other in path.parent.iterdir() if other.is_dir() and other != path))
    aside = path.with_name("aside")
    for one, two in ((path, aside), (other, path), (aside, other)):
        one.rename(two)
    return f"exchanged with {other}"


def words(draw: random.Random, line: list[str]) -> list[str]:
    """Return the words of a command with one or two of them changed (mostly), removed, given twice or put in."""
    line = list(line)
    for _ in range(draw.choice((1, 1, 2))):
        spot = draw.randrange(len(line))
        act = draw.choice(("change", "change", "change", "change", "remove", "repeat", "flag", "put in"))
        if act == "change":
            flag, equals, old = line[spot].rpartition("=")
            new = value(draw, float(old)) if old.replace(".", "").isdigit() else value(draw, old)
            line[spot] = f"{flag}{equals}{word(new)}" if draw.random() < 0.8 else word(new)
        elif act == "remove" and len(line) > 1:
            del line[spot]
        elif act == "repeat":
            line.insert(spot, draw.choice(line))
        elif act == "flag":
            line.insert(spot, draw.choice(("--", "-", "-o", "--help", "--version", "--resume", "[", "{}", "--x=1")))
        else:
            line.insert(spot, word(value(draw)))
    return line


def word(some: Any) -> str:
    """Return a value as a word of a command line, without what no shell can pass."""
    written = "null" if some is None else str(some)
    for name, literal in LITERALS.items():
        written = written.replace(name, literal)
    return written.replace("\0", "").replace("\ud800", "\udc80")
