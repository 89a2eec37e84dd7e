"""Sample scores of a run, in RUN_DIR/scores/: `meta.json` (what was scored, and how) and `part-NNNNNN.parquet`.

The parts of a domain follow each other in the order of the run's domains, their samples by start. Every part is either
complete or absent; `meta.complete` says that all of them are there. Columns:

domain, document    names; a document's id leads to its source (proxies/corpus/sources.py: file:line, file:row, ...)
row                 number of a row in its document, from 0; null where whole documents were scored
start, tokens       the sample's span of the domain's train.bin; spans never overlap
SCORE               float64, one column per score, named in meta.scores
"""

import io
from collections.abc import Sequence
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

FORMAT = 1
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
        table = pa.concat_tables(
            [empty, *(_read_part(self.run_dir, first + number, read) for number in range(entry.parts))]
        )
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


def write_part(run_dir: str | Path, number: int, table: pa.Table) -> None:
    """Write a part in one step. Raises OSError on a full disk, leaving nothing behind."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    write_atomic(part_path(run_dir, number), buffer.getvalue())


def write_meta(run_dir: str | Path, meta: ScoresMeta) -> None:
    """Write meta.json in one step. Raises OSError."""
    write_atomic(scores_path(run_dir) / "meta.json", meta.model_dump_json(indent=1))


def read_meta(run_dir: str | Path) -> ScoresMeta | None:
    """Read meta.json of a run's scores; None where nothing was scored.

    Raises UserError where it is damaged or has another format.
    """
    path = scores_path(run_dir) / "meta.json"
    if not path.is_file():
        return None
    content = read_json(path)
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
    missing = missing_parts(run_dir, meta)
    if missing or not meta.complete:
        done = meta.parts - len(missing)
        raise UserError(
            f"the sample scores of {run_dir} are not complete ({done} of {meta.parts} parts); go on with "
            f"{_command(run_dir)}"
        )
    return Scores(Path(run_dir), meta)


def missing_parts(run_dir: str | Path, meta: ScoresMeta) -> list[int]:
    """Return the numbers of the missing parts."""
    return [number for number in range(meta.parts) if not part_path(run_dir, number).is_file()]


def _read_part(run_dir: Path, number: int, columns: list[str]) -> pa.Table:
    """Read the columns of a part. Raises UserError where it is damaged."""
    path = part_path(run_dir, number)
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True)
    except (OSError, pa.ArrowException, KeyError) as error:
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
