"""What the files of other programs and trainers say about a mixture: shares with the names in the file, stage by stage.

doremi    domain config {"train_domain_weights": {name: share}, ...}
regmix    ratios, CSV or JSON, one mixture per row, or the YAML that it trains with, {"train": {name: weight}, ...};
          the prefix `train_` is dropped (`schedule`) where all names have it
olmix     ratios, CSV or JSON, or a proposal [{"domain": name, "weight": share}, ...]
megatron  weights and prefixes: text `0.7 web 0.3 code` (--data-args-path), a JSON list of these, [[prefix, ...],
          [weight, ...]] as Megatron-Bridge has them, or {"train": ..., "valid": ..., ...}
levanter  YAML with train_weights {name: weight} or [[step, {name: weight}], ...]
hf        JSON {name: probability}, or {"datasets": [name, ...], "probabilities": [p, ...]},
          or what `convert --to hf` writes
json      {name: share}, or what `convert --to json` writes
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from mixtures.convert.job import Unit
from mixtures.errors import UserError, quoted
from mixtures.files import read_json, read_yaml
from mixtures.imports.tables import DOREMI, read_shares
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.shares import PREFIX, ROUNDING, checked_shares

Amounts = list[tuple[str, Any]]  # (name in the file, amount); a name may come several times


@dataclass(frozen=True)
class TrainerFile:
    """What one file says about a mixture, with the names that the file uses.

    where: the file, and the place in it, for messages. stages: (first step, {name: share}), shares with sum 1, the
    first stage at step 0. by_tokens: the stages begin at tokens instead of steps. unit: what a share is a share of,
    where the file says it. sequence_length: tokens per row, where the file says it. batches: (first step, sequences per
    step), where the file says them. notes: what the user should know.
    """

    where: str
    stages: tuple[tuple[int, dict[str, float]], ...]
    by_tokens: bool = False
    unit: str | None = None
    sequence_length: int | None = None
    batches: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """How the files of one format are read.

    read: function of the path and the row of --row. unit: what a share is a share of, where the file does not say it;
    for sequences, rows of one fixed length, this is `token`, because their shares are the shares of tokens. rows: a
    file holds several mixtures, and --row chooses one. prefix: what the program writes before the name of every domain.
    """

    read: Callable[[Path, str | None], TrainerFile]
    unit: Literal["token", "document"] = "token"
    rows: bool = False
    prefix: str = ""


def _doremi(path: Path, row: str | None) -> TrainerFile:
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get(DOREMI), dict):
        raise UserError(f'{path} is no domain config of DoReMi: it has no "{DOREMI}": {{name: share}}')
    where = f"{path}, {DOREMI}"
    return TrainerFile(where, ((0, checked_shares(record[DOREMI], where=where, tolerance=ROUNDING)),))


def _ratios(path: Path, row: str | None) -> TrainerFile:
    return TrainerFile(str(path), ((0, read_shares(path, row=row)),))


def _regmix(path: Path, row: str | None) -> TrainerFile:
    if path.suffix.lower() not in (".yaml", ".yml"):
        return _ratios(path, row)
    if row is not None:
        raise UserError(f"--row {row}: {path} holds one mixture; leave it out")
    _text(path)  # raises UserError where the file is missing or no text
    record = read_yaml(path)
    if isinstance(record, dict) and not isinstance(record.get("train"), dict):  # `train_web: 0.1` without a block
        record = {"train": {name: weight for name, weight in record.items() if str(name).startswith(PREFIX)}}
    weights = record.get("train") if isinstance(record, dict) else None
    if not weights:
        raise UserError(f"{path} holds no mixture of RegMix; give `train: {{{PREFIX}NAME: weight, ...}}`")
    return TrainerFile(f"{path}, train", ((0, _normalised(list(weights.items()), where=f"{path}, train")),))


def _megatron(path: Path, row: str | None) -> TrainerFile:
    text = _text(path)
    record = read_json(path) if text.lstrip()[:1] in ("{", "[") else text
    notes: tuple[str, ...] = ()
    if isinstance(record, dict):
        if record.get("train") is None:
            raise UserError(
                f'{path} has no "train"; found {", ".join(record) or "nothing"}: give the blend that is trained on'
            )
        ignored = [name for name, blend in record.items() if name != "train" and blend is not None]
        notes = (f"{path}: only train is read, not {', '.join(ignored)}",) if ignored else ()
        record = record["train"]
    words = record.split() if isinstance(record, str) else _in_turn(record)
    if not isinstance(words, list) or not words or not all(isinstance(word, str | int | float) for word in words):
        raise UserError(f"{path} holds no blend; give weights and prefixes in turn, as 0.7 data/web 0.3 data/code")
    pairs = list(zip(words[1::2], words[::2], strict=False))
    if len(words) % 2 or any(not _is_number(weight) for _, weight in pairs):
        raise UserError(
            f"{path} has {len(words)} fields that are not weights and prefixes in turn ({_some(words)}): Megatron then "
            "takes every domain by its size, which the file does not say; give weights, as 0.7 data/web 0.3 data/code"
        )
    return TrainerFile(
        str(path),
        ((0, _normalised([(str(prefix), float(weight)) for prefix, weight in pairs], where=str(path))),),
        notes=notes,
    )


def _in_turn(blend: Any) -> Any:
    """Return Megatron-Bridge's [[prefix, ...], [weight, ...]] as weights and prefixes in turn; others as they are."""
    lists = isinstance(blend, list) and len(blend) == 2 and all(isinstance(part, list) for part in blend)
    if not lists or len(blend[0]) != len(blend[1]):
        return blend
    return [word for prefix, weight in zip(*blend, strict=True) for word in (weight, prefix)]


