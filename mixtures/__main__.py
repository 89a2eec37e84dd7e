"""The command line of `mixtures`: flags and their help; commands.py does what they say."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

from mixtures import commands
from mixtures.boundary import guard
from mixtures.errors import clipped, printable, quoted
from mixtures.version import VERSION

MAX_EPOCHS = "most epochs over all stages: a number for all domains, NAME=N for one (inf: no cap), or both"
MIN_SHARE = "least share in every stage: a number for all domains, NAME=X for one, or both"
UNIQUE_TOKENS = (
    "tokens of text that the large run has, as NAME=3e9 or NAME=3B, where it is not the text that the proxy run read"
)
BUDGET = "tokens of the large run, as 300e9 or 300B"


class Parser(argparse.ArgumentParser):
    """A parser whose messages show the beginning of a long word."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        super().error(clipped(printable(message), 500))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 on success, 2 after one message for what the user gave wrong, 1 after our own fault."""
    words = list(sys.argv[1:] if argv is None else argv)

    def act() -> int:
        arguments = _parser(words).parse_args(words)
        print(arguments.command(arguments), flush=True)
        return 0

    return guard(act)


def _parser(words: Sequence[str]) -> Parser:
    """The parser; only the command that `words` name gets its flags, whose choices come from the tables of the code."""
    parser = Parser(prog="mixtures", description="Hand over and look at what a proxy run learned.")
    parser.add_argument("--version", action="version", version=f"mixtures {VERSION}")
    verbs = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    named = next((word for word in words if not word.startswith("-")), None)
    for verb, (summary, add_flags) in COMMANDS.items():
        command = getattr(commands, "import_" if verb == "import" else verb)
        one = verbs.add_parser(verb, help=summary, description=command.__doc__)
        one.set_defaults(command=command)
        if verb == named:
            add_flags(one)
    return parser


def _export(parser: Parser) -> None:
    from mixtures.run.average import Average, Shrink

    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="run of proxies.train; several are averaged")
    parser.add_argument("-o", "--output", help="file to write (default, for one run: RUN_DIR/mixture.json)")
    parser.add_argument("--stages", type=int, default=1, help="piecewise-constant stages of equal length (default 1)")
    average = "average over all steps (default), or over the tail: the last half of the steps"
    parser.add_argument("--average", choices=get_args(Average), default="all", help=average)
    shrink = "auto (default): draw the weights to the prior by the strength of their evidence; none: leave them"
    parser.add_argument("--shrink", choices=get_args(Shrink), default="auto", help=shrink)
    parser.add_argument("--token-budget", help=f"{BUDGET} (default: the proxy run's)")
    bare = "leave only the names of the text's files, not where they are (convert then needs --data)"
    parser.add_argument("--no-paths", action="store_true", help=bare)
    _add_bounds(parser)
    _add_samples(parser)


def _show(parser: Parser) -> None:
    parser.add_argument("mixture", metavar="mixture.json", help="mixture file that `mixtures export` wrote")


def _plot(parser: Parser) -> None:
    parser.add_argument("what", metavar="RUN_DIR | mixture.json", help="run of proxies.train, or a mixture file")
    parser.add_argument("-o", "--output", help="directory (default: RUN_DIR/plots, or beside the mixture)")


def _ladder(parser: Parser) -> None:
    runs = "runs over the same domains, of two or more proxy sizes"
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help=runs)
    size = "extrapolate to a proxy of so many parameters, as 1B or 1e9; refused where no trend holds"
    parser.add_argument("--at", metavar="SIZE", help=size)
    output = "directory for ladder.png, and with --at for ladder.json (default: this one)"
    parser.add_argument("-o", "--output", default=".", help=output)


def _diagnose(parser: Parser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="finished run of proxies.train")
    parser.add_argument("--token-budget", help=f"{BUDGET}: compares epochs there with the proxy's")
    parser.add_argument("--unique-tokens", metavar="NAME=COUNT", help=UNIQUE_TOKENS, **BOUND)


def _report(parser: Parser) -> None:
    what = "directory that `proxies.train` or `proxies.compare` wrote"
    parser.add_argument("what", metavar="RUN_DIR | COMPARE_DIR", help=what)
    output = "file to write (default: report.html in that directory)"
    parser.add_argument("-o", "--output", metavar="report.html", help=output)
    full = "write absolute paths whole, not only their last names"
    parser.add_argument("--full-paths", action="store_true", help=full)


