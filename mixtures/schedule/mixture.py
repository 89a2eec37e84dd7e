"""mixture.json: which share of the trained tokens every domain gets, over the tokens of a training run.

`Mixture` and the records it is made of define the format; `python -m mixtures.schedule.mixture` writes
mixture.schema.json from them. Progress is counted in tokens. A weight is a fraction of **trained tokens** and nothing
else. Every stage names every domain, and its weights hold until the next stage starts.
"""

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from mixtures.errors import UserError, quoted
from mixtures.files import list_faults, read_json, write_atomic
from mixtures.schedule.records import (
    Check,
    Domain,
    Expected,
    Horizon,
    Provenance,
    Record,
    Sampling,
    Sha256,
    Stage,
    Tokenizer,
    Units,
)
from mixtures.text import EVERY

if TYPE_CHECKING:
    import pandas as pd

KIND = "mixture-schedule"
KNOWN_VERSIONS = ("1.0",)
TOLERANCE = 1e-9  # how far a stage's weights may sum from 1
SCHEMA_FILE = Path(__file__).with_name("mixture.schema.json")


class Mixture(Record):
    """The whole file. `id` is the hash of all but `id` and `checks`: computed where left out, refused where wrong."""

    kind: Literal["mixture-schedule"] = "mixture-schedule"
    schema_version: Literal["1.0"] = "1.0"
    id: Sha256 = Field(
        default="", description="sha256 of the canonical JSON (sorted keys, no spaces) without id and checks"
    )
    units: Units = Units()
    tokenizer: Tokenizer
    horizon: Horizon
    domains: tuple[Domain, ...] = Field(min_length=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    sampling: Sampling = Sampling()
    expected: tuple[Expected, ...] = ()
    provenance: Provenance
    checks: tuple[Check, ...] = ()
    _directory: Path | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> "Mixture":
        if faults := [*_name_faults(self), *_stage_faults(self), *_constraint_faults(self), *_uncertainty_faults(self)]:
            raise ValueError("\n".join(faults))
        content = self.content_id()
        if not self.id:
            object.__setattr__(self, "id", content)
        if self.id != content:
            raise ValueError(f"id: {id_fault(self.id, content)}")
        return self

    def __eq__(self, other: object) -> bool:
        """Say whether both have the same content and checks, wherever their files lie."""
        return isinstance(other, Mixture) and (self.id, self.checks) == (other.id, other.checks)

    @property
    def directory(self) -> Path | None:
        """Return the directory of the mixture's file; None for a mixture that was never in a file.

        Paths of manifests are relative to it.
        """
        return self._directory

    def placed(self, directory: Path) -> Self:
        """Return this mixture, with manifests looked for relative to `directory`."""
        self._directory = directory.absolute()
        return self

    def content_id(self) -> str:
        """Return `sha256:` and the hash of the canonical JSON without id and checks."""
        content = self.model_dump(mode="json", exclude={"id", "checks"})
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"

    def domain(self, name: str) -> Domain:
        """Return the record of the domain `name`, which must be in this mixture."""
        return next(domain for domain in self.domains if domain.name == name)

    def weights_at(self, tokens: float) -> dict[str, float]:
        """Return {name: share of trained tokens} once `tokens` tokens are trained; the last stage holds past the end.

        Raises UserError before the start of the schedule.
        """
        if not tokens >= self.horizon.start_tokens:
            raise UserError(
                f"weights at {tokens} tokens: the schedule begins at {self.horizon.start_tokens:,} tokens; ask for a "
                f"position from there on"
            )
        stage = [stage for stage in self.stages if stage.start_tokens <= tokens][-1]
        return dict(stage.weights)

    def stage_tokens(self) -> list[int]:
        """Return the length of every stage in tokens; their sum is horizon.total_tokens."""
        starts = [*(stage.start_tokens for stage in self.stages), self.horizon.end_tokens]
        return [end - start for start, end in itertools.pairwise(starts)]

    def compute_expected(self) -> tuple[Expected, ...]:
        """Return the tokens that the whole schedule takes from every domain, and how many epochs they are.

        An epoch is one pass over what the domain's sample policy keeps.
        """
        rows = []
        for domain in self.domains:
            shares = [stage.weights[domain.name] for stage in self.stages]
            tokens = math.fsum(share * span for share, span in zip(shares, self.stage_tokens(), strict=True))
            rows.append(Expected(domain=domain.name, tokens=tokens, epochs=tokens / domain.pass_tokens))
        return tuple(rows)

    def average_weights(self) -> dict[str, float]:
        """Return {name: share of all tokens of the schedule}, sum 1."""
        return {row.domain: row.tokens / self.horizon.total_tokens for row in self.compute_expected()}

    def to_frame(self) -> "pd.DataFrame":
        """Return a table with one line per stage and domain.

        Columns: stage, start_tokens, domain, share, low, high, tokens, epochs, max_epochs. `low` and `high` are the 95
        % interval of the share, NaN where the mixture has none; `max_epochs` is NaN without a cap.
        """
        import pandas as pd  # imported here: a trainer that only reads the weights does not need it

        rows = []
        for stage, span in zip(self.stages, self.stage_tokens(), strict=True):
            for domain in self.domains:
                share = stage.weights[domain.name]
                low, high = (stage.weights_ci95 or {}).get(domain.name, (math.nan, math.nan))
                cap = math.nan if domain.max_epochs is None else domain.max_epochs
                tokens = share * span
                place = (stage.name, stage.start_tokens, domain.name)
                rows.append((*place, share, low, high, tokens, tokens / domain.pass_tokens, cap))
        names = ["stage", "start_tokens", "domain", "share", "low", "high", "tokens", "epochs", "max_epochs"]
        return pd.DataFrame(rows, columns=names)

    def _repr_html_(self) -> str:
        """Return the HTML that a notebook shows: the table of `to_frame`, without columns that say nothing."""
        frame = self.to_frame().dropna(axis="columns", how="all")
        if len(self.stages) == 1:
            frame = frame.drop(columns=["stage", "start_tokens"])
        return f"<p>mixture {self.id}</p>{frame.to_html(index=False, float_format='{:.4g}'.format)}"

    def save(self, path: str | Path) -> None:
        """Write the file in one step. Raises OSError (a full disk); the old file then stays."""
        write_atomic(path, json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n")
        self.placed(Path(path).parent)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the mixture in the file `path`. Raises UserError naming every fault and where it is."""
        return cls.from_record(read_json(path), where=str(path)).placed(Path(path).parent)

    @classmethod
    def from_record(cls, record: Any, *, where: str) -> Self:
        """Build the mixture from parsed JSON. Raises UserError naming every fault; `where` begins its message."""
        if not isinstance(record, dict) or record.get("kind") != KIND:
            raise UserError(
                f'{where} is not a mixture: it has no "kind": "{KIND}"; `mixtures export` writes such a file'
            )
        if (version := record.get("schema_version")) not in KNOWN_VERSIONS:
            raise UserError(
                f"{where} has schema_version {quoted(version)}; known: {', '.join(KNOWN_VERSIONS)}; export it again, "
                "or read it with the version that wrote it"
            )
        try:
            return cls.model_validate(record)
        except ValidationError as error:
            raise UserError(f"{where} is not a valid mixture:\n" + "\n".join(list_faults(error))) from error


def id_fault(recorded: str, computed: str) -> str:
    """Return the message for a wrong id: what it means and what to do."""
    return (
        f"recorded {recorded}, the content hashes to {computed}: the file was edited by hand or damaged; export it "
        "again, or remove its `id` to take the edit as a new mixture"
    )


def schema_text() -> str:
    """Return the text of mixture.schema.json."""
    return json.dumps(Mixture.model_json_schema(), indent=2) + "\n"


def _name_faults(mixture: Mixture) -> Iterator[str]:
    """Yield messages about names that stand twice, are missing from a stage, or are unknown."""
    known = Counter(domain.name for domain in mixture.domains)
    if twice := [name for name, times in known.items() if times > 1]:
        yield f"domains: {', '.join(twice)} given more than once; a domain is identified by its name"
    if names := [name for name, times in Counter(stage.name for stage in mixture.stages).items() if times > 1]:
        yield f"stages: {', '.join(names)} given more than once; every stage has a name of its own"
    for stage in mixture.stages:
        if missing := [name for name in known if name not in stage.weights]:
            yield (
                f"stage {quoted(stage.name)}: no weight for {', '.join(missing)}; every stage names every "
                f"domain, 0 allowed"
            )
        if unknown := [name for name in stage.weights if name not in known]:
            yield (
                f"stage {quoted(stage.name)}: weight for {', '.join(unknown)}, not in domains; allowed: "
                f"{', '.join(known)}"
            )


def _stage_faults(mixture: Mixture) -> Iterator[str]:
    """Yield messages about stages whose weights do not sum to 1 or whose starts do not fit the horizon."""
    horizon, starts = mixture.horizon, [stage.start_tokens for stage in mixture.stages]
    for stage in mixture.stages:
        yield from _sum_faults(stage.weights, f"stage {quoted(stage.name)}: weights")
    if starts[0] != horizon.start_tokens:
        first = mixture.stages[0].name
        yield (
            f"stage {quoted(first)}: starts at {starts[0]:,} tokens, the horizon at {horizon.start_tokens:,}; "
            f"give both the "
            "same start"
        )
    for before, stage in zip(mixture.stages, mixture.stages[1:], strict=False):
        if stage.start_tokens <= before.start_tokens:
            yield (
                f"stage {quoted(stage.name)}: starts at {stage.start_tokens:,} tokens, not after stage "
                f"{quoted(before.name)} "
                f"({before.start_tokens:,}); sort the stages by start_tokens"
            )
    if starts[-1] >= horizon.end_tokens:
        last, end = mixture.stages[-1].name, horizon.end_tokens
        yield f"stage {quoted(last)}: starts at {starts[-1]:,} tokens, the horizon ends at {end:,}; start before that"


def _sum_faults(weights: dict[str, float], where: str) -> Iterator[str]:
    """Yield a message where the weights do not sum to 1 (within TOLERANCE)."""
    total = math.fsum(weights.values())
    if abs(total - 1) > TOLERANCE:
        yield f"{where} sum to {total:.12g}, off by {total - 1:+.3g}; they must sum to 1"


def _constraint_faults(mixture: Mixture) -> Iterator[str]:
    """Yield messages about recorded bounds and learned weights that do not fit the domains or the stages."""
    known = {domain.name for domain in mixture.domains}
    for constraint in mixture.provenance.constraints:
        if unknown := sorted((constraint.max_epochs.keys() | constraint.min_share.keys()) - known - {EVERY}):
            yield f"constraints: {', '.join(unknown)} not in domains; name domains, or {EVERY} for all others"
        if constraint.learned and len(constraint.learned) != len(mixture.stages):
            yield (
                f"constraints: learned weights of {len(constraint.learned)} stages, the mixture has "
                f"{len(mixture.stages)}"
            )
        for number, weights in enumerate(constraint.learned):
            where = f"constraints: learned weights of stage {number + 1}"
            yield from _sum_faults(weights, where)
            if differ := sorted(weights.keys() ^ known):
                yield f"{where} and domains do not match in {', '.join(differ)}; name exactly the mixture's domains"


def _uncertainty_faults(mixture: Mixture) -> Iterator[str]:
    """Yield messages about intervals and their record that do not fit the domains or the stages."""
    known, record = {domain.name for domain in mixture.domains}, mixture.provenance.uncertainty
    named: list[tuple[str, Collection[str]]] = [
        (f"stage {quoted(stage.name)}: weights_ci95", stage.weights_ci95)
        for stage in mixture.stages
        if stage.weights_ci95 is not None
    ]
    if record is not None:
        shares = [("uncertainty: prior", record.prior)]
        shares += [(f"uncertainty: mean of stage {number + 1}", weights) for number, weights in enumerate(record.mean)]
        named += shares
        for where, weights in shares:
            yield from _sum_faults(weights, where)
        for field in ("signal", "needed", "factor", *(["mean"] if record.mean else [])):
            if (count := len(getattr(record, field))) != len(mixture.stages):
                yield f"uncertainty: {field} of {count} stages, the mixture has {len(mixture.stages)}"
    for where, names in named:
        if differ := sorted({*names} ^ known):
            yield f"{where} and domains do not match in {', '.join(differ)}; name exactly the mixture's domains"


def learned_weights(mixture: Mixture) -> tuple[dict[str, float], ...]:
    """Return the learned weights, one entry per stage; empty where bounds did not move them."""
    return tuple(weights for constraint in mixture.provenance.constraints for weights in constraint.learned)


if __name__ == "__main__":
    write_atomic(SCHEMA_FILE, schema_text())
    print(SCHEMA_FILE)
