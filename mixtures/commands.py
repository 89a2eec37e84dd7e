"""The commands of `mixtures`: each reads its command-line arguments, calls the library, and returns text to print.

Modules that take long to import are imported inside the functions that need them.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mixtures.errors import UserError


def export(arguments: argparse.Namespace) -> str:
    """Average the learned weights of one or several runs and write them as a mixture.

    The mixture keeps the bounds and has the sample weights that the flags ask for.
    """
    from mixtures.export import export_mixture, read_runs
    from mixtures.samples.rule import SampleRule, make_rule
    from mixtures.schedule.manifest import require_replaceable, samples_directory
    from mixtures.schedule.show import mixture_text

    if arguments.output is None and len(arguments.runs) > 1:
        raise UserError(f"{len(arguments.runs)} runs and no output file; say where to write with -o mixture.json")
    rule = {name: value for name, value in vars(arguments).items() if name in SampleRule.model_fields}
    if rule and arguments.samples is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in rule)
        raise UserError(f"{flags} without --samples; name the rule for the scores, such as --samples softmax")
    output = Path(arguments.output or Path(arguments.runs[0]) / "mixture.json")
    require_replaceable(output)
    runs = read_runs(arguments.runs)
    with samples_directory(output) as directory:
        mixture = export_mixture(
            runs,
            stages=arguments.stages,
            average=arguments.average,
            shrink=arguments.shrink,
            samples=None if arguments.samples is None else make_rule(rule=arguments.samples, **rule),
            samples_dir=directory,
            paths=not arguments.no_paths,
            **_bounds(arguments),
        )
        mixture.save(output)
    return f"{mixture_text(mixture)}\n\nwrote {output}"


def show(arguments: argparse.Namespace) -> str:
    """Print the shares, tokens and epochs of every domain of a mixture."""
    from mixtures.schedule.mixture import Mixture
    from mixtures.schedule.show import mixture_text

    return mixture_text(Mixture.load(arguments.mixture))


def check(arguments: argparse.Namespace) -> str:
    """Recompute the id, sums and expected epochs of a mixture. If some differ, list them and exit with code 2."""
    from mixtures.schedule.check import check_text

    return check_text(arguments.mixture)


def convert(arguments: argparse.Namespace) -> str:
    """Write a mixture in the syntax and the unit of a trainer.

    export_report.json says what the trainer will really do with it.
    """
    from mixtures.convert.options import parse_batch_size, parse_places
    from mixtures.text import read_words

    if arguments.list:
        from mixtures.convert.docs import list_text

        return list_text()
    needed = {"mixture.json": "mixture", "--to FORMAT": "to", "-o DIR": "output"}
    if missing := [word for word, name in needed.items() if getattr(arguments, name) is None]:
        raise UserError(f"convert needs {', '.join(missing)}; `mixtures convert --list` names the formats")
    from mixtures.convert.conversion import convert as convert_mixture

    values: dict[str, Any] = vars(arguments) | {
        "data": parse_places(arguments.data),
        "batch_size": parse_batch_size(arguments.batch_size),
        "document_tokens": read_words(arguments.document_tokens, flag="--document-tokens", read=float),
    }
    return convert_mixture(**{name: value for name, value in values.items() if name not in ("command", "list")}).text


def plot(arguments: argparse.Namespace) -> str:
    """Draw a mixture, or a run: weights, losses, matrix, mixture, and its sample scores if it has some.

    For a run with sample scores, documents.txt lists the documents with the lowest and highest scores.
    """
    source = Path(arguments.what)
    if source.is_dir():
        paths = _plot_run(source, Path(arguments.output or source / "plots"))
    else:
        from mixtures.plots.mixture import plot_mixture
        from mixtures.schedule.mixture import Mixture

        paths = plot_mixture(Mixture.load(source), arguments.output or source.parent)
    return _wrote(paths)


def _plot_run(source: Path, directory: Path) -> list[Path]:
    """Draw a run, and its sample scores if it has some; return the files written. All records are read once."""
    from mixtures.plots.run import plot_run
    from mixtures.run.run import read_run

    run = read_run(source)
    paths = plot_run(run, directory)
    if not (source / "scores").is_dir():
        return paths
    from mixtures.plots.scores import plot_scores
    from mixtures.samples.documents import write_documents
    from mixtures.samples.scores import read_scores
    from mixtures.samples.summary import summarise

    try:
        summary = summarise(read_scores(source), sizes=True)
        return [*paths, *plot_scores(summary, run, directory), write_documents(summary, run, directory)]
    except UserError as error:
        raise UserError(f"{error}\nthe plots of the run itself are in {directory}") from error


def ladder(arguments: argparse.Namespace) -> str:
    """Compare the weights that runs of several proxy sizes learned: agreement, trend over the size, and a verdict.

    With --at, also write the weights {name: share} of another size.
    """
    import json

    from mixtures.diagnosis.ladder import extrapolate, parse_size, read_ladder
    from mixtures.diagnosis.ladder_text import ladder_text
    from mixtures.files import write_atomic
    from mixtures.plots.ladder import plot_ladder

    size = None if arguments.at is None else parse_size(arguments.at)
    ladder, output = read_ladder(arguments.runs), Path(arguments.output)
    beyond = None if size is None else extrapolate(ladder, size)
    paths = [plot_ladder(ladder, output / "ladder.png", beyond)]
    if beyond is not None:
        paths.append(output / "ladder.json")
        shares = dict(zip(ladder.names, beyond.weights.tolist(), strict=True))
        write_atomic(paths[-1], json.dumps(shares, indent=1) + "\n")
    return f"{ladder_text(ladder, beyond)}\n\n{_wrote(paths)}"


def diagnose(arguments: argparse.Namespace) -> str:
    """Check a run's records: whether its weights settled, whether its signal is repeatable, and what repeats too often.

    The findings are printed and written to RUN_DIR/diagnosis.json.
    """
    from mixtures.diagnosis import diagnosis as library

    bounds = _bounds(arguments)
    unique, budget = bounds["unique_tokens"] or None, bounds["token_budget"]
    diagnosis = library.diagnose(arguments.run, token_budget=budget, unique_tokens=unique)
    path = library.write_diagnosis(arguments.run, diagnosis)
    return f"{library.diagnosis_text(diagnosis, everything=True)}\n\nwrote {path}"


def report(arguments: argparse.Namespace) -> str:
    """Write one self-contained HTML page about a run or a comparison, to decide whether to use a mixture.

    It shows the verdict, the mixture, the evidence, the diagnosis, the cost, and the command to run it again.
    """
    from mixtures.report.report import write_report

    output = arguments.output or Path(arguments.what) / "report.html"
    return f"wrote {write_report(arguments.what, output, full_paths=arguments.full_paths)}"


def fit(arguments: argparse.Namespace) -> str:
    """Fit a regression of measurements on the shares of a swarm's mixtures.

    Print how well it predicts, and the mixture with the best prediction within what was tried.
    """
    from mixtures.fit.fit import fit_swarm
    from mixtures.schedule.manifest import require_replaceable
    from mixtures.text import read_words

    if arguments.output is not None:
        require_replaceable(arguments.output)
    fitted = fit_swarm(
        arguments.tables,
        objective=read_words(arguments.objective, flag="--objective", read=float),
        model=arguments.model,
        like=arguments.like,
        seed=arguments.seed,
        force=arguments.force,
        **_bounds(arguments),
    )
    print(fitted.worth, flush=True)
    text = f"\n{fitted.text}"
    if arguments.output is None:
        return text
    fitted.save(arguments.output)
    return f"{text}\n\nwrote {arguments.output}"


def import_(arguments: argparse.Namespace) -> str:
    """Read a mixture from the file of a trainer or a method, as shares of trained tokens.

    With --like, write it as a whole mixture with its stages.
    """
    from mixtures.convert.options import parse_batch_size, parse_places
    from mixtures.imports.mixture import import_mixture
    from mixtures.schedule.manifest import require_replaceable
    from mixtures.schedule.show import mixture_text
    from mixtures.text import parse_tokens, read_words, table

    require_replaceable(arguments.output)
    bounds = _bounds(arguments)
    imported = import_mixture(
        arguments.files,
        source=arguments.source,
        like=arguments.like,
        output=arguments.output,
        row=arguments.row,
        data=parse_places(arguments.data),
        starts=[parse_tokens(word) for word in arguments.starts],
        sequence_length=arguments.sequence_length,
        batch_size=parse_batch_size(arguments.batch_size),
        document_tokens=read_words(arguments.document_tokens, flag="--document-tokens", read=float),
        cache=arguments.cache,
        max_document_tokens=arguments.max_document_tokens,
        packed=arguments.packed,
        token_budget=bounds["token_budget"],
        max_epochs=bounds["max_epochs"],
    )
    imported.save(arguments.output)
    if imported.mixture is not None:
        text = mixture_text(imported.mixture)
    else:
        shares = [[name, f"{share:.4%}"] for name, share in imported.shares.items()]
        text = table(["domain", "share of tokens"], shares)
    return "\n".join([text, "", *imported.notes, f"wrote {arguments.output}"])


def _bounds(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read --token-budget, --max-epochs, --min-share and --unique-tokens, as far as the command has these flags."""
    from mixtures.text import parse_tokens, read_words

    budget = arguments.token_budget
    bounds: dict[str, Any] = {"token_budget": None if budget is None else parse_tokens(budget)}
    for name, read in (("max_epochs", float), ("min_share", float), ("unique_tokens", parse_tokens)):
        if hasattr(arguments, name):
            flag = f"--{name.replace('_', '-')}"
            bounds[name] = read_words(getattr(arguments, name), flag=flag, read=read)
    return bounds


def _wrote(paths: Sequence[Path]) -> str:
    return "\n".join(f"wrote {path}" for path in paths)
