"""Settings: read from a YAML file and command-line flags, validated, and written to the run's config.yaml."""

import difflib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mixtures.errors import NOTHING, UserError, grouped, quoted, some
from mixtures.files import check_path, file_name_faults, is_url, parse_yaml

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

DomainName = Annotated[str, Field(pattern=NAME)]

Share = Annotated[float, Field(ge=0, le=1)]

PACKAGES = ("torch", "accelerate", "transformers", "datasets", "tokenizers", "numpy", "doge-mixtures")
PATHS = {
    "run_dir",
    "run",
    "data_files",
    "validation",
    "file",
    "config",
    "cache_dir",
    "scores",
    "reuse",
}  # settings that are always paths
STORED = {"data_files", "validation"}  # those of them that may be addresses in object stores

NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")  # no 010, no 1:30, no 1_000

Kind = TypeVar("Kind", bound=BaseModel)


def load(kind: type[Kind], path: str | Path, overrides: Sequence[str] = ()) -> Kind:
    """Read the settings of a YAML file with `--section.key value` overrides, and make every path absolute.

    Paths in the file are relative to the file's directory, paths in overrides to the working directory. A block
    `environment`, as in a run's config.yaml, is ignored. Raises UserError that lists every fault at once; for an
    unknown key it names the nearest known one.
    """
    path = Path(path)
    raw = _read(path)
    context = {"recorded": raw.pop("environment", None) is not None}
    _override(raw, overrides, kind)
    try:
        settings = kind.model_validate(raw, context=context)
    except ValidationError as error:
        faults = [line for fault in _faults(error, kind) for line in fault.splitlines()]
        raise UserError(
            f"{path}: {len(faults)} setting(s) cannot be used:\n" + "\n".join(f"  {line}" for line in faults)
        ) from error
    try:
        resolved = _absolute(settings.model_dump(exclude_unset=True), path.resolve().parent, kind)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return kind.model_validate(resolved, context=context)


def help_text(kind: type[BaseModel]) -> str:
    """Return what `--help` prints: one line per setting, with its default and its help text."""
    defaults = {name: "required" if default is ... else f"default {default!r}" for name, default, _ in flags(kind)}
    return "\n".join(f"  --{name} ({defaults[name]}): {text}" for name, _, text in flags(kind))


