"""From run directories to a Mixture: what the runs learned, within bounds, with a record of its origin."""

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from mixtures.errors import UserError
from mixtures.files import sha256_file, without_home
from mixtures.run.average import Average, Shrink
from mixtures.run.learned import Learned, average_runs
from mixtures.run.replicates import NAME as REPLICATES
from mixtures.run.reused import unfolded
from mixtures.run.run import CorpusDomain, RunRecord, read_run
from mixtures.samples.rule import SampleRule, sample_domains, with_samples
from mixtures.samples.scores import Scores, read_scores
from mixtures.schedule.bounds import Bound, by_name, check_bounds, hold
from mixtures.schedule.check import written_checks
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import (
    Check,
    Constraint,
    Domain,
    Expected,
    Horizon,
    Input,
    Provenance,
    Sampling,
    Stage,
)
from mixtures.version import VERSION


def export_mixture(
    runs: Sequence[str | Path | RunRecord],
    *,
    stages: int = 1,
    average: Average = "all",
    shrink: Shrink = "auto",
    token_budget: int | None = None,
    max_epochs: Bound = None,
    min_share: Bound = None,
    unique_tokens: Bound = None,
    samples: SampleRule | None = None,
    samples_dir: str | Path = "mixture.samples",
    paths: bool = True,
) -> Mixture:
    """Return the mixture that the runs learned: the plain mean over the runs, with 95 % intervals where possible.

    stages: number of stages. The proxy run's tokens are cut into as many equal spans; every stage has the average
        weights of one span, and together they cover the horizon.
    average: with one stage, over all steps (all) or over the last half of the steps (tail).
    shrink: auto draws the weights to the prior as far as their evidence is weak (`mixtures.schedule.uncertainty`),
        before bounds; none leaves them.
    token_budget: tokens of the large run; None: as many as the proxy run trained.
    max_epochs: most epochs of a domain over the whole schedule.
    min_share: least share of a domain in every stage. The weights are the closest to the learned ones that keep both
        bounds (`mixtures.schedule.constrain`).
    unique_tokens: tokens of the large run's text, where it is not the text that the proxy run read; caps count them.
    samples: rule for weights inside the domains, from the scores of the first run that has some. Epochs then count
        passes over what the rule keeps.
    paths: keep where the text and the tokenizer are, with `~` for the home directory, which names the user; else only
        the names of the files stay.
    samples_dir: directory for the manifests of `samples`; the mixture's file belongs beside it.

    max_epochs, min_share and unique_tokens are one number for all domains, or {name: number} with `*` for every domain
    that is not named. Raises UserError for damaged runs, runs that do not belong together (all differences listed),
    impossible stages, wrong bounds, and bounds that cannot be kept (with the arithmetic).
    """
    if samples is not None and not paths:
        raise UserError(
            "--no-paths with --samples: the manifests name documents by the paths of their files; leave one out"
        )
    records = read_runs(runs)
    names = records[0].trajectory.domains
    names, learned = unfolded(
        records[0].corpus, names, average_runs(records, names, stages=stages, average=average, shrink=shrink)
    )
    total = _total_tokens(records, token_budget)
    if stages > total:
        raise UserError(f"{stages} stages do not fit into {total:,} tokens; give fewer stages")
    starts = [total * number // stages for number in range(stages)]
    spans = [end - start for start, end in itertools.pairwise([*starts, total])]
    check_bounds(names, max_epochs=max_epochs, min_share=min_share, unique_tokens=unique_tokens)
    large = token_budget is not None  # None: the proxy's own horizon, whose text corpus.simulate_budget may have cut
    simulated = {domain.name: domain.elsewhere for run in records for domain in run.mixed if large and domain.elsewhere}
    caps, counts = by_name(max_epochs, names), simulated | by_name(unique_tokens, names)
    domains = tuple(
        _domain(records, name, cap=caps.get(name, math.inf), count=counts.get(name), large=large) for name in names
    )
    tokenizer = records[0].corpus.tokenizer
    place = without_home if paths else _name
    domains = tuple(_placed(domain, place) for domain in domains)
    tokenizer = tokenizer.model_copy(update={"name": place(tokenizer.name)})
    if samples is not None:
        scores = _scores(records)
        domains = sample_domains(domains, scores, samples, samples_dir)
    weights, constraints = hold(learned.weights, spans, domains=domains, max_epochs=max_epochs, min_share=min_share)
    titles = ["average"] if stages == 1 else [f"stage-{number + 1}" for number in range(stages)]
    content: dict[str, Any] = {
        "tokenizer": tokenizer,
        "horizon": Horizon(total_tokens=total),
        "domains": domains,
        "stages": tuple(
            Stage(
                name=title,
                start_tokens=start,
                weights=dict(zip(names, row.tolist(), strict=True)),
                weights_ci95=interval,
            )
            for title, start, row, interval in zip(titles, starts, weights, learned.intervals, strict=True)
        ),
        "sampling": Sampling(seed=records[0].config.seed),
        "provenance": _provenance(records, average if stages == 1 else None, learned, constraints, counts),
    }
    if samples is not None:
        content["provenance"] = with_samples(content["provenance"], scores, samples)
    mixture = Mixture(**content)
    expected = mixture.compute_expected()
    mixture = Mixture(**content, expected=expected, checks=tuple(_checks(records, mixture, expected)))
    return mixture if samples is None else mixture.placed(Path(samples_dir).absolute().parent)


def read_runs(runs: Sequence[str | Path | RunRecord]) -> list[RunRecord]:
    """Read runs that learned the same thing.

    Raises UserError, listing all differences, where they do not belong together.
    """
    places = [(run.path if isinstance(run, RunRecord) else Path(run)).resolve() for run in runs]
    if twice := sorted({str(place) for place in places if places.count(place) > 1}):
        raise UserError(f"{', '.join(twice)} is given twice; the mean needs different runs, give every run once")
    records = [read_run(run) for run in runs]
    if differences := [line for run in records[1:] for line in _differences(records[0], run)]:
        raise UserError(
            "the runs do not belong together:\n" + "\n".join(differences) + "\ntake them one by one, or give runs "
            "of the same domains, tokenizer, corpus and update settings"
        )
    return records


def _differences(one: RunRecord, other: RunRecord) -> Iterator[str]:
    """Yield one line per difference that keeps two runs from being averaged."""
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
    reused = [run.corpus.reused.mixture if run.corpus.reused else "none" for run in (one, other)]
    if reused[0] != reused[1]:
        yield f"  - reuse: {reused[0]} in {one.path}, {reused[1]} in {other.path}"
    rules = [{**run.config.update, "objective": run.objective} for run in (one, other)]
    for key in sorted(rules[0].keys() | rules[1].keys()):
        if (a := rules[0].get(key)) != (b := rules[1].get(key)):
            yield f"  - update.{key}: {a} in {one.path}, {b} in {other.path}"


def _total_tokens(runs: list[RunRecord], token_budget: int | None) -> int:
    """Return the tokens of the large run: the budget, or what the runs trained. Raises UserError where these differ."""
    if token_budget is not None:
        if token_budget < 1:
            raise UserError(f"token budget {token_budget}: give a positive number of tokens")
        return token_budget
    trained = {str(run.path): int(run.trajectory.tokens[-1]) for run in runs}
    if len(set(trained.values())) > 1:
        lines = "\n".join(f"  - {path}: {tokens:,}" for path, tokens in trained.items())
        raise UserError(
            f"the runs trained different numbers of tokens:\n{lines}\ngive the tokens of the large run (--token-budget)"
        )
    return next(iter(trained.values()))


def _domain(runs: list[RunRecord], name: str, *, cap: float, count: float | None, large: bool) -> Domain:
    """Return the domain's record, from the run that read most of its text.

    large: take the text before `corpus.simulate_budget` cut it. count: unique tokens of another text of this name,
    whose other facts are then not known.
    """
    source = _most_read(runs, name).uncut if large else _most_read(runs, name)
    read = {
        "unique_documents": source.documents,
        "held_out_documents": source.held_out_in_sources,
        "complete": source.complete,
        "fingerprint": source.fingerprint,
        "sources": source.sources,
    }
    return Domain(
        name=name,
        unique_tokens=source.tokens if count is None else int(count),
        max_epochs=cap if cap < math.inf else None,
        on_exhausted="renormalize" if cap < math.inf else "repeat",
        **(read if count is None else {}),
    )


def _scores(runs: list[RunRecord]) -> Scores:
    """Return the scores of the first run that has some. Raises UserError about the first run where none has."""
    return read_scores(next((run.path for run in runs if (run.path / "scores").is_dir()), runs[0].path))


def _most_read(runs: list[RunRecord], name: str) -> CorpusDomain:
    """Return the record of a domain in the run that read most of it."""
    return max(
        (domain for run in runs for domain in run.mixed if domain.name == name), key=lambda domain: domain.tokens
    )


def _provenance(
    runs: list[RunRecord],
    average: Average | None,
    learned: Learned,
    constraints: tuple[Constraint, ...],
    counts: Collection[str],
) -> Provenance:
    """Return who made the mixture, how and from what, with hashes of the runs' files.

    counts: names of the domains whose unique tokens were given.
    """
    files = [
        (run, path)
        for run in runs
        for path in (run.path / "config.yaml", run.path / "corpus.json", *(part.path for part in run.trajectory.parts))
    ]
    if learned.record is not None and learned.record.replicates:
        files += [(run, run.path / REPLICATES) for run in runs if (run.path / REPLICATES).is_file()]
    about: dict[str, Any] = (
        {"unique_tokens": {name: _most_read(runs, name).tokens for name in counts}} if counts else {}
    )
    if reused := runs[0].corpus.reused:
        about["reused"] = reused.relative
    return Provenance(
        tool="mixtures",
        tool_version=VERSION,
        git_commit=runs[0].config.environment.get("git_commit"),
        method=runs[0].config.update.get("preset", "unknown"),
        objective=runs[0].objective,
        average=average,
        constraints=constraints,
        uncertainty=learned.record,
        proxy={"update": runs[0].config.update, "runs": [_proxy(run) for run in runs]} | about,
        seeds=tuple(run.config.seed for run in runs),
        inputs=tuple(
            Input(uri=f"{run.path.resolve().name}/{path.relative_to(run.path)}", sha256=sha256_file(path))
            for run, path in files
        ),
        parent_schedule=reused.mixture if reused else None,
    )


def _proxy(run: RunRecord) -> dict[str, Any]:
    """Return the facts of a run that the provenance keeps."""
    environment = run.config.environment
    return {
        "run": run.path.resolve().name,
        "model": {key: _name(value) for key, value in run.config.model.items()},
        "steps": len(run.trajectory.steps),
        "trained_tokens": int(run.trajectory.tokens[-1]),
        "row_tokens": run.corpus.row_tokens,
        "started_utc": str(environment.get("started_utc", "")),
        "git_commit": environment.get("git_commit"),
        "world_size": environment.get("world_size"),
    }


def _placed(domain: Domain, place: Callable[[str], str]) -> Domain:
    """Return the domain with the paths of its files as `place` writes them."""
    sources = tuple(source.model_copy(update={"uri": place(source.uri)}) for source in domain.sources)
    return domain.model_copy(update={"sources": sources})


def _name(value: Any) -> Any:
    """Return the last name of an absolute path, which may hold the name of a user; any other value as it is."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _checks(runs: list[RunRecord], mixture: Mixture, expected: tuple[Expected, ...]) -> Iterator[Check]:
    """Yield the checks that the file records, with warnings that its reader should know."""
    yield from written_checks(mixture)
    short = [
        f"{run.path.resolve().name} stopped at step {len(run.trajectory.steps)} of {planned}"
        for run in runs
        if (planned := run.config.train.get("steps")) and planned != len(run.trajectory.steps)
    ]
    yield Check(id="runs_finished", status="warn" if short else "pass", detail="; ".join(short))
    seeds = [run.config.seed for run in runs]
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        detail = (
            f"several runs have seed {', '.join(map(str, twice))}: their spread says less than that of different seeds"
        )
        yield Check(id="seeds", status="warn", detail=detail)
    if capped := [
        domain for domain, row in zip(mixture.domains, expected, strict=True) if domain.held_at_cap(row.epochs)
    ]:
        partly = [domain.name for domain in capped if not domain.complete]
        detail = f"domains at their caps: {', '.join(domain.name for domain in capped)}"
        if partly:
            detail += f"; there is more text than was counted in {', '.join(partly)}: give --unique-tokens"
        yield Check(id="caps", status="warn" if partly else "pass", detail=detail)
