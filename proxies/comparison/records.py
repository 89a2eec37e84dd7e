"""A comparison's directory: what it was asked for, what is finished in it, and what of that must not be mixed.

config.yaml                     settings, the union of all commands that ran here, with the environment
corpus.json, tokenizer.json     as in a run
learned/NAME/                   proxy runs
mixtures/NAME.json              what the base models trained on,
mixtures/NAME.samples/          with sample weights: how often they read every document, a manifest a domain
bases/NAME/seed-S.parquet       held-out losses over the steps of a finished base run,
bases/NAME/seed-S-rows.parquet  those of every held-out row at its last step,
bases/NAME/seed-S.json          and facts; written last: a base run is finished when it is there
results.parquet, costs.json, summary.txt, plots/
"""

import fcntl
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mixtures import Mixture
from mixtures.compare.directory import Bases, base_path
from mixtures.errors import UserError
from mixtures.files import write_atomic
from proxies.comparison.base import BaseRun
from proxies.comparison.settings import CompareSettings
from proxies.config import differences, dump, load

SHARED = ("corpus.", "model.", "train.")  # settings that all results of a directory have in common
REMEDY = "Set them back, or give a new run_dir"
TOLERANCE = 1e-9  # between weights that were computed twice


def require_same(settings: CompareSettings) -> None:
    """What the directory holds was made with these settings, as far as they share results. Raises UserError with the
    differences.
    """
    path = settings.run_path
    if (path / "trajectory").exists():
        raise UserError(f"{path} holds a run of proxies.train; give the comparison a run_dir of its own")
    if not (path / "config.yaml").exists():
        if held := sorted(name for name in ("bases", "learned", "mixtures") if (path / name).exists()):
            raise UserError(
                f"{path} has {', '.join(held)} but no config.yaml to say what they are; restore it, or give a new "
                f"run_dir"
            )
        return
    before = load(CompareSettings, path / "config.yaml")
    changed = [
        line
        for line in differences(before, settings)
        if line.startswith(SHARED) and not line.startswith("corpus.cache_dir")
    ]
    for name in before.mixtures.keys() & settings.mixtures.keys():
        changed += _mixture_changes(before, settings, name)
    if changed:
        raise UserError(
            f"{path} was made with other settings (then -> now), and results of different settings are not compared:\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\n{REMEDY}; a changed mixture can also take a new name, or have its learned/, mixtures/ and bases/ "
            f"entries removed"
        )


def _mixture_changes(before: CompareSettings, now: CompareSettings, name: str) -> list[str]:
    """How the definition of a mixture of which there is something already differs."""
    path = now.run_path
    made = [path / "learned" / name / "config.yaml", _mixture(path, name)]
    if not any(each.exists() for each in made):
        return []
    lines = differences(before.mixtures[name], now.mixtures[name])
    if not lines and name in now.learned:
        lines = [
            line
            for line in differences(before.run_of(name), now.run_of(name))
            if not line.startswith(("run_dir", "corpus."))
        ]
    return [f"mixtures.{name}.{line}" for line in lines]


def take_directory(
    settings: CompareSettings,
    *,
    files: dict[str, bytes | str],
    mixtures: dict[str, Mixture],
    environment: dict[str, Any],
) -> None:
    """Take the directory: config.yaml with what this command adds, and the `files` and mixtures that every command
    writes alike.

    Raises UserError as `require_same` where another command took it for other settings in the meantime.
    """
    path = settings.run_path
    with locked(path / ".lock"):
        require_same(settings)
        if (path / "config.yaml").exists():
            before = load(CompareSettings, path / "config.yaml")
            union = {
                "mixtures": {**before.mixtures, **settings.mixtures},
                "seeds": tuple(sorted({*before.seeds, *settings.seeds})),
            }
            settings = settings.model_copy(update=union)
        for name, content in files.items():
            write_atomic(path / name, content)
        for name, mixture in mixtures.items():
            if not _mixture(path, name).exists():
                _keep(mixture, _mixture(path, name))
        write_atomic(path / "config.yaml", dump(settings, environment))


