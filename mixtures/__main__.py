"""mixtures export | show | check | plot. What takes long to import is imported by the command that needs it."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixtures.errors import UserError

if TYPE_CHECKING:
    from mixtures.sample_rule import SampleRule

MAX_EPOCHS = "most epochs over all stages: a number for all domains, NAME=N for one (inf: no cap), or both"
MIN_SHARE = "least share of every stage: a number for all domains, NAME=X for one, or both"
UNIQUE_TOKENS = "tokens of text that the large run has, where it is not the text that the proxy run read, as NAME=3e9 or NAME=3B"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 on success, 2 after one message on stderr for what the user gave wrong."""
    arguments = _parser().parse_args(argv)
    try:
        print(arguments.command(arguments), flush=True)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `mixtures show ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # the environment: a full disk, no permission; nothing is half-written
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}; nothing was changed there", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mixtures", description="Hand over and look at what a proxy run learned.")
    commands = parser.add_subparsers(required=True, metavar="export | show | check | plot")

    export = commands.add_parser("export", help="run directories -> mixture.json", description=_export.__doc__)
    export.add_argument("runs", nargs="+", metavar="RUN_DIR", help="run of proxies.train; several are averaged")
    export.add_argument("-o", "--output", help="file to write (default, for one run: RUN_DIR/mixture.json)")
    export.add_argument("--stages", type=int, default=1, help="piecewise-constant stages of equal length (default 1)")
    export.add_argument("--average", choices=["all", "tail"], default="all", help="over all steps, or over the last half of the steps")
    export.add_argument("--token-budget", help="tokens of the large run, as 300e9 or 300B (default: the proxy run's)")
    bound: dict[str, Any] = {"nargs": "+", "action": "extend", "type": _bound}
    export.add_argument("--max-epochs", metavar="N | NAME=N", help=MAX_EPOCHS, **bound)
    export.add_argument("--min-share", metavar="X | NAME=X", help=MIN_SHARE, **bound)
    export.add_argument("--unique-tokens", metavar="NAME=COUNT", help=UNIQUE_TOKENS, **bound)
    _add_samples(export)
    export.set_defaults(command=_export)

    show = commands.add_parser("show", help="print a mixture as tables", description=_show.__doc__)
    show.add_argument("mixture", metavar="mixture.json")
    show.set_defaults(command=_show)

    check = commands.add_parser("check", help="recompute everything in a mixture", description=_check.__doc__)
    check.add_argument("mixture", metavar="mixture.json")
    check.set_defaults(command=_check)

    plot = commands.add_parser("plot", help="draw a run or a mixture as PNGs", description=_plot.__doc__)
    plot.add_argument("what", metavar="RUN_DIR | mixture.json")
    plot.add_argument("-o", "--output", help="directory (default: RUN_DIR/plots, or beside the mixture)")
    plot.set_defaults(command=_plot)
    return parser


def _add_samples(export: argparse.ArgumentParser) -> None:
    """The flags of `sample_rule.SampleRule`; one that is not given is absent."""
    group = export.add_argument_group("weights of documents inside the domains, from the scores of `proxies.score RUN_DIR`")
    rules = ["softmax", "filter", "multiplicity", "linear_upper"]
    group.add_argument("--samples", choices=rules, help="weights, whole documents dropped, whole repetitions, or weights by loss alone")
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}
    score = "score to go by (softmax, multiplicity: without it word_embedding, --transform log, --cap 4)"
    group.add_argument("--score", metavar="NAME", help=score, **unset)
    group.add_argument("--direction", choices=["inverse", "direct"], help="raise low scores (default: inverse) or high ones", **unset)
    group.add_argument("--temperature", type=float, metavar="X", help="multiplies the z-scores: larger is sharper (default 1)", **unset)
    group.add_argument("--cap", type=float, metavar="X", help="largest weight, 1 or more (default: none)", **unset)
    group.add_argument("--transform", choices=["none", "log", "rank"], help="of the scores, before their z-score (default none)", **unset)
    group.add_argument("--drop-top", type=float, metavar="SHARE", help="of a domain's scored tokens, highest scores first", **unset)
    group.add_argument("--drop-bottom", type=float, metavar="SHARE", help="of a domain's scored tokens, lowest scores first", **unset)
    group.add_argument("--shuffle", action="store_true", help="deal the scores out at random: a control", **unset)
    group.add_argument("--seed", type=int, metavar="N", help="of --shuffle, and of how multiplicities are rounded (default 0)", **unset)


def _bound(word: str) -> str:
    """A number or NAME=NUMBER. What is neither may be a run directory in the wrong place."""
    try:
        float(word if "=" not in word else 0)
    except ValueError:
        reason = f"{word!r} is neither a number nor NAME=NUMBER; give run directories before the options"
        raise argparse.ArgumentTypeError(reason) from None
    return word


def _export(arguments: argparse.Namespace) -> str:
    """Average the learned weights of one or several runs and write them as a mixture: within bounds, with sample weights, where given."""
    from mixtures.bounds import read_words
    from mixtures.export import export_mixture, parse_tokens
    from mixtures.manifest import samples_directory
    from mixtures.show import show

    if arguments.output is None and len(arguments.runs) > 1:
        raise UserError(f"{len(arguments.runs)} runs and no output file; say where to write with -o mixture.json")
    budget = None if arguments.token_budget is None else parse_tokens(arguments.token_budget)
    output = Path(arguments.output or Path(arguments.runs[0]) / "mixture.json")
    with samples_directory(output) as directory:
        mixture = export_mixture(
            arguments.runs,
            stages=arguments.stages,
            average=arguments.average,
            token_budget=budget,
            max_epochs=read_words(arguments.max_epochs, flag="--max-epochs", read=float),
            min_share=read_words(arguments.min_share, flag="--min-share", read=float),
            unique_tokens=read_words(arguments.unique_tokens, flag="--unique-tokens", read=parse_tokens),
            samples=_rule(arguments),
            samples_dir=directory,
        )
        mixture.save(output)
    return f"{show(mixture)}\n\nwrote {output}"


def _rule(arguments: argparse.Namespace) -> "SampleRule | None":
    """What --samples and the flags that go with it say."""
    from mixtures.sample_rule import SampleRule, make_rule

    given = {name: value for name, value in vars(arguments).items() if name in SampleRule.model_fields}
    if arguments.samples is not None:
        return make_rule(rule=arguments.samples, **given)
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(f"{flags} without --samples; say what to make of the scores, as in --samples softmax")
    return None


def _show(arguments: argparse.Namespace) -> str:
    """Print what a mixture holds: shares, tokens and epochs of every domain."""
    from mixtures.mixture import Mixture
    from mixtures.show import show

    return show(Mixture.load(arguments.mixture))


def _check(arguments: argparse.Namespace) -> str:
    """Recompute id, sums and expected epochs; exit 2 and say what drifted where something did."""
    from mixtures.check import report

    return report(arguments.mixture)


def _plot(arguments: argparse.Namespace) -> str:
    """Draw a run (weights, losses, gram, mixture, and its sample scores where it has some) or a mixture; documents.txt lists documents."""
    from mixtures.plots import plot_mixture, plot_run

    source = Path(arguments.what)
    if source.is_dir():
        paths = plot_run(source, arguments.output or source / "plots")
        if (source / "scores").is_dir():
            from mixtures.score_plots import plot_scores
            from mixtures.score_text import write_documents

            try:
                paths += [*plot_scores(source, paths[0].parent), write_documents(source, paths[0].parent)]
            except UserError as error:
                raise UserError(f"{error}\nthe plots of the run itself are in {paths[0].parent}") from error
    else:
        from mixtures.sample_plots import plot_samples

        paths = [*plot_mixture(source, arguments.output or source.parent), *plot_samples(source, arguments.output or source.parent)]
    return "\n".join(f"wrote {path}" for path in paths)


if __name__ == "__main__":
    sys.exit(main())
