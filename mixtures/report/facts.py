"""Facts about a run or a comparison: its cost, where it comes from, and the command to run it again."""

import re
import shlex
from pathlib import Path
from typing import Any

from mixtures.errors import UserError
from mixtures.report.html import Cell, Html, data_table, element, facts_table, folded, join, number, prose
from mixtures.report.page import Section
from mixtures.run.run import CorpusRecord, RunRecord
from mixtures.schedule.mixture import Mixture
from mixtures.text import tokens_text

COMMAND = re.compile(r"^  command:.*\n(?:    .*\n)*", re.MULTILINE)  # in the environment of a config.yaml
VERSIONS = ("python", "torch", "accelerate", "transformers", "numpy", "doge-mixtures")


def cost_section(run: RunRecord) -> Section:
    """Return the section on the cost of a proxy run: steps, tokens, time and arithmetic."""
    trajectory = run.trajectory
    tokens, groups = int(trajectory.tokens[-1]), len(trajectory.groups) / len(trajectory.domains)
    seconds = run.training_seconds
    facts = {
        "steps": f"{len(trajectory.steps):,} of {run.config.train.get('steps', '?')}",
        "tokens trained": f"{tokens_text(tokens)} of the training domains"
        + (f", {tokens_text(tokens * groups)} with the objective's rows" if groups > 1 else ""),
        "time": f"{duration(seconds)} of training steps, {tokens / seconds:,.0f} tokens per second; other programs "
        f"may have run at the same time",
        "proxy": _size(run),
    }
    if run.config.update.get("preset") == "doremi":
        facts["reference"] = "its model and steps come on top: see the run in `reference/`"
    elif (parameters := _parameters(run)) is not None:
        facts["arithmetic"] = (
            f"{6 * parameters * tokens * groups:.2g} floating-point operations (6 per parameter and token, inner "
            f"products not counted)"
        )
    return Section("cost", "Cost", facts_table(facts, caption="Cost of the proxy run"))


def duration(seconds: float) -> str:
    """Return a time in seconds as text, such as `42 s`, `12.3 min` or `5.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _parameters(run: RunRecord) -> int | None:
    try:
        return run.parameters
    except UserError:
        return None


def _size(run: RunRecord) -> str:
    parameters = _parameters(run)
    name = next((str(value) for value in run.config.model.values() if value), "?")
    return name + ("" if parameters is None else f", {parameters / 1e6:.2f} M parameters")


def provenance_section(run: RunRecord, mixture: Mixture) -> Section:
    """Return the section on where a run comes from: its settings, code and text, and the mixture made of it."""
    provenance = mixture.provenance
    facts = {
        "run": str(run.path),
        "rule": f"{run.config.update.get('preset', '?')}, objective {_objective(run.objective)}",
        "seed": str(run.config.seed),
        "tokenizer": f"{run.corpus.tokenizer.name}, {run.corpus.tokenizer.vocab_size:,} tokens, "
        f"{run.corpus.tokenizer.fingerprint}",
        "rows": f"{run.corpus.row_tokens} tokens",
        "mixture": mixture.id,
        "made of": f"seeds {', '.join(map(str, provenance.seeds)) or '-'}; {len(provenance.inputs)} files, whose "
        f"hashes it holds",
        **environment_facts(run.config.environment),
    }
    parts = [facts_table(facts, caption="Where this comes from"), sources_table(run.corpus), fold_settings(run.path)]
    return Section("provenance", "Provenance", join(parts))


def fold_settings(path: Path) -> Html:
    """Return the config.yaml in a directory, folded under a title, without the command line, which names places."""
    text = COMMAND.sub("", (path / "config.yaml").read_text(encoding="utf-8"))
    return folded("Every setting (config.yaml)", element("pre", text, tabindex="0"))


def environment_facts(environment: dict[str, Any]) -> dict[str, str]:
    """Return start, code, versions and device from the `environment` block of a config.yaml, as text."""
    versions = ", ".join(f"{name} {environment[name]}" for name in VERSIONS if name in environment)
    facts = {
        "started": str(environment.get("started_utc", "?")),
        "code": f"commit {environment.get('git_commit') or '?'}",
        "versions": versions or "?",
        "machine": f"{environment.get('world_size', '?')} process(es) on {environment.get('device', '?')}",
    }
    return facts


def replay_section(path: Path, environment: dict[str, Any], *, module: str) -> Section:
    """Return the section with the command to run it again, and what must be the same for the same numbers."""
    config = path.resolve() / "config.yaml"
    processes = environment.get("world_size") or 1
    launch = f"accelerate launch --num_processes {processes} -m {module}"
    command = f"{launch} {shlex.quote(str(config))} --run_dir NEW_DIRECTORY"
    needs = (
        "All settings are in that file. With the same text, code and library versions (see provenance) it gives the "
        "same numbers, up to rounding on another machine."
    )
    if processes > 1:
        needs += (
            f" It ran in {processes} processes: without GPUs, add the file for so many processes from "
            f"launch/accelerate/ (--config_file)."
        )
    return Section(
        "replay",
        "Do it again",
        join([element("pre", element("code", command), tabindex="0"), element("p", prose(needs))]),
    )


def _objective(objective: str | dict[str, float]) -> str:
    return (
        objective
        if isinstance(objective, str)
        else ", ".join(f"{name} {value:.3g}" for name, value in objective.items())
    )


def sources_table(corpus: CorpusRecord) -> Html:
    """Return a table of the sources of every domain and target."""
    rows: list[list[Cell]] = []
    for domain in corpus.domains:
        places = ", ".join(source.uri for source in domain.sources) or "-"
        read = "whole" if domain.complete else "in part"
        numbers: list[Cell] = [number(domain.documents, ","), (tokens_text(domain.tokens), domain.tokens)]
        rows.append([domain.name, domain.role, *numbers, read, places, domain.fingerprint or "-"])
    header = ["domain", "role", "documents", "tokens", "read", "sources", "fingerprint"]
    return data_table(header, rows, caption="The text")