def flags(block: type[BaseModel]) -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted name, default, help text) of every setting; the default is `...` for a required one.

    A setting that holds blocks under names of the user's choice (corpus.domains, mixtures) is yielded as one; the
    settings inside these blocks are not.
    """
    for name, field in _fields(block):
        yield name, ... if field.is_required() else field.default, field.description or ""


def _fields(block: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield (dotted name, field) of every setting that is a value, or a dict with names of the user's choice."""
    for name, field in block.model_fields.items():
        inner = _unwrap(field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _fields(inner, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _unwrap(annotation: Any) -> Any:
    """Return the block, or the dict with names of the user's choice, in a setting's type; None for a plain value."""
    for option in (annotation, *get_args(annotation)):
        if get_origin(option) is dict or (isinstance(option, type) and issubclass(option, BaseModel)):
            return option
    return None


def _within(annotation: Any, name: str) -> Any:
    """Return the type of the entry `name` of a block, or of a dict with names of the user's choice; None if unknown."""
    inner = _unwrap(annotation)
    if get_origin(inner) is dict:
        return get_args(inner)[1]
    field = getattr(inner, "model_fields", {}).get(name)
    return field.annotation if field is not None else None


def environment(*, world_size: int, device: str) -> dict[str, Any]:
    """Return facts about the environment of a run: versions, git commit of this code, world size, device, command."""
    from datetime import UTC, datetime

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        **versions,
        "git_commit": git_commit(Path(__file__)),
        "world_size": world_size,
        "device": device,
        "command": " ".join(sys.argv),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def git_commit(file: Path) -> str:
    """Return the commit of the repository that `file` belongs to, with `-dirty` if something in it is not committed.

    `unknown` where git is not installed, and where no repository tracks the file: an environment for Python packages
    may lie inside somebody else's repository.
    """

    def git(*words: str) -> str | None:
        done = subprocess.run(["git", *words], cwd=file.parent, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        if git("ls-files", "--error-unmatch", file.name) is None or (commit := git("rev-parse", "HEAD")) is None:
            return "unknown"
        return commit + ("-dirty" if git("status", "--porcelain") else "")
    except OSError:
        return "unknown"


def dump(settings: BaseModel, environment: dict[str, Any] | None = None) -> str:
    """Return the text of a config.yaml: all settings with their values, and the environment. `load` reads it."""
    blocks = {**settings.model_dump(), **({"environment": environment} if environment else {})}
    return yaml.safe_dump(blocks, sort_keys=False, allow_unicode=True)


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return one line per setting that differs, such as `train.lr: 0.001 -> 0.002`."""
    before, after = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    return [
        f"{key}: {quoted(before.get(key))} -> {quoted(after.get(key))}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), path, text_keys=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give the path of a YAML file of settings"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not valid YAML; {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds {type(raw).__name__}, expected settings (run_dir, corpus, model, ...)")
    return raw


def _override(raw: dict[str, Any], overrides: Sequence[str], kind: type[BaseModel]) -> None:
    known = [f"--{name}" for name, _ in _fields(kind)]
    free = tuple(f"--{name}." for name, field in _fields(kind) if _unwrap(field.annotation) is not None)
    words = list(overrides)
    while words:
        flag, joined, word = words.pop(0).partition("=")
        if not flag.startswith("--"):
            raise UserError(f"{quoted(flag)} is not an override; write --section.key value, e.g. --train.steps 100")
        if not joined and not words:
            raise UserError(f"{flag} has no value; write {flag} VALUE")
        word = word if joined else words.pop(0)
        if flag not in known and not flag.startswith(free):
            raise UserError(f"{flag} is not a setting{_nearest(flag, known)}; `--help` lists all")
        *blocks, key = _steps(flag[2:], raw, kind)
        block, annotation = raw, kind
        for name in blocks:
            block, annotation = block.setdefault(name, {}), _within(annotation, name)
            if not isinstance(block, dict):
                raise UserError(
                    f"{flag} sets a key of {name}, but {name} holds {quoted(block)} in the YAML file; change it there"
                )
        read = _paths if key in PATHS and not _named(annotation) else _value
        block[key] = read(word, _within(annotation, key), flag)


def _steps(flag: str, raw: Any, annotation: Any) -> list[str]:
    """Split `corpus.domains.manual.prose.text` into the keys on its way; names of the user's choice may have dots.

    Such a name is the longest one of the YAML file that fits, or else the next word.
    """
    steps = []
    while flag:
        names = raw if isinstance(raw, dict) and get_origin(_unwrap(annotation)) is dict else {}
        fitting = [str(name) for name in names if flag == name or flag.startswith(f"{name}.")]
        step = max(fitting, key=len) if fitting else flag.partition(".")[0]
        steps.append(step)
        flag = flag[len(step) + 1 :]
        raw, annotation = raw.get(step) if isinstance(raw, dict) else None, _within(annotation, step)
    return steps


def _paths(word: str, annotation: Any, flag: str) -> Any:
    """Return the path of a flag, or the list of paths if the setting takes one; absolute, but for addresses.

    They are relative to the working directory, not to the YAML file.
    """

    def here(path: Any) -> Any:
        if not isinstance(path, str) or is_url(path):
            return path
        check_path(path, flag)
        return str(Path(path).expanduser().resolve())

    if word[:1] == "[" and (word[-1:] != "]" or list[str] not in get_args(annotation)):
        return here(word)  # a directory may be called [2026]
    value = _value(word, annotation, flag)
    return [here(path) for path in value] if isinstance(value, list) else here(value)


def _value(word: str, annotation: Any, flag: str) -> Any:
    """Return the value of a flag's word: the word, for validation to read; None for `null`; a list or a block of YAML.

    The scalars inside a list or a block stay words, too: plain YAML would read 1:30 as 90 and 010 as 8.
    """
    options = () if get_origin(annotation) is dict else get_args(annotation) or (annotation,)
    if word in ("null", "~") and type(None) in options:
        return None
    if str in options and word.lstrip()[:1] != "[":
        return word
    if NUMBER.fullmatch(word):
        return float(word) if set(word) & set(".eE") else int(word)
    if word.lstrip()[:1] not in ("[", "{"):
        return word
    try:
        return parse_yaml(word, flag, words=True)
    except yaml.YAMLError as error:
        raise UserError(f"{flag} {word}: is not valid YAML; {' '.join(str(error).split())}") from error


def _faults(error: ValidationError, kind: type[BaseModel]) -> list[str]:
    return grouped([_fault(fault, kind) for fault in error.errors(include_url=False, include_context=False)])


def _fault(fault: ErrorDetails, kind: type[BaseModel]) -> tuple[str, str, object]:
    """Return the place of what pydantic refused, what is wrong there, and the value found there."""
    place = [
        str(part) for part in fault["loc"] if not str(part).startswith(("function-", "dict[", "literal[", "list["))
    ]
    where = ".".join(part for part in place if part not in ("str", "[key]")) or "settings"
    if fault["type"] == "extra_forbidden":
        block: Any = kind
        for part in place[:-1]:
            block = _within(block, part)
        known = list(getattr(_unwrap(block), "model_fields", {}))
        return where, f"unknown setting{_nearest(place[-1], known)}", NOTHING
    if fault["type"] == "missing":
        return where, "is missing; it is required", NOTHING
    found = NOTHING if isinstance(fault["input"], dict) else fault["input"]
    return where, fault["msg"].removeprefix("Value error, "), found


def _nearest(name: str, known: list[str]) -> str:
    if near := difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        return f"; the nearest known one is {near[0]}"
    return f"; known: {', '.join(known)}" if known else ""


def _named(annotation: Any) -> bool:
    """Say whether a setting's type is a dict with names of the user's choice: such a name is no setting."""
    return get_origin(_unwrap(annotation)) is dict


def _absolute(value: Any, base: Path, annotation: Any, key: str = "") -> Any:
    """Return settings with every path absolute; `annotation` is their type, and `key` the setting they belong to.

    Raises UserError for an address of an object store where only this machine's paths are possible.
    """
    if isinstance(value, dict):
        return {
            name: _absolute(inner, base, _within(annotation, name), "" if _named(annotation) else name)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [_absolute(inner, base, None, key) for inner in value]
    if isinstance(value, str) and value:
        if key in PATHS and is_url(value):
            if key not in STORED:
                raise UserError(
                    f"{key}: {value} is an address, and only {' and '.join(sorted(STORED))} are read from object "
                    "stores; give a path on this machine"
                )
            return value
        if key in (*PATHS, "pretrained", "dataset"):
            check_path(value, key)
        if key in PATHS:
            return os.path.normpath(base / Path(value).expanduser())
        if key in ("pretrained", "dataset") and (base / value).exists():  # otherwise a name on the hub
            return os.path.normpath(base / value)
    return value


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, value


class Frozen(BaseModel):
    """A block of settings: it cannot be changed once it is made, and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _fits_into_64_bits(cls, value: Any) -> Any:
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("is a number beyond 64 bits; give one below 9.2e18")
        return value


def require_file_names(names: Iterable[str], info: ValidationInfo) -> None:
    """Check that names can be names of files everywhere: plots, scores and manifests are called after domains.

    For validators. Raises ValueError. What a run recorded in its config.yaml is not checked: its files are there.
    """
    if faults := [] if (info.context or {}).get("recorded") else file_name_faults(names):
        raise ValueError(f"{some(faults)}; files are called after these names, also on macOS and Windows: rename them")


def exactly_one(block: BaseModel, names: tuple[str, ...]) -> None:
    """Check that exactly one of these settings of a block is given. Raises ValueError otherwise; for validators."""
    present = [name for name in names if getattr(block, name)]
    if len(present) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}; found {', '.join(present) or 'none of them'}")