def _keep(mixture: Mixture, path: Path) -> None:
    """The mixture in the file `path`, its manifests beside it first."""
    for place in [domain.sample_policy.manifest_uri for domain in mixture.domains if domain.sample_policy]:
        assert place is not None
        assert mixture.directory is not None
        write_atomic(path.parent / place, (mixture.directory / place).read_bytes())
    mixture.save(path)


def require_kept(run_path: Path, name: str, mixture: Mixture) -> None:
    """Where base models were trained on a mixture of this name, it was this one.

    Raises UserError with the differences.
    """
    path = _mixture(run_path, name)
    if path.exists() and (
        changed := [*_weight_changes(before := Mixture.load(path), mixture), *_sample_changes(before, mixture)]
    ):
        raise UserError(
            f"mixtures.{name} is no longer what {path} says, which results were made with (then -> now):\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nRestore where it comes from, give it a new name, or remove that file and {run_path / 'bases' / name}"
        )


def _weight_changes(before: Mixture, now: Mixture) -> Iterator[str]:
    spans = [[(stage.start_tokens, stage.weights) for stage in mixture.stages] for mixture in (before, now)]
    if [start for start, _ in spans[0]] != [start for start, _ in spans[1]] or before.horizon != now.horizon:
        yield (
            f"{len(spans[0])} stage(s) over {before.horizon.total_tokens:,} tokens -> {len(spans[1])} over "
            f"{now.horizon.total_tokens:,}"
        )
        return
    for (start, old), (_, new) in zip(*spans, strict=True):
        for domain in {**old, **new}:
            if abs(old.get(domain, -1) - new.get(domain, -1)) > TOLERANCE:
                place = f" from {start:,} tokens" if start else ""
                yield f"{domain}{place}: {old.get(domain, 'no share')} -> {new.get(domain, 'no share')}"


def _sample_changes(before: Mixture, now: Mixture) -> Iterator[str]:
    policies = [{domain.name: domain.sample_policy for domain in mixture.domains} for mixture in (before, now)]
    for domain, old in policies[0].items():
        new = policies[1].get(domain)
        if (old and old.manifest_sha256) != (new and new.manifest_sha256):
            was, is_now = (
                f"{policy.mode} {policy.manifest_sha256}" if policy else "every document once" for policy in (old, new)
            )
            yield f"samples of {domain}: {was} -> {is_now}"


def is_finished(run_path: Path, name: str, seed: int) -> bool:
    """Whether the base run of a mixture and seed is there, whole."""
    return base_path(run_path, name, seed).with_suffix(".json").exists()


def save_base(run_path: Path, name: str, seed: int, run: BaseRun, facts: dict[str, Any]) -> None:
    """Write a finished base run. Raises UserError where the disk does not take it."""
    path, labels = base_path(run_path, name, seed), {"mixture": name, "seed": seed}
    try:
        for suffix, table in ((".parquet", run.evaluation), ("-rows.parquet", run.rows)):
            _write_table(path.with_name(path.name + suffix), pd.DataFrame([{**labels, **row} for row in table]))
        write_atomic(path.with_suffix(".json"), json.dumps({**labels, **run.facts, **facts}, indent=1))
    except OSError as error:
        raise UserError(
            f"the base run of {name}, seed {seed}, could not be written ({error}); finished ones are kept: make room "
            "and give the same command again"
        ) from error


def write_results(run_path: Path, bases: Bases) -> None:
    """Write results.parquet: every (mixture, seed, step, domain) of the directory's base runs."""
    _write_table(run_path / "results.parquet", bases.results)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs, also against other commands; True when it is held.

    wait=False: False at once where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def _mixture(run_path: Path, name: str) -> Path:
    return run_path / "mixtures" / f"{name}.json"


def _write_table(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_atomic(path, buffer.getvalue())