def _levanter(path: Path, row: str | None) -> TrainerFile:
    _text(path)  # raises UserError where the file is missing or no text
    record = read_yaml(path)
    data = record.get("data", record) if isinstance(record, dict) else None
    weights = data.get("train_weights") if isinstance(data, dict) else None
    if isinstance(weights, dict):
        weights = [[0, weights]]
    where = f"{path}, train_weights"
    shaped = isinstance(weights, list) and all(
        isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], int) and isinstance(entry[1], dict)
        for entry in weights
    )
    if not weights or not shaped:
        raise UserError(
            f"{where}: no mixture; give data.train_weights as {{name: weight}} or [[step, {{name: weight}}], ...]"
        )
    _check_starts([start for start, _ in weights], where=where)
    stages = tuple(
        (start, _normalised(list(amounts.items()), where=f"{where} from step {start}")) for start, amounts in weights
    )
    trainer, model = (record.get(name) if isinstance(record.get(name), dict) else {} for name in ("trainer", "model"))
    lengths = [record.get("train_seq_len"), *(model.get(name) for name in ("max_seq_len", "seq_len"))]
    return TrainerFile(
        where,
        stages,
        sequence_length=next((length for length in lengths if isinstance(length, int)), None),
        batches=_schedule(trainer.get("train_batch_size"), where=f"{path}, trainer.train_batch_size"),
    )


def _hf(path: Path, row: str | None) -> TrainerFile:
    record = read_json(path)
    if isinstance(record, dict) and isinstance(record.get("stages"), list):
        return _ours(record, path, unit="row", shares="probabilities")
    names = record.get("datasets") if isinstance(record, dict) else None
    shares = record.get("probabilities") if isinstance(record, dict) else None
    shares = shares if isinstance(shares, dict | list) else record
    if isinstance(shares, list) and isinstance(names, list) and len(shares) == len({*map(str, names)}) == len(names):
        shares = dict(zip(map(str, names), shares, strict=True))
    if not isinstance(shares, dict) or not shares:
        raise UserError(
            f'{path} holds no probabilities; give {{name: probability}}, or {{"datasets": [name, ...], '
            f'"probabilities": [p, ...]}}, '
            "every name once and as many numbers as names"
        )
    return TrainerFile(str(path), ((0, checked_shares(shares, where=str(path), tolerance=ROUNDING)),))


def _json(path: Path, row: str | None) -> TrainerFile:
    record = read_json(path)
    if isinstance(record, dict) and isinstance(record.get("stages"), list):
        if row is not None:
            raise UserError(f"--row {row}: {path} holds one mixture with its stages; leave it out")
        if "schema_version" in record:  # a whole mixture.json
            Mixture.load(path)  # checks it
            record = {**record, "unit": "token"}
        return _ours(record, path, unit="unit", shares="weights")
    return _ratios(path, row)


