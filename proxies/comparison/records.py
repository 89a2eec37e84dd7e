"""A comparison's directory: its files, and checks that results of different settings do not mix.

config.yaml                     settings of all commands that ran here (mixtures and seeds united), and the environment
corpus.json, tokenizer.json     as in a proxy run; named in _SHA256SUMS (`mixtures.sums`)
learned/NAME/                   the proxy run that learns the mixture NAME; with proxy.seeds, one in seed-S/ per seed
mixtures/NAME.json              the mixture that the base models trained on
mixtures/NAME.samples/          for a mixture with sample weights: one manifest per domain
bases/NAME/seed-S.parquet       held-out losses over the steps of a finished base run
bases/NAME/seed-S-rows.parquet  the loss of every held-out row at the last step
bases/NAME/seed-S.json          facts about the base run
bases/NAME/_SHA256SUMS          hashes of the mixture's finished base runs, and the comparison's id (`mixtures.sums`)
results.parquet                 held-out losses of all base runs
costs.json                      seconds and floating-point operations of learning and of a base run
summary.txt, plots/             the results as text and as plots
"""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mixtures import Mixture
from mixtures.boundary import remedy
from mixtures.compare.directory import Bases, base_files
from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.locks import locked
from mixtures.sums import add_sums, new_run_id, read_run_id
from proxies.comparison.base import BaseRun
from proxies.comparison.settings import CompareSettings
from proxies.config import differences, dump, load
from proxies.preflight import MAY_CHANGE

SHARED = ("corpus.", "model.", "train.")  # prefixes of settings that must be the same for all results of a directory
REMEDY = "Set them back, or give a new run_dir"
TOLERANCE = 1e-9  # largest difference of two weights that count as the same


def require_same(settings: CompareSettings) -> None:
    """Check that the results in the directory were made with the same settings, so that they may be compared.

    Settings of the corpus, the base model and its training must be the same, and those of mixtures that are there
    already. Raises UserError that lists the differences, and for a directory of another kind.
    """
    path = settings.run_path
    if (path / "trajectory").exists():
        raise UserError(f"{path} holds a run of proxies.train; give the comparison a run_dir of its own")
    # looked up first, because another command may be writing them just now: config.yaml was there before they were
    present = sorted(name for name in ("bases", "learned", "mixtures") if (path / name).exists())
    if not (path / "config.yaml").exists():
        if present:
            raise UserError(
                f"{path} has {', '.join(present)} but no config.yaml, which says what they are; restore it, or give a "
                f"new run_dir"
            )
        return
    before, settings = load(CompareSettings, path / "config.yaml").resolved, settings.resolved
    changed = [
        line
        for line in differences(before, settings)
        if line.startswith(SHARED) and not line.startswith(("corpus.cache_dir", *MAY_CHANGE))
    ]
    for name in before.mixtures.keys() & settings.mixtures.keys():
        changed += _mixture_changes(before, settings, name)
    if changed:
        raise UserError(
            f"{path} was made with other settings (then -> now), and results of different settings are not compared:\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\n{REMEDY}; for a changed mixture, you can also give it a new name, or remove its entries in learned/, "
            f"mixtures/ and bases/"
        )


def _mixture_changes(before: CompareSettings, now: CompareSettings, name: str) -> list[str]:
    """Return how the definition of a mixture changed since its files were made; nothing if it has no files."""
    path, learned = now.run_path, now.run_path / "learned" / name
    # no `**`: another command may be learning, and a walk fails where its checkpoints' directories come and go
    made = [learned / "config.yaml", *learned.glob("seed-*/config.yaml"), _mixture(path, name)]
    if not any(each.exists() for each in made):
        return []
    lines = differences(before.mixtures[name], now.mixtures[name])
    if not lines and name in now.learned and before.proxy_seeds != now.proxy_seeds:
        seeds = (", ".join(map(str, each.proxy_seeds)) for each in (before, now))
        lines = ["learn, seeds of its proxies: {} -> {}".format(*seeds)]
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
    """Write config.yaml, `files` and `mixtures` into the comparison's directory.

    config.yaml then holds the mixtures and seeds of earlier commands as well. Mixtures that are there already stay.
    `files` and the mixtures are the same for every command. Raises UserError, as `require_same`, if another command
    wrote other settings in the meantime.
    """
    path, settings = settings.run_path, settings.resolved
    with locked(path / ".lock"):
        require_same(settings)
        environment = {**environment, "run_id": new_run_id()}
        new = not (path / "config.yaml").exists()
        if not new:
            environment["run_id"] = read_run_id(path)  # None: base runs of earlier versions are there, without sums
            before = load(CompareSettings, path / "config.yaml").resolved
            union = {
                "mixtures": {**before.mixtures, **settings.mixtures},
                "seeds": tuple(sorted({*before.seeds, *settings.seeds})),
            }
            settings = settings.model_copy(update=union)
        for name, content in files.items():
            write_atomic(path / name, content)
        add_sums(path, files, run_id=environment["run_id"], new=new)
        # after the files that it holds the id of, and before the mixtures, which it says the meaning of
        write_atomic(path / "config.yaml", dump(settings, environment))
        for name, mixture in mixtures.items():
            if not _mixture(path, name).exists():
                _keep(mixture, _mixture(path, name))


def _keep(mixture: Mixture, path: Path) -> None:
    """Write the mixture into the file `path`, after its manifests, which go beside it."""
    for place in [domain.sample_policy.manifest_uri for domain in mixture.domains if domain.sample_policy]:
        assert place is not None
        assert mixture.directory is not None
        write_atomic(path.parent / place, (mixture.directory / place).read_bytes())
    mixture.save(path)


def require_kept(run_path: Path, name: str, mixture: Mixture) -> None:
    """Check that `mixture` is the same as the one kept under this name, on which base models were trained.

    Raises UserError that lists the differences.
    """
    path = _mixture(run_path, name)
    if path.exists() and (
        changed := [*_weight_changes(before := Mixture.load(path), mixture), *_sample_changes(before, mixture)]
    ):
        raise UserError(
            f"mixtures.{name} differs from {path}, which the results were made with (then -> now):\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nRestore the file or run that it comes from, give it a new name, or remove {path} and "
            f"{run_path / 'bases' / name}"
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


def save_base(run_path: Path, name: str, seed: int, run: BaseRun, facts: dict[str, Any]) -> None:
    """Write the files of a finished base run. Raises UserError if they cannot be written."""
    labels, files = {"mixture": name, "seed": seed}, base_files(run_path, name, seed)
    results, rows = (_table(pd.DataFrame([{**labels, **row} for row in each])) for each in (run.evaluation, run.rows))
    contents = (results, rows, json.dumps({**labels, **run.facts, **facts}, indent=1).encode())
    try:
        with locked(run_path / ".lock"):
            for path, content in zip(files, contents, strict=True):
                write_atomic(path, content)
            add_sums(files[0].parent, [path.name for path in files], run_id=read_run_id(run_path))
    except OSError as error:
        raise UserError(
            f"the base run of {name}, seed {seed}, could not be written ({error}); {remedy(error)}, and give the "
            "same command again: finished runs are kept"
        ) from error


def write_results(run_path: Path, bases: Bases) -> None:
    """Write results.parquet: one row per (mixture, seed, step, domain) of the directory's base runs."""
    write_atomic(run_path / "results.parquet", _table(bases.results))


def _mixture(run_path: Path, name: str) -> Path:
    return run_path / "mixtures" / f"{name}.json"


def _table(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    return buffer.getvalue()
