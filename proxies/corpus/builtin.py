"""The demo's domains: text that is on every machine where this project is installed, about 2 MB each.

Files are read in the order of a hash of their names (in alphabetical order, 2 MB would hold the letter A only), until
2 MB are read. They are cut at line ends into documents of about 8 kB, so that enough documents are held out by hash and
enough are left to train on. The same machine always gives the same text. Another machine may have other versions of the
packages, so a run records the `fingerprint` of the text.
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

from mixtures.errors import UserError, quoted

DOMAIN_BYTES = 2_000_000
DOCUMENT_CHARACTERS = 8_000

Text = tuple[str, str]  # (name of the place that it is from, the text)


def python() -> Iterator[Text]:
    """Return the source code of Python's standard library, without tests and generated tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skip = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "encodings", "__pycache__"}
    return _files(root, (path for path in root.rglob("*.py") if not skip & set(path.relative_to(root).parts)))


def cpp_headers() -> Iterator[Text]:
    """Return the C++ headers that torch ships, without those that a program wrote."""
    root = _package("torch")
    headers = () if root is None else (root / "include").rglob("*.h*")
    return (
        (place, text)
        for place, text in _files(root, headers)
        if "/ops/" not in place and "generated" not in place + text[:1000]
    )


def generated_ops() -> Iterator[Text]:
    """Return the C++ headers that torchgen wrote, one per operator."""
    root = _package("torch")
    return _files(root, () if root is None else (root / "include" / "ATen" / "ops").glob("*.h"))


def docstrings() -> Iterator[Text]:
    """Yield the docstrings of installed scientific packages, one document per module."""
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
    """Return manuals: package descriptions, documentation files, and the parts of Python's reference that pydoc has."""
    manuals = []
    for package in _distributions():
        manuals.append((f"{package.name}/METADATA", str(package.metadata.json.get("description", ""))))
        manuals += _readable(package, lambda path: path.suffix in (".md", ".rst") and ".dist-info" not in path.parts[0])
    manuals += _files(
        root := Path(sysconfig.get_paths()["stdlib"]), [*root.glob("idlelib/*.txt"), *root.glob("email/*.rst")]
    )
    if importlib.util.find_spec("pydoc_data"):
        topics = importlib.import_module("pydoc_data.topics").topics
        manuals += [(f"pydoc_data/topics/{name}", text) for name, text in topics.items()]
    return _unique(sorted(manuals, key=_shuffled))


def legal() -> Iterator[Text]:
    """Return the licence texts of the installed packages, each text once."""
    names = ("licen", "copying", "notice", "copyright")
    licences: list[Text] = []
    for package in _distributions():
        licences += _readable(
            package, lambda path: path.name.lower().startswith(names) and path.suffix in ("", ".txt", ".md", ".rst")
        )
    return _unique(sorted(licences, key=_shuffled))


def noise_records() -> Iterator[Text]:
    """Yield records whose fields are random, so that only their form can be learned; the same on every machine."""
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
    """Return the documents (place, text) of a builtin domain, at most 2 MB, in a fixed order.

    Raises UserError for an unknown name.
    """
    if name not in BUILTINS:
        raise UserError(f"unknown builtin {quoted(name)}; allowed: {', '.join(BUILTINS)}")
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
    """Return a hash of all text of a builtin domain on this machine. Raises UserError for an unknown name."""
    return "sha256:" + hashlib.sha256(json.dumps(texts(name)).encode()).hexdigest()


def _cut(text: str) -> Iterator[tuple[int, str]]:
    """Cut a text into pieces (number of the first line, text) of whole lines, and drop blank pieces.

    A piece has at most DOCUMENT_CHARACTERS characters, unless a single line is longer.
    """
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
    """Return a sort key for an order that does not follow the names and is the same on every machine."""
    return hashlib.sha256(item[0].encode()).digest()


def _files(root: Path | None, paths: Iterable[Path]) -> Iterator[Text]:
    """Yield (path relative to the parent of `root`, text) of all files that are UTF-8, in shuffled order."""
    if root is None:
        return
    named = sorted(((path.relative_to(root.parent).as_posix(), str(path)) for path in paths), key=_shuffled)
    for name, path in named:
        try:
            yield name, Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue


def _package(name: str) -> Path | None:
    """Return the directory of an installed package, without importing it; None if the package is missing."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _distributions() -> list[importlib.metadata.Distribution]:
    """Return the packages of this environment, sorted by name.

    Packages that were installed from a directory are left out, because their text may change at any time; this project
    is one.
    """
    paths = sysconfig.get_paths()
    installed = importlib.metadata.distributions(path=sorted({paths["purelib"], paths["platlib"]}))
    return sorted(
        (package for package in installed if "dir_info" not in (package.read_text("direct_url.json") or "")),
        key=lambda package: package.name,
    )


def _readable(
    package: importlib.metadata.Distribution, wanted: Callable[[Path | importlib.metadata.PackagePath], bool]
) -> list[Text]:
    """Return (name, text) of those files of a package that `wanted` accepts and that are UTF-8."""
    readable = []
    for path in package.files or ():
        if wanted(path):
            try:
                readable.append((path.as_posix(), Path(str(package.locate_file(path))).read_text(encoding="utf-8")))
            except (OSError, UnicodeDecodeError):
                continue
    return readable


def _unique(items: Iterable[Text]) -> Iterator[Text]:
    """Yield each text once; texts that differ only in white space or case count as the same."""
    seen = set()
    for place, text in items:
        key = " ".join(text.casefold().split())
        if key not in seen:
            seen.add(key)
            yield place, text


def _docstrings_of(source: str) -> Iterator[str]:
    """Yield the docstrings of a module, its classes and functions, except those of one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escapes in the packages' code
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text and "\n" in text:
                yield text