def _ours(record: Mapping[str, Any], path: Path, *, unit: str, shares: str) -> TrainerFile:
    """Read a file that `convert` wrote: a list of stages with start_tokens and shares, and the unit of the shares."""
    stages = []
    try:
        for number, stage in enumerate(record["stages"]):
            where = f"{path}, stage {number + 1}"
            start = _whole(stage["start_tokens"], where=f"{where}, start_tokens")
            stages.append((start, checked_shares(stage[shares], where=where, tolerance=ROUNDING)))
        _check_starts([start for start, _ in stages], where=str(path))
        if record[unit] not in get_args(Unit):
            raise UserError(f"{path}: {unit} is {quoted(record[unit])}; allowed: {', '.join(get_args(Unit))}")
        return TrainerFile(str(path), tuple(stages), by_tokens=True, unit=record[unit])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not as `convert` wrote it ({type(error).__name__}: {error}); convert the mixture again"
        ) from error


READERS = {
    "doremi": Reader(_doremi),
    "regmix": Reader(_regmix, rows=True, prefix=PREFIX),
    "olmix": Reader(_ratios, rows=True),
    "megatron": Reader(_megatron),
    "levanter": Reader(_levanter),
    "hf": Reader(_hf, unit="document"),
    "json": Reader(_json, rows=True),
}


def read_found(path: str | Path, *, source: str, row: str | None = None) -> TrainerFile:
    """Read the file `path` of the format `source`: its stages and shares, with the names in the file.

    row: which mixture of a file with several. Raises UserError for an unknown format (the message names all), a row
    where the format has none, a file that is missing, damaged or of another format, and amounts that are no mixture.
    """
    if source not in READERS:
        raise UserError(f"--from {source}: unknown; allowed: {', '.join(READERS)}")
    if row is not None and not READERS[source].rows:
        rows = [name for name, reader in READERS.items() if reader.rows]
        raise UserError(f"--row {row}: a file of {source} holds one mixture; --row is for {', '.join(rows)}")
    return READERS[source].read(Path(path), row)


def _normalised(amounts: Amounts, *, where: str) -> dict[str, float]:
    """Return the amounts divided by their sum, as the trainer does; amounts of the same name are added up."""
    if odd := [name for name, _ in amounts if not isinstance(name, str)]:
        raise UserError(f"{where}: {_some(odd)}: YAML reads a name as another thing than text; write it in quotes")
    bad = [
        f"{name}: {quoted(amount)}"
        for name, amount in amounts
        if not _is_number(amount) or not 0 <= float(amount) < math.inf
    ]
    if bad or not (total := math.fsum(float(amount) for _, amount in amounts)) > 0:
        raise UserError(
            f"{where}: these are no weights: {_some(bad) or 'all are 0'}; give every domain a number of 0 or more, "
            f"not all 0"
        )
    shares: dict[str, float] = {}
    for name, amount in amounts:
        shares[str(name)] = shares.get(str(name), 0.0) + float(amount) / total
    return shares


def _check_starts(starts: Sequence[int], *, where: str) -> None:
    """Refuse stages that do not begin at 0 or do not ascend. Raises UserError."""
    if not starts or starts[0] != 0 or any(before >= after for before, after in pairwise(starts)):
        raise UserError(
            f"{where}: stages start at {_some(starts) or 'none'}; the first starts at 0, and each after the one "
            f"before it"
        )


def _schedule(value: Any, *, where: str) -> tuple[tuple[int, int], ...]:
    """Read Levanter's batch size: a number, or [{start: step, value: sequences}, ...]; empty where there is none."""
    if value is None:
        return ()
    steps = [{"start": 0, "value": value}] if isinstance(value, int) else value
    if not isinstance(steps, list) or not all(
        isinstance(step, Mapping) and {"start", "value"} <= step.keys() for step in steps
    ):
        raise UserError(f"{where}: {quoted(value)}; give a number, or a list of {{start: step, value: sequences}}")
    pieces = tuple(
        (_whole(step["start"], where=f"{where}, start"), _whole(step["value"], where=f"{where}, value", least=1))
        for step in steps
    )
    _check_starts([start for start, _ in pieces], where=where)
    return pieces


def _whole(value: Any, *, where: str, least: int = 0) -> int:
    """Return a whole number, which may be written as 1e9. Raises UserError for anything else, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise UserError(f"{where} is {quoted(value)}; give a whole number, {least} or more")
    return int(value)


def _is_number(value: Any) -> bool:
    """Say whether a value is a number, or text of one, and not NaN."""
    try:
        return not isinstance(value, bool) and float(value) == float(value)
    except (TypeError, ValueError):
        return False


def _text(path: Path) -> str:
    """Read a file as text. Raises UserError where it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}; give the path of a file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); give a text file") from error


def _some(words: Sequence[Any], most: int = 6) -> str:
    return ", ".join(map(str, words[:most])) + (", ..." if len(words) > most else "")