def _fit(parser: Parser) -> None:
    from mixtures.fit.regressions import MODELS

    tables = (
        "tables: shares, one mixture per line; measurements, one run per line; joined by their label column; or a "
        "comparison's directory"
    )
    parser.add_argument("tables", nargs="+", metavar="RATIOS METRICS | COMPARE_DIR", help=tables)
    importance = "importance of a metric (lower is better), NAME=N, a number for all others, or both (default: alike)"
    parser.add_argument("--objective", metavar="NAME=IMPORTANCE", help=importance, **BOUND)
    models = "surrogate; auto (default): the one with the best cross-validated rank correlation"
    parser.add_argument("--model", choices=MODELS, default="auto", help=models)
    parser.add_argument("--token-budget", help=f"{BUDGET} (default: that of --like)")
    _add_bounds(parser, unique="tokens of the large run's text (default: those of --like)")
    like = "write a whole mixture of the text of this one; caps count its tokens"
    parser.add_argument("--like", metavar="mixture.json | RUN_DIR", help=like)
    output = "file to write: {name: share}, or a mixture where the text is known"
    parser.add_argument("-o", "--output", metavar="best.json", help=output)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the folds and of boosting (default 0)"
    )
    force = "go on with too few mixtures, and where the surrogate predicts nothing"
    parser.add_argument("--force", action="store_true", help=force)


def _import(parser: Parser) -> None:
    from mixtures.imports.files import READERS

    parser.add_argument("files", nargs="+", metavar="FILE", help="the file; several are stages, see --starts")
    parser.add_argument("--from", dest="source", required=True, choices=list(READERS), help="what wrote the file")
    parser.add_argument("-o", "--output", required=True, help="file to write: {name: share}, with --like a mixture")
    like = "whose domains, text, tokens and caps these are; keeps stages"
    parser.add_argument("--like", metavar="mixture.json | RUN_DIR", help=like)
    parser.add_argument("--row", help="which mixture of a table, by a label column or by position from 0")
    called = (
        "how the file calls the domains, where not by their names: a pattern as 'data/{domain}_text_document', or "
        "NAME=CALLED"
    )
    parser.add_argument("--data", metavar="PATTERN | NAME=CALLED", help=called, **WORDS)
    starts = "where each FILE after the first begins, as 200B"
    parser.add_argument("--starts", metavar="TOKENS", nargs="+", default=[], help=starts)
    length = "length of a row, where stages begin at steps"
    parser.add_argument("--sequence-length", type=int, metavar="TOKENS", help=length)
    batch = "sequences per step, where stages begin at steps: 512, or a schedule as 0=256 4B=512"
    parser.add_argument("--batch-size", metavar="N | FROM_TOKENS=N", nargs="+", default=[], help=batch)
    means = "mean trained tokens per document, where the file's shares are of documents (default: as --like counts)"
    parser.add_argument("--document-tokens", metavar="NAME=MEAN", nargs="+", action="extend", help=means)
    parser.add_argument("--cache", metavar="DIR", help="token cache of the proxy run: lengths of its documents")
    parser.add_argument("--max-document-tokens", type=int, metavar="N", help="the trainer cut documents off there")
    packed = "the trainer's documents are rows of one length: shares of tokens"
    parser.add_argument("--packed", action="store_true", help=packed)
    parser.add_argument("--token-budget", help="tokens of the schedule, as 300e9 or 300B (default: that of --like)")
    epochs = f"{MAX_EPOCHS} (default: as --like)"
    parser.add_argument("--max-epochs", metavar="N | NAME=N", nargs="+", action="extend", help=epochs)


def _add_samples(parser: Parser) -> None:
    """The flags of `samples.rule.SampleRule`; one that is not given is absent."""
    from mixtures.samples.weights import RULES, Direction, Transform

    group = parser.add_argument_group(
        "weights of documents inside the domains, from the scores of `proxies.score RUN_DIR`"
    )
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}
    rules = "softmax: weights; filter: whole documents dropped; multiplicity: whole repetitions; linear_upper: by loss"
    group.add_argument("--samples", choices=list(RULES), help=rules)
    score = "score to go by (softmax, multiplicity: without it word_embedding, --transform log, --cap 4)"
    group.add_argument("--score", metavar="NAME", help=score, **unset)
    direction = "raise low scores (inverse, the default) or high ones"
    group.add_argument("--direction", choices=get_args(Direction), help=direction, **unset)
    temperature = "multiplies the z-scores: larger is sharper (default 1)"
    group.add_argument("--temperature", type=float, metavar="X", help=temperature, **unset)
    group.add_argument("--cap", type=float, metavar="X", help="largest weight, 1 or more (default: none)", **unset)
    transform = "of the scores, before their z-score (default none)"
    group.add_argument("--transform", choices=get_args(Transform), help=transform, **unset)
    for flag, which in (("--drop-top", "highest"), ("--drop-bottom", "lowest")):
        dropped = f"share of a domain's scored tokens to drop, {which} scores first"
        group.add_argument(flag, type=float, metavar="SHARE", help=dropped, **unset)
    group.add_argument("--shuffle", action="store_true", help="deal the scores out at random: a control", **unset)
    seed = "seed of --shuffle, and of how multiplicities are rounded (default 0)"
    group.add_argument("--seed", type=int, metavar="N", help=seed, **unset)


