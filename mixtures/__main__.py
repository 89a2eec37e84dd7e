"""The words of the command line; commands.py does what they say."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from mixtures import commands
from mixtures.errors import UserError

MAX_EPOCHS = "most epochs over all stages: a number for all domains, NAME=N for one (inf: no cap), or both"
MIN_SHARE = "least share of every stage: a number for all domains, NAME=X for one, or both"
SWARM = (
    "tables: shares, a mixture a line; measurements, a run a line; joined by their label column; or a "
    "comparison's directory"
)
IMPORTED = ("doremi", "regmix", "olmix", "megatron", "levanter", "hf", "json")
UNIQUE_TOKENS = (
    "tokens of text that the large run has, where it is not the text that the proxy run read, as NAME=3e9 or NAME=3B"
)


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
    verbs = parser.add_subparsers(
        required=True, metavar="export | show | check | convert | import | plot | ladder | diagnose | report | fit"
    )

    export = verbs.add_parser("export", help="run directories -> mixture.json", description=commands.export.__doc__)
    export.add_argument("runs", nargs="+", metavar="RUN_DIR", help="run of proxies.train; several are averaged")
    export.add_argument("-o", "--output", help="file to write (default, for one run: RUN_DIR/mixture.json)")
    export.add_argument("--stages", type=int, default=1, help="piecewise-constant stages of equal length (default 1)")
    export.add_argument(
        "--average", choices=["all", "tail"], default="all", help="over all steps, or over the last half of the steps"
    )
    shrink = (
        "auto (default): draw the weights to the prior by signal to noise, where intervals are known; none: leave them"
    )
    export.add_argument("--shrink", choices=["auto", "none"], default="auto", help=shrink)
    export.add_argument("--token-budget", help="tokens of the large run, as 300e9 or 300B (default: the proxy run's)")
    bound: dict[str, Any] = {"nargs": "+", "action": "extend", "type": _bound}
    export.add_argument("--max-epochs", metavar="N | NAME=N", help=MAX_EPOCHS, **bound)
    export.add_argument("--min-share", metavar="X | NAME=X", help=MIN_SHARE, **bound)
    export.add_argument("--unique-tokens", metavar="NAME=COUNT", help=UNIQUE_TOKENS, **bound)
    _add_samples(export)
    export.set_defaults(command=commands.export)

    show = verbs.add_parser("show", help="print a mixture as tables", description=commands.show.__doc__)
    show.add_argument("mixture", metavar="mixture.json")
    show.set_defaults(command=commands.show)

    check = verbs.add_parser("check", help="recompute everything in a mixture", description=commands.check.__doc__)
    check.add_argument("mixture", metavar="mixture.json")
    check.set_defaults(command=commands.check)

    _add_convert(
        verbs.add_parser("convert", help="mixture.json -> a trainer's own files", description=commands.convert.__doc__)
    )

    plot = verbs.add_parser("plot", help="draw a run or a mixture as PNGs", description=commands.plot.__doc__)
    plot.add_argument("what", metavar="RUN_DIR | mixture.json")
    plot.add_argument("-o", "--output", help="directory (default: RUN_DIR/plots, or beside the mixture)")
    plot.set_defaults(command=commands.plot)

    ladder = verbs.add_parser(
        "ladder", help="runs of several proxy sizes: do they agree", description=commands.ladder.__doc__
    )
    ladder.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="runs over the same domains, of two or more proxy sizes"
    )
    ladder.add_argument(
        "--at",
        metavar="SIZE",
        help="extrapolate to a proxy of so many parameters, as 1B or 1e9; refused where no trend holds",
    )
    ladder.add_argument(
        "-o",
        "--output",
        default=".",
        help="directory for ladder.png, and with --at for ladder.json (default: this one)",
    )
    ladder.set_defaults(command=commands.ladder)

    diagnose = verbs.add_parser(
        "diagnose", help="how far a run's weights can be trusted", description=commands.diagnose.__doc__
    )
    diagnose.add_argument("run", metavar="RUN_DIR", help="finished run of proxies.train")
    diagnose.add_argument(
        "--token-budget", help="tokens of the large run, as 300e9 or 300B: compares epochs there with the proxy's"
    )
    diagnose.add_argument(
        "--unique-tokens", metavar="NAME=COUNT", nargs="+", action="extend", type=_bound, help=UNIQUE_TOKENS
    )
    diagnose.set_defaults(command=commands.diagnose)

    report = verbs.add_parser(
        "report", help="a run or a comparison -> one HTML page", description=commands.report.__doc__
    )
    report.add_argument("what", metavar="RUN_DIR | COMPARE_DIR")
    report.add_argument(
        "-o", "--output", metavar="report.html", help="file to write (default: report.html in that directory)"
    )
    report.set_defaults(command=commands.report)

    fit = verbs.add_parser(
        "fit", help="a swarm of small runs -> the best mixture by regression", description=commands.fit.__doc__
    )
    fit.add_argument("tables", nargs="+", metavar="RATIOS METRICS | COMPARE_DIR", help=SWARM)
    importance = (
        "importance of a metric (lower is better), NAME=N, a number for all others, or both (default: all alike)"
    )
    fit.add_argument("--objective", metavar="NAME=IMPORTANCE", help=importance, **bound)
    models = "surrogate; auto (default): the one with the best cross-validated rank correlation"
    fit.add_argument("--model", choices=["auto", "ridge", "law", "boosting"], default="auto", help=models)
    fit.add_argument("--token-budget", help="tokens of the large run, as 300e9 or 300B (default: that of --like)")
    fit.add_argument("--max-epochs", metavar="N | NAME=N", help=MAX_EPOCHS, **bound)
    fit.add_argument("--min-share", metavar="X | NAME=X", help=MIN_SHARE, **bound)
    fit.add_argument(
        "--unique-tokens",
        metavar="NAME=COUNT",
        help="tokens of the large run's text (default: those of --like)",
        **bound,
    )
    like = "write a whole mixture of the text of this one; caps count its tokens"
    fit.add_argument("--like", metavar="mixture.json | RUN_DIR", help=like)
    fit.add_argument(
        "-o", "--output", metavar="best.json", help="file to write: {name: share}, or a mixture where the text is known"
    )
    fit.add_argument("--seed", type=int, default=0, metavar="N", help="of the folds and of boosting (default 0)")
    fit.add_argument(
        "--force", action="store_true", help="also with too few mixtures, and where the surrogate predicts nothing"
    )
    fit.set_defaults(command=commands.fit)
    _add_import(verbs)
    return parser


def _add_import(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "import", help="a trainer's or a method's file -> shares, or a mixture", description=commands.import_.__doc__
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="of one format; several are the stages, in order")
    parser.add_argument(
        "--from", dest="source", required=True, metavar="FORMAT", help=f"format of the file: {', '.join(IMPORTED)}"
    )
    parser.add_argument(
        "-o", "--output", required=True, help="file to write: {name: share} of tokens, or with --like a mixture"
    )
    like = "write a whole mixture of the text of this one; its counts turn shares of documents into shares of tokens"
    parser.add_argument("--like", metavar="mixture.json | RUN_DIR", help=like)
    parser.add_argument("--row", help="which mixture of a table, by a label column or by position from 0")
    called = (
        "how the file calls the domains, where not by their names: a pattern as 'data/{domain}_text_document', "
        "or NAME=CALLED"
    )
    parser.add_argument("--data", metavar="PATTERN | NAME=CALLED", nargs="+", action="extend", default=[], help=called)
    parser.add_argument(
        "--starts", metavar="TOKENS", nargs="+", default=[], help="where each FILE after the first begins, as 200B"
    )
    parser.add_argument("--sequence-length", type=int, metavar="TOKENS", help="of a row, where stages begin at steps")
    steps = "sequences a step, where stages begin at steps: 512, or a schedule as 0=256 4B=512"
    parser.add_argument("--batch-size", metavar="N | FROM_TOKENS=N", nargs="+", default=[], help=steps)
    means = "mean trained tokens of a document, where the file's shares are of documents (default: as --like counts)"
    parser.add_argument("--document-tokens", metavar="NAME=MEAN", nargs="+", action="extend", help=means)
    parser.add_argument("--cache", metavar="DIR", help="token cache of the proxy run: lengths of its documents")
    parser.add_argument("--max-document-tokens", type=int, metavar="N", help="the trainer cut documents off there")
    parser.add_argument(
        "--packed", action="store_true", help="the trainer's documents are rows of one length: shares of tokens"
    )
    parser.add_argument("--token-budget", help="tokens of the schedule, as 300e9 or 300B (default: that of --like)")
    parser.add_argument(
        "--max-epochs", metavar="N | NAME=N", nargs="+", action="extend", help=f"{MAX_EPOCHS} (default: as --like)"
    )
    parser.set_defaults(command=commands.import_)


def _add_samples(export: argparse.ArgumentParser) -> None:
    """The flags of `sample_rule.SampleRule`; one that is not given is absent."""
    group = export.add_argument_group(
        "weights of documents inside the domains, from the scores of `proxies.score RUN_DIR`"
    )
    rules = ["softmax", "filter", "multiplicity", "linear_upper"]
    group.add_argument(
        "--samples", choices=rules, help="weights, whole documents dropped, whole repetitions, or weights by loss alone"
    )
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}
    score = "score to go by (softmax, multiplicity: without it word_embedding, --transform log, --cap 4)"
    group.add_argument("--score", metavar="NAME", help=score, **unset)
    group.add_argument(
        "--direction", choices=["inverse", "direct"], help="raise low scores (default: inverse) or high ones", **unset
    )
    group.add_argument(
        "--temperature", type=float, metavar="X", help="multiplies the z-scores: larger is sharper (default 1)", **unset
    )
    group.add_argument("--cap", type=float, metavar="X", help="largest weight, 1 or more (default: none)", **unset)
    group.add_argument(
        "--transform",
        choices=["none", "log", "rank"],
        help="of the scores, before their z-score (default none)",
        **unset,
    )
    group.add_argument(
        "--drop-top", type=float, metavar="SHARE", help="of a domain's scored tokens, highest scores first", **unset
    )
    group.add_argument(
        "--drop-bottom", type=float, metavar="SHARE", help="of a domain's scored tokens, lowest scores first", **unset
    )
    group.add_argument("--shuffle", action="store_true", help="deal the scores out at random: a control", **unset)
    group.add_argument(
        "--seed", type=int, metavar="N", help="of --shuffle, and of how multiplicities are rounded (default 0)", **unset
    )


def _add_convert(convert: argparse.ArgumentParser) -> None:
    """The flags of `convert`; an option that only some formats take is absent where it is not given."""
    from mixtures.convert.options import OPTIONS, flag, read_option, whole

    convert.add_argument("mixture", nargs="?", metavar="mixture.json")
    convert.add_argument("--to", metavar="FORMAT", help="the trainer's format; --list names them")
    convert.add_argument(
        "--list", action="store_true", help="print the table of formats: units, stages, what each honours"
    )
    convert.add_argument("-o", "--output", metavar="DIR", help="new directory to write")
    words: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    convert.add_argument(
        "--data",
        metavar="PATTERN | NAME=PATH",
        help="where the data are: 'DIR/{domain}' for all, or one by one",
        **words,
    )
    convert.add_argument(
        "--sequence-length", type=read_option(whole), metavar="TOKENS", help="of a row (default: the mixture's)"
    )
    batch = "sequences a step, or a schedule as 0=256 4B=512 (default: the mixture's)"
    convert.add_argument("--batch-size", metavar="N | FROM_TOKENS=N", help=batch, **words)
    stages = "keep (default), or one static mixture: their average over the tokens"
    convert.add_argument("--stages", choices=["keep", "average"], default="keep", help=stages)
    means = "trained tokens a document, after tokenizer, separators and truncation (default: the mixture's)"
    convert.add_argument("--document-tokens", metavar="NAME=MEAN", help=means, **words)
    convert.add_argument("--cache", metavar="DIR", help="token cache of the proxy run: documents are measured there")
    cut = "where the trainer cuts a document off; needs --cache"
    convert.add_argument("--max-document-tokens", type=read_option(whole), metavar="TOKENS", help=cut)
    convert.add_argument(
        "--packed", action="store_true", help="the data are rows of equal length already, not documents"
    )
    samples = (
        "sample weights inside domains: keep (default, refused where the trainer cannot), whole repetitions, or none"
    )
    convert.add_argument("--samples", choices=["keep", "multiplicity", "drop"], default="keep", help=samples)
    convert.add_argument(
        "--elsewhere", action="store_true", help="the data are on another machine: do not look for them"
    )
    group = convert.add_argument_group("options of some formats")
    for name, option in OPTIONS.items():
        group.add_argument(
            flag(name),
            type=read_option(option.read),
            metavar=option.metavar,
            help=option.help,
            default=argparse.SUPPRESS,
        )
    convert.set_defaults(command=commands.convert)


def _bound(word: str) -> str:
    """A number or NAME=NUMBER. What is neither may be a run directory in the wrong place."""
    try:
        float(word if "=" not in word else 0)
    except ValueError:
        reason = f"{word!r} is neither a number nor NAME=NUMBER; give run directories before the options"
        raise argparse.ArgumentTypeError(reason) from None
    return word


if __name__ == "__main__":
    sys.exit(main())
