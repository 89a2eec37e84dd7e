"""Run directories -> Mixture: average the learned weights over spans of tokens, and over runs."""

import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

import mixtures
from mixtures.average import stage_averages, tail_average
from mixtures.bounds import Bound, by_name, check_bounds, hold
from mixtures.check import written_checks
from mixtures.errors import UserError
from mixtures.mixture import Mixture
from mixtures.records import Check, Constraint, Domain, Expected, Horizon, Input, Provenance, Sampling, Stage
from mixtures.run import CorpusDomain, Run, read_run
from mixtures.sample_rule import SampleRule, sample_domains, with_samples


def export_mixture(
    run_dirs: Sequence[str | Path],
    *,
    stages: int = 1,
    average: Literal["all", "tail"] = "all",
    token_budget: int | None = None,
    max_epochs: Bound = None,
    min_share: Bound = None,
    unique_tokens: Bound = None,
    samples: SampleRule | None = None,
    samples_dir: str | Path = "mixture.samples",
) -> Mixture:
    """The mixture that the runs learned, the mean over several runs.

    stages: piecewise-constant averages over this many equal token spans of the proxy run, laid over the horizon.
    average: with one stage, over all steps or over the last half of the steps (tail).
    token_budget: tokens of the large run; None: as many as the proxy run trained.
    max_epochs: most epochs of a domain over the whole schedule; min_share: least share of a domain in every stage. The
    weights are the closest to the learned ones that keep both (`mixtures.constrain`).
    unique_tokens: how much text the large run has, where it is not the text that the proxy run read; caps count it.
    These three: one number for all domains, or {name: number} with `*` for every domain that is not named.
    samples: weights inside the domains by this rule, from the scores of the first run that has some; the manifests are written
    into samples_dir, and the mixture's file belongs beside it. Epochs then count passes over what the rule keeps.
    Raises UserError for damaged runs, runs that do not belong together (all differences listed), impossible stages,
    bounds that are no bounds, and bounds that cannot be kept (with the arithmetic).
    """
    runs = _read_runs(run_dirs)
    names = runs[0].trajectory.domains
    learned = _learned(runs, names, stages, average)
    total = _total_tokens(runs, token_budget)
    if stages > total:
        raise UserError(f"{stages} stages do not fit into {total:,} tokens; give fewer stages")
    starts = [total * number // stages for number in range(stages)]
    spans = [end - start for start, end in itertools.pairwise([*starts, total])]
    check_bounds(names, max_epochs=max_epochs, min_share=min_share, unique_tokens=unique_tokens)
    caps, counts = by_name(max_epochs, names), by_name(unique_tokens, names)
    domains = tuple(_domain(runs, name, cap=caps.get(name, math.inf), count=counts.get(name)) for name in names)
    if samples is not None:
        domains = sample_domains(domains, _scored(runs), samples, samples_dir)
    weights, constraints = hold(learned, spans, domains=domains, max_epochs=max_epochs, min_share=min_share)
    titles = ["average"] if stages == 1 else [f"stage-{number + 1}" for number in range(stages)]
    content: dict[str, Any] = {
        "tokenizer": runs[0].corpus.tokenizer,
        "horizon": Horizon(total_tokens=total),
        "domains": domains,
        "stages": tuple(
            Stage(name=title, start_tokens=start, weights=dict(zip(names, row.tolist(), strict=True)))
            for title, start, row in zip(titles, starts, weights, strict=True)
        ),
        "sampling": Sampling(seed=runs[0].config.seed),
        "provenance": _provenance(runs, average if stages == 1 else None, constraints, counts),
    }
    if samples is not None:
        content["provenance"] = with_samples(content["provenance"], _scored(runs), samples)
    mixture = Mixture(**content)
    expected = mixture.compute_expected()
    mixture = Mixture(**content, expected=expected, checks=tuple(_checks(runs, mixture, expected)))
    return mixture if samples is None else mixture.placed(Path(samples_dir).absolute().parent)


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


def _learned(runs: list[Run], names: Sequence[str], stages: int, average: str) -> np.ndarray:
    """(stages, D) mean over the runs, every row sums to 1."""
    if stages > 1 and average == "tail":
        raise UserError(
            f"average tail with {stages} stages: the tail is one average over the last half of the steps, stages are "
            "averages over the whole run; give one of the two"
        )
    shares = np.mean([_stage_weights(run, names, stages, average) for run in runs], axis=0)
    return shares / shares.sum(axis=1, keepdims=True)


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


def _domain(runs: list[Run], name: str, *, cap: float, count: float | None) -> Domain:
    """The domain as the run that read most of it saw it; where there is a count, other text of the same name."""
    found = _found(runs, name)
    read = {"unique_documents": found.documents, "complete": found.complete, "fingerprint": found.fingerprint, "sources": found.sources}
    return Domain(
        name=name,
        unique_tokens=found.tokens if count is None else int(count),
        max_epochs=cap if cap < math.inf else None,
        on_exhausted="renormalize" if cap < math.inf else "repeat",
        **(read if count is None else {}),
    )


def _scored(runs: list[Run]) -> Path:
    """The first run that has scores; the first of all where none has, for the message."""
    return next((run.path for run in runs if (run.path / "scores").is_dir()), runs[0].path)


def _found(runs: list[Run], name: str) -> CorpusDomain:
    """The record of the run that read most of a domain."""
    return max((domain for run in runs for domain in run.domains if domain.name == name), key=lambda domain: domain.tokens)


def _provenance(
    runs: list[Run], average: Literal["all", "tail"] | None, constraints: tuple[Constraint, ...], counts: Iterable[str]
) -> Provenance:
    files = [
        (run, path)
        for run in runs
        for path in (run.path / "config.yaml", run.path / "corpus.json", *(part.path for part in run.trajectory.parts))
    ]
    read = {name: _found(runs, name).tokens for name in counts}
    return Provenance(
        tool="mixtures",
        tool_version=mixtures.__version__,
        git_commit=runs[0].config.environment.get("git_commit"),
        method=runs[0].config.update.get("preset", "unknown"),
        objective=runs[0].objective,
        average=average,
        constraints=constraints,
        proxy={"update": runs[0].config.update, "runs": [_proxy(run) for run in runs]} | ({"unique_tokens": read} if read else {}),
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
    """What a reader of the file should know."""
    yield from written_checks(mixture)
    short = [
        f"{run.path.resolve().name} stopped at step {len(run.trajectory.steps)} of {planned}"
        for run in runs
        if (planned := run.config.train.get("steps")) and planned != len(run.trajectory.steps)
    ]
    yield Check(id="runs_finished", status="warn" if short else "pass", detail="; ".join(short))
    if held := [domain for domain, row in zip(mixture.domains, expected, strict=True) if domain.held_at_cap(row.epochs)]:
        partly = [domain.name for domain in held if not domain.complete]
        detail = f"held at their caps: {', '.join(domain.name for domain in held)}"
        if partly:
            detail += f"; there is more text than was counted of {', '.join(partly)}: give --unique-tokens"
        yield Check(id="caps", status="warn" if partly else "pass", detail=detail)