def _convert(parser: Parser) -> None:
    """The flags of `convert`; an option that only some formats take is absent where it is not given."""
    from mixtures.convert.options import OPTIONS, SAMPLES, STAGES, flag, read_option, whole

    mixture = "mixture file that `mixtures export` wrote; not needed with --list"
    parser.add_argument("mixture", nargs="?", metavar="mixture.json", help=mixture)
    parser.add_argument("--to", metavar="FORMAT", help="the trainer's format; --list names them")
    listing = "print the table of formats: units, stages, what each honours"
    parser.add_argument("--list", action="store_true", help=listing)
    parser.add_argument("-o", "--output", metavar="DIR", help="new directory to write")
    data = "where the data are: 'DIR/{domain}' for all, or one by one"
    parser.add_argument("--data", metavar="PATTERN | NAME=PATH", help=data, **WORDS)
    length = "length of a row (default: the mixture's)"
    parser.add_argument("--sequence-length", type=read_option(whole), metavar="TOKENS", help=length)
    batch = "sequences per step, or a schedule as 0=256 4B=512 (default: the mixture's)"
    parser.add_argument("--batch-size", metavar="N | FROM_TOKENS=N", help=batch, **WORDS)
    stages = "keep (default), or one static mixture: their average over the tokens"
    parser.add_argument("--stages", choices=STAGES, default="keep", help=stages)
    means = "trained tokens per document, after tokenizer, separators and truncation (default: the mixture's)"
    parser.add_argument("--document-tokens", metavar="NAME=MEAN", help=means, **WORDS)
    cache = "token cache of the proxy run: documents are measured there"
    parser.add_argument("--cache", metavar="DIR", help=cache)
    cut = "where the trainer cuts a document off; needs --cache"
    parser.add_argument("--max-document-tokens", type=read_option(whole), metavar="TOKENS", help=cut)
    packed = "the data are rows of equal length already, not documents"
    parser.add_argument("--packed", action="store_true", help=packed)
    samples = "sample weights inside domains: keep (default, refused where the trainer cannot), whole repetitions, none"
    parser.add_argument("--samples", choices=SAMPLES, default="keep", help=samples)
    elsewhere = "the data are on another machine: do not look for them"
    parser.add_argument("--elsewhere", action="store_true", help=elsewhere)
    group = parser.add_argument_group("options of some formats")
    for name, option in OPTIONS.items():
        read = read_option(option.read)
        group.add_argument(flag(name), type=read, metavar=option.metavar, help=option.help, default=argparse.SUPPRESS)


def _add_bounds(parser: Parser, *, unique: str = UNIQUE_TOKENS) -> None:
    """Caps, least shares, and the tokens that they count."""
    parser.add_argument("--max-epochs", metavar="N | NAME=N", help=MAX_EPOCHS, **BOUND)
    parser.add_argument("--min-share", metavar="X | NAME=X", help=MIN_SHARE, **BOUND)
    parser.add_argument("--unique-tokens", metavar="NAME=COUNT", help=unique, **BOUND)


def _bound(word: str) -> str:
    """Return a number or NAME=NUMBER. What is neither may be a run directory in the wrong place."""
    try:
        float(word if "=" not in word else 0)
    except ValueError:
        reason = f"{quoted(word)} is neither a number nor NAME=NUMBER; give run directories before the options"
        raise argparse.ArgumentTypeError(reason) from None
    return word


WORDS: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
BOUND: dict[str, Any] = {"nargs": "+", "action": "extend", "type": _bound}
COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {  # verb: what it does, what adds its flags
    "export": ("run directories -> mixture.json", _export),
    "show": ("print a mixture as tables", _show),
    "check": ("recompute everything in a mixture", _show),
    "convert": ("mixture.json -> a trainer's own files", _convert),
    "import": ("a trainer's or a method's mixture -> ours", _import),
    "plot": ("draw a run or a mixture as PNGs", _plot),
    "ladder": ("runs of several proxy sizes: do they agree", _ladder),
    "diagnose": ("how far a run's weights can be trusted", _diagnose),
    "report": ("a run or a comparison -> one HTML page", _report),
    "fit": ("a swarm of small runs -> the best mixture by regression", _fit),
}


if __name__ == "__main__":
    sys.exit(main())
