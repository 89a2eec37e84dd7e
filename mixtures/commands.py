"""What the commands of `mixtures` do: arguments in, printed text out. What takes long to import is imported where it is
needed.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mixtures.errors import UserError

if TYPE_CHECKING:
    from mixtures.samples.rule import SampleRule


def export(arguments: argparse.Namespace) -> str:
    """Average the learned weights of one or several runs and write them as a mixture: within bounds, with sample
    weights, where given.
    """
    from mixtures.export import export_mixture
    from mixtures.schedule.manifest import samples_directory
    from mixtures.schedule.show import mixture_text as table
    from mixtures.text import parse_tokens, read_words

    if arguments.output is None and len(arguments.runs) > 1:
        raise UserError(f"{len(arguments.runs)} runs and no output file; say where to write with -o mixture.json")
    budget = None if arguments.token_budget is None else parse_tokens(arguments.token_budget)
    output = Path(arguments.output or Path(arguments.runs[0]) / "mixture.json")
    with samples_directory(output) as directory:
        mixture = export_mixture(
            arguments.runs,
            stages=arguments.stages,
            average=arguments.average,
            shrink=arguments.shrink,
            token_budget=budget,
            max_epochs=read_words(arguments.max_epochs, flag="--max-epochs", read=float),
            min_share=read_words(arguments.min_share, flag="--min-share", read=float),
            unique_tokens=read_words(arguments.unique_tokens, flag="--unique-tokens", read=parse_tokens),
            samples=_rule(arguments),
            samples_dir=directory,
        )
        mixture.save(output)
    return f"{table(mixture)}\n\nwrote {output}"


def _rule(arguments: argparse.Namespace) -> "SampleRule | None":
    """What --samples and the flags that go with it say."""
    from mixtures.samples.rule import SampleRule, make_rule

    given = {name: value for name, value in vars(arguments).items() if name in SampleRule.model_fields}
    if arguments.samples is not None:
        return make_rule(rule=arguments.samples, **given)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{flags} without --samples; say what to make of the scores, as in --samples softmax")
    return None


def show(arguments: argparse.Namespace) -> str:
    """Print what a mixture holds: shares, tokens and epochs of every domain."""
    from mixtures.schedule.mixture import Mixture
    from mixtures.schedule.show import mixture_text as table

    return table(Mixture.load(arguments.mixture))


def check(arguments: argparse.Namespace) -> str:
    """Recompute id, sums and expected epochs; exit 2 and say what drifted where something did."""
    from mixtures.schedule.check import check_text

    return check_text(arguments.mixture)


def convert(arguments: argparse.Namespace) -> str:
    """Write a mixture in the syntax of a trainer, in the trainer's own unit; export_report.json says what it will
    really do.
    """
    if arguments.list:
        from mixtures.convert.docs import list_text

        return list_text()
    needed = {"mixture.json": "mixture", "--to FORMAT": "to", "-o DIR": "output"}
    if missing := [word for word, name in needed.items() if getattr(arguments, name) is None]:
        raise UserError(f"convert needs {', '.join(missing)}; `mixtures convert --list` names the formats")
    from mixtures.convert import convert as write

    flags = {name: value for name, value in vars(arguments).items() if name not in ("command", "list", "mixture")}
    return write(arguments.mixture, **flags).text


def plot(arguments: argparse.Namespace) -> str:
    """Draw a run (weights, losses, matrix, mixture, its sample scores where it has some) or a mixture; documents.txt
    lists documents.
    """
    from mixtures.plots.mixture import plot_mixture
    from mixtures.plots.run import plot_run

    source = Path(arguments.what)
    if source.is_dir():
        paths = plot_run(source, arguments.output or source / "plots")
        if (source / "scores").is_dir():
            from mixtures.plots.scores import plot_scores
            from mixtures.samples.documents import write_documents

            try:
                paths += [*plot_scores(source, paths[0].parent), write_documents(source, paths[0].parent)]
            except UserError as error:
                raise UserError(f"{error}\nthe plots of the run itself are in {paths[0].parent}") from error
    else:
        from mixtures.plots.mixture import plot_samples

        paths = [
            *plot_mixture(source, arguments.output or source.parent),
            *plot_samples(source, arguments.output or source.parent),
        ]
    return "\n".join(f"wrote {path}" for path in paths)


def ladder(arguments: argparse.Namespace) -> str:
    """Compare what runs of several proxy sizes learned: agreement, trend over the size, verdict; with --at the weights
    {name: share}.
    """
    import json

    from mixtures.diagnosis.ladder import extrapolate, parse_size, read_ladder
    from mixtures.diagnosis.ladder_text import ladder_text as text_of
    from mixtures.files import write_atomic
    from mixtures.plots.ladder import plot_ladder

    size = None if arguments.at is None else parse_size(arguments.at)
    ladder, output = read_ladder(arguments.runs), Path(arguments.output)
    beyond = None if size is None else extrapolate(ladder, size)
    paths = [plot_ladder(ladder, output / "ladder.png", beyond)]
    if beyond is not None:
        paths.append(output / "ladder.json")
        write_atomic(
            paths[-1], json.dumps(dict(zip(ladder.names, beyond.weights.tolist(), strict=True)), indent=1) + "\n"
        )
    return "\n".join([text_of(ladder, beyond), "", *(f"wrote {path}" for path in paths)])


def diagnose(arguments: argparse.Namespace) -> str:
    """Look at a run's records: has it settled, is its signal repeatable, what repeats too often; also into
    RUN_DIR/diagnosis.json.
    """
    from mixtures.diagnosis.diagnosis import diagnose as look
    from mixtures.diagnosis.diagnosis import diagnosis_text, write_diagnosis
    from mixtures.text import parse_tokens, read_words

    budget = None if arguments.token_budget is None else parse_tokens(arguments.token_budget)
    unique = read_words(arguments.unique_tokens, flag="--unique-tokens", read=parse_tokens)
    diagnosis = look(arguments.run, token_budget=budget, unique_tokens=unique or None)
    return f"{diagnosis_text(diagnosis, everything=True)}\n\nwrote {write_diagnosis(arguments.run, diagnosis)}"


def report(arguments: argparse.Namespace) -> str:
    """Write one self-contained page to decide from: verdict, mixture, evidence, diagnosis, cost, and the command that
    does it again.
    """
    from mixtures.report.report import write_report

    return f"wrote {write_report(arguments.what, arguments.output or Path(arguments.what) / 'report.html')}"


def fit(arguments: argparse.Namespace) -> str:
    """Regress measurements on the shares of a swarm's mixtures; print what that is worth, and the best mixture within
    what was tried.
    """
    import json
    from dataclasses import replace

    from mixtures.files import write_atomic
    from mixtures.fit.optimum import as_mixture, find_optimum, limits, require_enough, require_support
    from mixtures.fit.surrogate import fit_surrogate
    from mixtures.fit.swarm import objective, read_like, read_swarm
    from mixtures.fit.text import optimum_text, surrogate_text
    from mixtures.text import parse_tokens, read_words

    swarm = read_swarm(arguments.tables)
    if arguments.like is not None:
        swarm = replace(swarm, like=read_like(arguments.like, list(swarm.ratios.columns)))
    importance = objective(swarm, read_words(arguments.objective, flag="--objective", read=float))
    bounds = limits(
        swarm,
        max_epochs=read_words(arguments.max_epochs, flag="--max-epochs", read=float),
        min_share=read_words(arguments.min_share, flag="--min-share", read=float),
        unique_tokens=read_words(arguments.unique_tokens, flag="--unique-tokens", read=parse_tokens),
        token_budget=None if arguments.token_budget is None else parse_tokens(arguments.token_budget),
    )
    if not arguments.force:
        require_enough(swarm)
    surrogate = fit_surrogate(
        swarm.ratios, swarm.metrics, importance=importance, model=arguments.model, seed=arguments.seed
    )
    print(surrogate_text(surrogate, swarm), flush=True)
    if not arguments.force:
        require_support(surrogate)
    optimum = find_optimum(surrogate, swarm, bounds)
    text = f"\n{optimum_text(optimum, surrogate, swarm)}"
    if arguments.output is None:
        return text
    if swarm.like is None:
        write_atomic(arguments.output, json.dumps(optimum.shares, indent=1) + "\n")
    else:
        as_mixture(optimum, surrogate, swarm, bounds).save(arguments.output)
    return f"{text}\n\nwrote {arguments.output}"


def import_(arguments: argparse.Namespace) -> str:
    """Read the mixture in the file of a trainer or a method as shares of trained tokens; with --like as a whole mixture
    with its stages.
    """
    import json

    from mixtures.export import export_mixture
    from mixtures.files import write_atomic
    from mixtures.imports.mixture import as_mixture
    from mixtures.imports.schedule import Lengths, read_schedule
    from mixtures.schedule.mixture import Mixture
    from mixtures.schedule.show import mixture_text as show_mixture
    from mixtures.text import parse_tokens, read_words, table

    budget = None if arguments.token_budget is None else parse_tokens(arguments.token_budget)
    like = None
    if (path := arguments.like) is not None:
        like = export_mixture([path], token_budget=budget) if Path(path).is_dir() else Mixture.load(path)
    schedule = read_schedule(
        arguments.files,
        source=arguments.source,
        like=like,
        row=arguments.row,
        data=arguments.data,
        starts=[parse_tokens(word) for word in arguments.starts],
        sequence_length=arguments.sequence_length,
        batch_size=arguments.batch_size,
        lengths=Lengths(
            means=read_words(arguments.document_tokens, flag="--document-tokens", read=float),
            cache=arguments.cache,
            most_tokens=arguments.max_document_tokens,
        ),
        packed=arguments.packed,
    )
    if like is None:
        shares = schedule.only(arguments.files)
        if budget is not None or arguments.max_epochs:
            raise UserError(
                "--token-budget, --max-epochs: shares alone have neither tokens nor caps; give --like mixture.json "
                "or RUN_DIR"
            )
        write_atomic(arguments.output, json.dumps(shares, indent=1) + "\n")
        text = table(["domain", "share of tokens"], [[name, f"{share:.4%}"] for name, share in shares.items()])
    else:
        caps = read_words(arguments.max_epochs, flag="--max-epochs", read=float)
        mixture = as_mixture(
            schedule, like, arguments.files, output=Path(arguments.output), token_budget=budget, max_epochs=caps
        )
        mixture.save(arguments.output)
        text = show_mixture(mixture)
    return "\n".join([text, "", *schedule.notes, f"wrote {arguments.output}"])
