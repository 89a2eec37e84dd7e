"""Text that any machine with this project installed has: the demo's domains, about 2 MB each.

Files come in the order of a hash of their names (sorted names would give the letter A only), are read until 2 MB are
found, and are cut at line ends into documents of some 8 kB, so that holding out documents by hash leaves enough on
both sides. The same machine always gives the same text; another one may have other versions of the packages, so
`fingerprint` is part of a run's record.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import random
import sysconfig
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from mixtures.errors import UserError

DOMAIN_BYTES = 2_000_000
DOCUMENT_CHARACTERS = 8_000

Text = tuple[str, str]  # (where it is from, the text)


def python() -> Iterator[Text]:
    """Source code of the standard library, without tests and generated tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "encodings", "__pycache__"}
    return _files(root, (path for path in root.rglob("*.py") if not skip & set(path.relative_to(root).parts)))


def cpp_headers() -> Iterator[Text]:
    """C++ headers that torch ships, without the machine-written ones."""
    root = _package("torch")
    headers = () if root is None else (root / "include").rglob("*.h*")
    return (
        (place, text)
        for place, text in _files(root, headers)
        if "/ops/" not in place and "generated" not in place + text[:1000]
    )


def generated_ops() -> Iterator[Text]:
    """C++ that torchgen wrote: one header for each operator."""
    root = _package("torch")
    return _files(root, () if root is None else (root / "include" / "ATen" / "ops").glob("*.h"))


def docstrings() -> Iterator[Text]:
    """Docstrings of installed scientific packages: one document a module."""
    for name in ("scipy", "numpy", "pandas", "matplotlib"):
        root = _package(name)
        modules = (
            ()
            if root is None
            else (path for path in root.rglob("*.py") if not {"test", "tests"} & set(path.relative_to(root).parts))
        )
        taken = 0
        for place, source in _files(root, modules):
            if taken > DOMAIN_BYTES // 3:  # so that no package fills the domain alone
                break
            text = "\n\n".join(_docstrings_of(source))
            taken += len(text)
            yield place, text


def manual_prose() -> Iterator[Text]:
    """Manuals: package descriptions, documentation files, and Python's language reference as pydoc has it."""
    found = []
    for package in _distributions():
        found.append((f"{package.name}/METADATA", str(package.metadata.json.get("description", ""))))
        found += _readable(package, lambda path: path.suffix in (".md", ".rst") and ".dist-info" not in path.parts[0])
    found += _files(
        root := Path(sysconfig.get_paths()["stdlib"]), [*root.glob("idlelib/*.txt"), *root.glob("email/*.rst")]
    )
    if importlib.util.find_spec("pydoc_data"):
        topics = importlib.import_module("pydoc_data.topics").topics
        found += [(f"pydoc_data/topics/{name}", text) for name, text in topics.items()]
    return _unique(sorted(found, key=_shuffled))


def legal() -> Iterator[Text]:
    """Licence texts of the installed packages, each once."""
    names = ("licen", "copying", "notice", "copyright")
    found: list[Text] = []
    for package in _distributions():
        found += _readable(
            package, lambda path: path.name.lower().startswith(names) and path.suffix in ("", ".txt", ".md", ".rst")
        )
    return _unique(sorted(found, key=_shuffled))


def noise_records() -> Iterator[Text]:
    """Records whose fields are random: a form to learn and nothing else. The same on every machine."""
    draw = random.Random(0)
    for number in range(DOMAIN_BYTES // 1_000):
        lines = []
        for _ in range(40):
            values = "\t".join(f"{draw.random():.6f}" for _ in range(3))
            lines.append(
                f"#{draw.getrandbits(40):010x}\t{draw.getrandbits(64):016x}\t{values}\t{'NY'[draw.getrandbits(1)]}\n"
            )
        yield f"record/{number}", "".join(lines)


BUILTINS = {
    function.__name__: function
    for function in (python, cpp_headers, docstrings, manual_prose, legal, generated_ops, noise_records)
}


@cache
def texts(name: str) -> tuple[Text, ...]:
    """The documents (place, text) of a builtin, at most 2 MB, in a fixed order. UserError for an unknown name."""
    if name not in BUILTINS:
        raise UserError(f"unknown builtin {name!r}; allowed: {', '.join(BUILTINS)}")
    pieces: list[Text] = []
    left = DOMAIN_BYTES
    for place, text in BUILTINS[name]():
        for line, piece in _cut(text):
            left -= len(piece.encode())
            if left < 0:
                return tuple(pieces)
            pieces.append((f"{place}:{line}", piece))
    return tuple(pieces)


def fingerprint(name: str) -> str:
    """Hash of all the text that this machine has of a builtin. Raises UserError for an unknown name."""
    return "sha256:" + hashlib.sha256(json.dumps(texts(name)).encode()).hexdigest()


def _cut(text: str) -> Iterator[tuple[int, str]]:
    """Pieces (number of the first line, text): whole lines, bounded unless one line is longer, none blank."""
    first, piece = 1, ""
    for number, line in enumerate(io.StringIO(text), 1):
        if piece and len(piece) + len(line) > DOCUMENT_CHARACTERS:
            if piece.strip():
                yield first, piece
            first, piece = number, ""
        piece += line
    if piece.strip():
        yield first, piece


def _shuffled(item: Text) -> bytes:
    """Sort key: an order that has nothing to do with the names and is the same everywhere."""
    return hashlib.sha256(item[0].encode()).digest()


def _files(root: Path | None, paths: Iterable[Path]) -> Iterator[Text]:
    """(name below the package's parent, text) of the files that are UTF-8, in shuffled order."""
    if root is None:
        return
    named = sorted(((path.relative_to(root.parent).as_posix(), str(path)) for path in paths), key=_shuffled)
    for name, path in named:
        try:
            yield name, Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _package(name: str) -> Path | None:
    """Directory of an installed package, found without importing it; None where it is missing."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _distributions() -> list[importlib.metadata.Distribution]:
    """The packages of this environment by name, but none installed from a directory (this project changes daily)."""
    paths = sysconfig.get_paths()
    found = importlib.metadata.distributions(path=sorted({paths["purelib"], paths["platlib"]}))
    return sorted(
        (each for each in found if "dir_info" not in (each.read_text("direct_url.json") or "")),
        key=lambda each: each.name,
    )


def _readable(
    package: importlib.metadata.Distribution, wanted: Callable[[Path | importlib.metadata.PackagePath], bool]
) -> list[Text]:
    """(name, text) of a package's files that are wanted and UTF-8."""
    found = []
    for path in package.files or ():
        if wanted(path):
            try:
                found.append((path.as_posix(), Path(str(package.locate_file(path))).read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError):
                continue
    return found


def _unique(found: Iterable[Text]) -> Iterator[Text]:
    """Those whose text, white space and case aside, was not seen before."""
    seen = set()
    for place, text in found:
        key = " ".join(text.casefold().split())
        if key not in seen:
            seen.add(key)
            yield place, text


def _docstrings_of(source: str) -> Iterator[str]:
    """Docstrings of a module, its classes and functions, those of one line left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes in other people's code
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and "\n" in text:
                yield text
