"""Run directories -> Mixture: average the learned weights over spans of tokens, and over runs."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import mixtures
from mixtures.average import stage_averages, tail_average
from mixtures.errors import UserError
from mixtures.mixture import Mixture
from mixtures.records import Check, Domain, Expected, Horizon, Input, Provenance, Sampling, Stage
from mixtures.run import Run, read_run

MANY_EPOCHS = 4.0  # repeats up to here cost next to nothing (Muennighoff et al. 2023); beyond, the check warns


def export_mixture(
    run_dirs: Sequence[str | Path],
    *,
    stages: int = 1,
    average: Literal["all", "tail"] = "all",
    token_budget: int | None = None,
) -> Mixture:
    """The mixture that the runs learned, the mean over several runs.

    stages: piecewise-constant averages over this many equal token spans of the proxy run, laid over the horizon.
    average: with one stage, over all steps or over the last half of the steps (tail).
    token_budget: tokens of the large run; None: as many as the proxy run trained.
    Raises UserError for damaged runs, runs that do not belong together (all differences listed), impossible stages.
    """
    runs = _read_runs(run_dirs)
    if stages > 1 and average == "tail":
        raise UserError(
            f"average tail with {stages} stages: the tail is one average over the last half of the steps, stages are "
            "averages over the whole run; give one of the two"
        )
    names = runs[0].trajectory.domains
    shares = np.mean([_stage_weights(run, names, stages, average) for run in runs], axis=0)
    horizon = Horizon(total_tokens=_total_tokens(runs, token_budget))
    if stages > horizon.total_tokens:
        raise UserError(f"{stages} stages do not fit into {horizon.total_tokens:,} tokens; give fewer stages")
    content: dict[str, Any] = {
        "tokenizer": runs[0].corpus.tokenizer,
        "horizon": horizon,
        "domains": tuple(_domain(runs, name) for name in names),
        "stages": tuple(
            Stage(
                name="average" if stages == 1 else f"stage-{number + 1}",
                start_tokens=horizon.total_tokens * number // stages,
                weights={name: float(share) for name, share in zip(names, row / row.sum(), strict=True)},
            )
            for number, row in enumerate(shares)
        ),
        "sampling": Sampling(seed=runs[0].config.seed),
        "provenance": _provenance(runs, average if stages == 1 else None),
    }
    mixture = Mixture(**content)
    expected = mixture.compute_expected()
    return Mixture(**content, expected=expected, checks=tuple(_checks(runs, mixture, expected)))


def parse_tokens(text: str) -> int:
    """Tokens from `300e9`, `300B`, `1.5T`, `20M`, `64k` or digits. Raises UserError for anything else."""
    match = re.fullmatch(r"([0-9][0-9_,]*(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)\s*([kmbt]?)", text.strip(), re.IGNORECASE)
    if match:
        number = float(re.sub("[_,]", "", match[1])) * {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}[match[2].lower()]
        if number >= 1 and abs(number - round(number)) < 1e-6 * number:
            return round(number)
    raise UserError(f"{text!r} is no number of tokens; give a positive whole number such as 300e9, 300B, 1.5T, 20M or 64k")


def _read_runs(run_dirs: Sequence[str | Path]) -> list[Run]:
    places = [Path(run_dir).resolve() for run_dir in run_dirs]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise UserError(f"{', '.join(twice)} is given twice; the mean needs different runs, give each once")
    runs = [read_run(run_dir) for run_dir in run_dirs]
    if differences := [line for run in runs[1:] for line in _differences(runs[0], run)]:
        raise UserError(
            "the runs do not belong together:\n" + "\n".join(differences) + "\nexport them one by one, or give runs "
            "of the same domains, tokenizer, corpus and update settings"
        )
    return runs


def _differences(one: Run, other: Run) -> Iterator[str]:
    """Everything that keeps two runs from being averaged, one line each."""
    first, second = {d.name: d for d in one.domains}, {d.name: d for d in other.domains}
    for run, extra in ((one, first.keys() - second.keys()), (other, second.keys() - first.keys())):
        if extra:
            yield f"  - domains only in {run.path}: {', '.join(sorted(extra))}"
    if one.corpus.tokenizer.fingerprint != other.corpus.tokenizer.fingerprint:
        names = [f"{run.corpus.tokenizer.name} ({run.corpus.tokenizer.fingerprint})" for run in (one, other)]
        yield f"  - tokenizer: {names[0]} in {one.path}, {names[1]} in {other.path}"
    for name in sorted(first.keys() & second.keys()):
        if first[name].fingerprint != second[name].fingerprint and first[name].complete and second[name].complete:
            yield f"  - the text of {name} is not the same in {one.path} and {other.path}"
    rules = [{**run.config.update, "objective": run.objective} for run in (one, other)]
    for key in sorted(rules[0].keys() | rules[1].keys()):
        if (a := rules[0].get(key)) != (b := rules[1].get(key)):
            yield f"  - update.{key}: {a} in {one.path}, {b} in {other.path}"


def _stage_weights(run: Run, names: Sequence[str], stages: int, average: str) -> np.ndarray:
    """(stages, D) of one run, domains in the order of `names`."""
    tokens = run.trajectory.tokens
    weights = run.trajectory.weights[:, [run.trajectory.domains.index(name) for name in names]]
    if not 1 <= stages <= len(tokens):
        raise UserError(f"{stages} stages: {run.path} has {len(tokens)} steps; allowed: 1 to {len(tokens)}")
    if average == "tail":
        return tail_average(weights, tokens)[None]
    return stage_averages(weights, tokens, stages=stages)


def _total_tokens(runs: list[Run], token_budget: int | None) -> int:
    if token_budget is not None:
        if token_budget < 1:
            raise UserError(f"token budget {token_budget}: give a positive number of tokens")
        return token_budget
    trained = {str(run.path): int(run.trajectory.tokens[-1]) for run in runs}
    if len(set(trained.values())) > 1:
        lines = "\n".join(f"  - {path}: {tokens:,}" for path, tokens in trained.items())
        raise UserError(f"the runs trained different numbers of tokens:\n{lines}\nsay with --token-budget how many to plan for")
    return next(iter(trained.values()))


def _domain(runs: list[Run], name: str) -> Domain:
    """The domain as the run that read most of it saw it."""
    record = max((d for run in runs for d in run.domains if d.name == name), key=lambda d: d.tokens)
    return Domain(
        name=name,
        unique_tokens=record.tokens,
        unique_documents=record.documents,
        complete=record.complete,
        fingerprint=record.fingerprint,
        sources=record.sources,
    )


def _provenance(runs: list[Run], average: Literal["all", "tail"] | None) -> Provenance:
    files = [
        (run, path)
        for run in runs
        for path in (run.path / "config.yaml", run.path / "corpus.json", *(part.path for part in run.trajectory.parts))
    ]
    return Provenance(
        tool="mixtures",
        tool_version=mixtures.__version__,
        git_commit=runs[0].config.environment.get("git_commit"),
        method=runs[0].config.update.get("preset", "unknown"),
        objective=runs[0].objective,
        average=average,
        proxy={"update": runs[0].config.update, "runs": [_proxy(run) for run in runs]},
        seeds=tuple(run.config.seed for run in runs),
        inputs=tuple(Input(uri=f"{run.path.resolve().name}/{path.relative_to(run.path)}", sha256=_sha256(path)) for run, path in files),
    )


def _proxy(run: Run) -> dict[str, Any]:
    environment = run.config.environment
    return {
        "run": run.path.resolve().name,
        "model": run.config.model,
        "steps": len(run.trajectory.steps),
        "trained_tokens": int(run.trajectory.tokens[-1]),
        "row_tokens": run.corpus.row_tokens,
        "started_utc": str(environment.get("started_utc", "")),
        "git_commit": environment.get("git_commit"),
        "world_size": environment.get("world_size"),
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _checks(runs: list[Run], mixture: Mixture, expected: tuple[Expected, ...]) -> Iterator[Check]:
    """What a reader of the file should know. The first two were proved by building the mixture."""
    yield Check(id="weights_sum", status="pass", detail="weights sum to 1 in every stage")
    yield Check(id="domains_named", status="pass", detail=f"every stage names all {len(mixture.domains)} domains")
    short = [
        f"{run.path.resolve().name} stopped at step {len(run.trajectory.steps)} of {planned}"
        for run in runs
        if (planned := run.config.train.get("steps")) and planned != len(run.trajectory.steps)
    ]
    yield Check(id="runs_finished", status="warn" if short else "pass", detail="; ".join(short))
    often = sorted((row for row in expected if row.epochs > MANY_EPOCHS), key=lambda row: -row.epochs)
    detail = ", ".join(f"{row.domain} {row.epochs:,.1f}" for row in often[:5])
    more = f" and {len(often) - 5} more domains" if len(often) > 5 else ""
    detail = f"epochs over {MANY_EPOCHS:g}: {detail}{more}" if often else f"no domain over {MANY_EPOCHS:g} epochs"
    yield Check(id="epochs", status="warn" if often else "pass", detail=detail)
