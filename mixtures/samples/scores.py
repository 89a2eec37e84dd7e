"""Sample scores of a run, in RUN_DIR/scores/: `meta.json` (what was scored, and how) and `part-NNNNNN.parquet`.

The parts of a domain follow each other in the order of the run's domains, their samples by start. Every part is either
complete or absent; `meta.complete` says that all of them are there. In a run with an id, `_SHA256SUMS` names the
finished parts and, last of all, meta.json (`mixtures.sums`); parts are checked when they are read. Columns:

domain, document    names; a document's id leads to its source (proxies/corpus/sources.py: file:line, file:row, ...)
row                 number of a row in its document, from 0; null where whole documents were scored
start, tokens       the sample's span of the domain's train.bin; spans never overlap
SCORE               float64, one column per score, named in meta.scores
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, JsonValue, ValidationError

from mixtures.errors import UserError, quoted
from mixtures.files import list_faults, read_json, write_atomic
from mixtures.schedule.records import Count, Name, Positive, Record
from mixtures.sums import add_sums, fault_of, merge_sums, read_run_id, read_sums, write_sums

FORMAT = 1
META = "meta.json"
KEYS = {"domain": pa.string(), "document": pa.string(), "row": pa.int64(), "start": pa.int64(), "tokens": pa.int64()}


class Checkpoint(Record):
    """A checkpoint that the scores were computed with, and the learning rate of its step."""

    step: Count
    lr: float


class ScoredDomain(Record):
    """Size of a domain, how much of it was scored, and the number of its parts."""

    fingerprint: str | None
    documents: Count
    tokens: Count
    scored_documents: Count
    scored_tokens: Count
    samples: Count
    parts: Count


class ScoresMeta(Record):
    """Content of meta.json. Calls with the same meta, except `complete` and `environment`, give the same scores."""

    format: Literal[1] = 1
    unit: Literal["document", "row"]
    scores: tuple[str, ...]
    checkpoints: tuple[Checkpoint, ...]
    max_rows: Positive | None
    row_tokens: Positive
    tokenizer: str
    domains: dict[Name, ScoredDomain]
    complete: bool = False
    environment: dict[str, JsonValue] = Field(default={})

    @property
    def parts(self) -> int:
        """Return the number of parts of all domains."""
        return sum(domain.parts for domain in self.domains.values())


@dataclass(frozen=True)
class Scores:
    """The scores of a run; tables are read when they are asked for, one domain at a time."""

    run_dir: Path
    meta: ScoresMeta
    sums: Mapping[str, str] | None = None  # {part: sha256}; None where they are not recorded

    @property
    def domains(self) -> tuple[str, ...]:
        """Return the names of the domains in the run's order."""
        return tuple(self.meta.domains)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of the scores."""
        return self.meta.scores

    def frame(self, domain: str, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the samples of a domain, sorted by start, with the columns asked for or all: S rows.

        Raises UserError for a damaged part.
        """
        if domain not in self.meta.domains:
            raise UserError(
                f"{scores_path(self.run_dir)} has no domain {quoted(domain)}; it has {', '.join(self.domains)}"
            )
        names = list(columns if columns is not None else table_schema(self.columns).names)
        before = list(self.meta.domains.values())[: self.domains.index(domain)]
        first, entry = sum(scored.parts for scored in before), self.meta.domains[domain]
        read = list(dict.fromkeys(["domain", "start", *names]))
        empty = table_schema(self.columns).empty_table().select(read)
        numbers = range(first, first + entry.parts)
        if self.sums is not None:
            for path in (part_path(self.run_dir, number) for number in numbers):
                if fault := fault_of(path, self.sums.get(path.name)):
                    raise UserError(f"{path} {fault}; score it again with {_command(self.run_dir)}")
        table = pa.concat_tables([empty, *(_read_part(self.run_dir, number, read) for number in numbers)])
        start = table["start"].to_numpy()
        if (
            len(table) != entry.samples
            or pc.unique(table["domain"]).to_pylist() not in ([domain], [])
            or (np.diff(start) <= 0).any()
        ):
            raise UserError(
                f"{scores_path(self.run_dir)} does not hold the {entry.samples:,} samples of {domain} that its "
                f"meta.json names, in order: parts were damaged or replaced; {_again(self.run_dir)}"
            )
        frame = table.select(names).to_pandas()
        return frame.astype({"row": "Int64"}) if "row" in names else frame


def scores_path(run_dir: str | Path) -> Path:
    """Return the directory of a run's scores."""
    return Path(run_dir) / "scores"


def part_path(run_dir: str | Path, number: int) -> Path:
    """Return the path of a part."""
    return scores_path(run_dir) / f"part-{number:06d}.parquet"


def table_schema(scores: Sequence[str]) -> pa.Schema:
    """Return the schema of a part with these scores."""
    return pa.schema([*KEYS.items(), *((name, pa.float64()) for name in scores)])


def write_part(
    run_dir: str | Path, number: int, table: pa.Table, *, run_id: str | None = None, process: int = 0
) -> None:
    """Write a part in one step, and then its sha256 into this process's sums, if the run has an id.

    Raises OSError on a full disk; the part then does not count as written.
    """
    buffer, path = io.BytesIO(), part_path(run_dir, number)
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(path, buffer.getvalue())
    add_sums(path.parent, [path.name], run_id=run_id, process=process)


def write_meta(run_dir: str | Path, meta: ScoresMeta) -> None:
    """Write meta.json in one step. Raises OSError."""
    write_atomic(scores_path(run_dir) / META, meta.model_dump_json(indent=1))


def write_complete(run_dir: str | Path, meta: ScoresMeta, *, run_id: str | None) -> None:
    """Say that all parts are there: in meta.json, and at last in `_SHA256SUMS`, which then names meta.json as well.

    Raises OSError.
    """
    write_meta(run_dir, meta.model_copy(update={"complete": True}))
    if run_id is not None:
        merge_sums(scores_path(run_dir), run_id=run_id)
    add_sums(scores_path(run_dir), [META], run_id=run_id)


def read_meta(run_dir: str | Path) -> ScoresMeta | None:
    """Read meta.json of a run's scores; None where nothing was scored.

    Raises UserError where it is damaged or has another format.
    """
    path = scores_path(run_dir) / META
    if not path.is_file():
        return None
    try:
        content = read_json(path)
    except UserError as error:
        raise UserError(f"{path} is damaged:\n  - {error}\n{_again(run_dir)}") from error
    version = content.get("format") if isinstance(content, dict) else None
    if version is not None and version != FORMAT:
        raise UserError(
            f"{path} has format {version}; known: {FORMAT}; read it with the version that wrote it, or "
            f"{_again(run_dir)}"
        )
    try:
        return ScoresMeta.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path} is damaged:\n" + "\n".join(list_faults(error)) + f"\n{_again(run_dir)}") from error


def read_scores(run_dir: str | Path) -> Scores:
    """Read the scores of a run.

    Raises UserError, with what to do, for a run without scores, and for incomplete or damaged scores.
    """
    meta = read_meta(run_dir)
    if meta is None:
        raise UserError(
            f"{run_dir} has no sample scores ({scores_path(run_dir)} is not there); make them: {_command(run_dir)}"
        )
    run_id, path = read_run_id(run_dir), scores_path(run_dir) / META
    sums = None if run_id is None else read_sums(path.parent, run_id=run_id)
    if sums and META in sums and (fault := fault_of(path, sums[META])):
        raise UserError(f"{path} {fault}; write it again with {_command(run_dir)}")
    missing = missing_parts(run_dir, meta, sums)
    if missing or not meta.complete or (sums is not None and META not in sums):
        done = meta.parts - len(missing)
        raise UserError(
            f"the sample scores of {run_dir} are not complete ({done} of {meta.parts} parts); go on with "
            f"{_command(run_dir)}"
        )
    return Scores(Path(run_dir), meta, sums)


def missing_parts(run_dir: str | Path, meta: ScoresMeta, sums: Mapping[str, str] | None) -> list[int]:
    """Return the numbers of the parts that are not there, or that `sums` lacks (None: they are not recorded).

    The content of the parts is not read.
    """
    paths = [part_path(run_dir, number) for number in range(meta.parts)]
    return [
        number
        for number, path in enumerate(paths)
        if not path.is_file() or (sums is not None and path.name not in sums)
    ]


def keep_whole_parts(run_dir: str | Path, meta: ScoresMeta, *, run_id: str | None) -> tuple[list[int], list[int]]:
    """Return the numbers of the parts that are still to be scored, and of those of them that are there but damaged.

    In a run with an id every part is read, and the ones that are not whole, or come from another run, lose their entry
    in `_SHA256SUMS`. Raises OSError, and UserError as `read_sums`.
    """
    if run_id is None:
        return missing_parts(run_dir, meta, None), []
    sums = merge_sums(scores_path(run_dir), run_id=run_id)
    missing = missing_parts(run_dir, meta, sums)
    paths = {number: part_path(run_dir, number) for number in range(meta.parts) if number not in set(missing)}
    damaged = [number for number, path in paths.items() if fault_of(path, sums[path.name])]
    for number in damaged:
        del sums[paths[number].name]
    if damaged:
        write_sums(scores_path(run_dir), sums, run_id=run_id)
    return sorted([*missing, *damaged]), damaged


def _read_part(run_dir: Path, number: int, columns: list[str]) -> pa.Table:
    """Read the columns of a part. Raises UserError where it is damaged."""
    path = part_path(run_dir, number)
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException, KeyError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{path} cannot be read: it is torn or damaged ({reason}); remove this file and score it again with "
            f"{_command(run_dir)}"
        ) from error


def _command(run_dir: str | Path) -> str:
    """Return the command that scores the run, for messages."""
    return f"`accelerate launch -m proxies.score {run_dir}` (with the options of the first call)"


def _again(run_dir: str | Path) -> str:
    """Return the advice to score the run again from the beginning, for messages."""
    return f"remove {scores_path(run_dir)} and score again: {_command(run_dir)}"
