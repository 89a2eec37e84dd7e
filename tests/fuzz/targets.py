"""What is damaged and which command reads it then. Each target makes one case in a copy of base.

The current directory is the case's own, and paths are relative to it.
"""

import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import BaseModel

from mixtures.__main__ import main as mixtures
from mixtures.convert.formats import MODULES as FORMATS
from proxies import compare, score, train
from proxies.command import command
from proxies.comparison.settings import CompareSettings
from proxies.config import flags as flags_of
from proxies.corpus.corpus import prepare
from proxies.settings import Settings, load_settings
from tests.fuzz import mutators
from tests.fuzz.base import DOMAINS, documents
from tests.fuzz.slow_reader import COMPRESS, cached_texts, read_texts

OUTPUT = "out"  # every command writes there, unless the case says otherwise
WRITTEN = ("run_dir", "cache_dir")  # settings that say where to write
FLAGS = ("-o", "--output", *(f"--{name}" for name in ("run_dir", "corpus.cache_dir")))


@dataclass(frozen=True)
class Case:
    """One command on a damaged input.

    act:      the command, a function of its words that returns its exit code.
    words:    the words of the command line.
    what:     what was damaged, and how.
    outputs:  the files and directories that the command may write, with all in them.
    lost:     function that says after a success which text of the input is missing; "" for none.
    """

    act: Callable[[list[str]], int]
    words: list[str]
    what: str
    outputs: Sequence[str] = (OUTPUT, f"{OUTPUT}.samples", "cache")
    lost: Callable[[], str] = lambda: ""


def settings(draw: random.Random) -> Case:
    """The settings of a run."""
    return _settings(draw, "run.yaml", train.main, Settings)


def comparison(draw: random.Random) -> Case:
    """The settings of a comparison."""
    return _settings(draw, "compare.yaml", compare.main, CompareSettings)


def _settings(draw: random.Random, name: str, act: Callable[[list[str]], int], kind: type[BaseModel]) -> Case:
    path = Path(name)
    good = yaml.safe_load(path.read_text()) | {"run_dir": OUTPUT}
    if draw.random() < 0.5:  # any setting, also one that the file leaves out
        how = ""
        known = list(flags_of(kind))
        if draw.random() < 0.7:  # texts are mostly refused as such
            known = [setting for setting in known if isinstance(setting[1], int | float)]
        for flag, default, _ in draw.sample(known, draw.choice((1, 1, 2))):
            *blocks, key = flag.split(".")
            block = good
            for block_name in blocks:
                block = block.setdefault(block_name, {})
            block[key] = mutators.value(draw, block.get(key, default))
            how += f"{flag} = {block[key]!r:.60} "
        path.write_bytes(mutators.yaml_text(draw, good))
    else:
        path.write_bytes(mutators.yaml_text(draw, good))
        how = mutators.file(draw, path)
    return Case(act, [name], f"{name} ({how})", (OUTPUT, "cache", *_asked(path)))


def _asked(path: Path) -> Iterator[str]:
    """Yield where a settings file says that records should go."""
    try:
        record = yaml.safe_load(path.read_text())
    except Exception:
        return
    corpus = record.get("corpus") if isinstance(record, dict) else None
    for block in (record, corpus):
        if isinstance(block, dict):
            yield from (block[key] for key in WRITTEN if isinstance(block.get(key), str))
            yield from (f"{block[key]}/../cache" for key in WRITTEN[:1] if isinstance(block.get(key), str))


def model(draw: random.Random) -> Case:
    """The configuration of the proxy model."""
    how = mutators.file(draw, Path("model.json"))
    return Case(train.main, ["run.yaml", "--run_dir", OUTPUT], f"model.json ({how})")


def flags(draw: random.Random) -> Case:
    """The words of all commands."""
    act, line = draw.choice(LINES)
    words = line.split()
    if line.startswith("run.yaml") and draw.random() < 0.5:
        flag, default, _ = draw.choice(list(flags_of(Settings)))
        words += [f"--{flag}", mutators.word(mutators.value(draw, default))]
    else:
        words = mutators.words(draw, words)
    # what it writes without -o, and what is damaged may be the -o
    outputs = [OUTPUT, f"{OUTPUT}.samples", "cache", "ladder.png", "ladder.json", "plots", "mixture.png", "report.html"]
    for place in ("run", "comparison"):
        outputs += [f"{place}/{name}" for name in ("mixture.json", "plots", "report.html", "diagnosis.json", "scores")]
    outputs += ["run"] * ("--resume" in words)
    for spot, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in FLAGS or name.startswith("-o"):
            value = value or (
                word[2:] if name.startswith("-o") and name != "-o" else "".join(words[spot + 1 : spot + 2])
            )
            outputs += [value, f"{value.rstrip('/').removesuffix('.json')}.samples", f"{value}/../cache"]
    return Case(act, words, f"words of: {line}", outputs)


def data(draw: random.Random) -> Case:
    """A file of text: its records, its bytes, or its compression."""
    kind, compression = draw.choice(("jsonl", "ndjson", "json", "csv", "txt", "parquet")), ""
    content = written(documents(draw), kind)
    if draw.random() < 0.4:
        compression = draw.choice(list(COMPRESS))
    path = Path("data", f"fuzzed.{kind}{'.' * bool(compression)}{compression}")
    if compression and draw.random() < 0.4:  # damage what is inside
        inner = (mutators.text if kind in ("jsonl", "csv", "txt") else mutators.binary)(draw, content)
        path.write_bytes(COMPRESS[compression](inner))
        how = "inside"
    else:
        path.write_bytes(COMPRESS[compression](content) if compression else content)
        how = mutators.file(draw, path, ".jsonl" if kind == "json" else path.suffix)
    names = {"fuzzed": path, "vowels": Path("data/vowels.jsonl")}
    sources = {name: {"data_files": str(at), "validation": "data/mixed_validation.jsonl"} for name, at in names.items()}
    return _prepare({"tokenizer": {"bytes": True}, "domains": sources}, f"{path} ({how})", lambda: _missing(path))


def written(texts: list[str], kind: str) -> bytes:
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts})
    buffer = io.BytesIO()
    if kind == "csv":
        frame.to_csv(buffer, index=False)
    elif kind == "parquet":
        frame.to_parquet(buffer, row_group_size=10)
    elif kind == "txt":
        return "\n".join(texts).encode()
    else:
        frame.to_json(buffer, orient="records", lines=True, force_ascii=False)
    return buffer.getvalue()


def _missing(path: Path, name: str = "fuzzed", *, extra: Path | None = Path("data/mixed_validation.jsonl")) -> str:
    """Return how the texts in a domain's token cache differ from those in its files; "" if they are the same."""
    try:
        texts = read_texts(path)
    except Exception as error:
        return f"{path}: the slow reader finds it damaged ({type(error).__name__}: {error}), and the command does not"
    texts += read_texts(extra) if extra else type(texts)()
    try:
        cached = cached_texts(Path("cache"), name)
    except (AssertionError, UnicodeDecodeError) as error:
        return f"the token cache of {name} holds no text: {error}"
    lost, added = texts - cached, cached - texts
    if not lost and not added:
        return ""
    shown = [repr(next(iter(some))[:60]) if some else "" for some in (lost, added)]
    return f"{name}: {lost.total()} texts are lost {shown[0]}, {added.total()} are new {shown[1]}"


def _prepare(corpus: dict[str, Any], what: str, lost: Callable[[], str]) -> Case:
    """Return a case that only prepares a corpus: all of `proxies.train` before the model."""
    corpus = {"row_tokens": 16, "held_out": 0.3, "cache_dir": "cache", **corpus}
    record = {"run_dir": OUTPUT, "corpus": corpus, "model": {"config": "model.json"}}
    Path("text.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
    return Case(_prepare_only, ["text.yaml"], what, lost=lost)


def _prepare_only(words: list[str]) -> int:
    def act(words: list[str]) -> None:
        chosen = load_settings(words[0], words[1:])
        prepare(chosen.corpus, chosen.cache_path, chosen.draws, progress=True)

    return command(words, usage="usage: prepare", kind=Settings, act=act)


def tokenizer(draw: random.Random) -> Case:
    """A tokenizer.json."""
    how = mutators.file(draw, Path("tokenizer.json"))
    sources = {name: {"data_files": f"data/{name}.jsonl"} for name in DOMAINS}
    return _prepare(
        {"tokenizer": {"file": "tokenizer.json"}, "domains": sources}, f"tokenizer.json ({how})", lambda: ""
    )


def cache(draw: random.Random) -> Case:
    """A token cache that an earlier run left."""
    directory = draw.choice(sorted(path for path in Path("cache").iterdir() if path.is_dir()))
    path = draw.choice([directory, *sorted(directory.iterdir())])
    how = (mutators.directory if path == directory else mutators.file)(draw, path)
    what = f"{path} ({how})"
    record = yaml.safe_load(Path("run.yaml").read_text())
    name = directory.name.rpartition("-")[0]
    return _prepare(record["corpus"], what, lambda: _missing(Path(f"data/{name}.jsonl"), name, extra=None))


def mixture(draw: random.Random) -> Case:
    """A mixture.json, or a manifest of its sample weights."""
    path = draw.choice([Path("mixture.json")] * 5 + [Path("sampled.json")] * 4 + sorted(Path().glob("sampled*/*"))[:1])
    if path.suffix == ".json" and draw.random() < 0.6:  # a mixture without an id is not compared with one
        good = json.loads(path.read_text())
        good.pop("id")
        path.write_text(json.dumps(good, indent=1))
    how = mutators.file(draw, path)
    name = "mixture.json" if path.name == "mixture.json" else "sampled.json"
    lines = [["show", name], ["check", name], ["plot", name, "-o", OUTPUT]]
    lines += [["import", "shares.json", "--from", "json", "--like", name, "-o", OUTPUT]]
    for kind in draw.sample(sorted(FORMATS), 4):
        words = ["convert", name, "--to", kind, "-o", OUTPUT, "--data", "data/{domain}", "--elsewhere"]
        lines.append([*words, "--sequence-length", "16", "--batch-size", "4", "--samples", "drop"])
    if draw.random() < 0.1:
        words = ["run.yaml", "--run_dir", OUTPUT, "--corpus.domains.digits.data_files", "data/mixed_validation.jsonl"]
        return Case(train.main, [*words, "--reuse", name], f"{path} ({how})")
    return Case(mixtures, draw.choice(lines), f"{path} ({how})")


def table(draw: random.Random) -> Case:
    """A table of `fit`, or a file of another program for `import`."""
    path = draw.choice(sorted(Path("tables").iterdir()))
    how = mutators.file(draw, path)
    if path.stem in ("ratios", "metrics"):
        words = ["fit", "tables/ratios.csv", "tables/metrics.csv", "--model", draw.choice(("ridge", "law")), "--force"]
        return Case(mixtures, [*words, "-o", OUTPUT], f"{path} ({how})")
    words = ["import", str(path), "--from", path.stem, "-o", OUTPUT]
    return Case(mixtures, [*words, "--like", "mixture.json"] if draw.random() < 0.6 else words, f"{path} ({how})")


def record(draw: random.Random) -> Case:
    """A file of a finished run or comparison."""
    root = Path(draw.choice(("run", "run", "run", "comparison")))
    path = draw.choice(sorted(path for path in root.rglob("*") if path.is_file() and path.suffix != ".png"))
    how = mutators.file(draw, path)
    if root.name == "comparison":
        lines = [(mixtures, ["report", "comparison", "-o", OUTPUT]), (mixtures, ["fit", "comparison", "--force"])]
        lines += [(compare.main, ["compare.yaml"])] * 2
    else:
        names = [["export", "run", "-o", OUTPUT], ["diagnose", "run"], ["report", "run", "-o", OUTPUT]]
        names += [["plot", "run", "-o", OUTPUT], ["export", "run", "-o", OUTPUT, "--samples", "softmax"]]
        lines = [(mixtures, words) for words in names] + [(score.main, ["run", "--max-rows", "8"])]
        lines += [(train.main, ["run.yaml", "--resume"])] * 2
    act, words = draw.choice(lines)
    return Case(act, words, f"{path} ({how})", (OUTPUT, f"{OUTPUT}.samples", "cache", str(root)))


LINES: tuple[tuple[Callable[[list[str]], int], str], ...] = (
    (train.main, f"run.yaml --run_dir {OUTPUT} --train.steps 2 --corpus.row_tokens 16 --update.preset stable --seed 1"),
    (train.main, f"run.yaml --run_dir={OUTPUT} --corpus.domains.vowels.data_files=data/*.jsonl --train.lr=1e-3"),
    (train.main, "run.yaml --resume"),
    (
        score.main,
        "run --scores self_influence information word_embedding --scopes all first_block --max-rows 8",
    ),
    (compare.main, f"compare.yaml --run_dir {OUTPUT} --seeds 0 --train.steps 2 --baseline natural"),
    (mixtures, f"export run -o {OUTPUT} --stages 2 --token-budget 2k --max-epochs 4 digits=inf --min-share vowels=0.1"),
    (mixtures, f"export run -o {OUTPUT} --samples softmax --score nll_mean --temperature 2 --cap 4 --seed 1"),
    (mixtures, "show mixture.json"),
    (mixtures, "check sampled.json"),
    (mixtures, f"convert mixture.json --to levanter -o {OUTPUT} --elsewhere --sequence-length 16 --batch-size 4"),
    (
        mixtures,
        f"convert mixture.json --to hf -o {OUTPUT} --data data/{{domain}}.jsonl --cache cache",
    ),
    (mixtures, f"import shares.json --from json -o {OUTPUT} --like mixture.json --token-budget 20k --max-epochs 9"),
    (mixtures, f"import tables/regmix.csv --from regmix -o {OUTPUT} --row 0"),
    (mixtures, f"plot mixture.json -o {OUTPUT}"),
    (mixtures, f"ladder run wide -o {OUTPUT}"),
    (mixtures, "diagnose run --token-budget 1B --unique-tokens vowels=1M"),
    (mixtures, f"report run -o {OUTPUT}"),
    (
        mixtures,
        f"fit tables/ratios.csv tables/metrics.csv --model ridge -o {OUTPUT} --objective loss_vowels=2",
    ),
)
# The share of cases that a target gets. Those that train take longest.
TARGETS: dict[str, tuple[Callable[[random.Random], Case], int]] = {
    "settings": (settings, 16),
    "comparison": (comparison, 5),
    "model": (model, 6),
    "flags": (flags, 18),
    "data": (data, 20),
    "mixture": (mixture, 14),
    "table": (table, 8),
    "tokenizer": (tokenizer, 6),
    "cache": (cache, 7),
    "record": (record, 14),
}


def make_case(seed: int, number: int, only: str = "") -> tuple[str, Case]:
    """Damage the input of a case, and return the target and the case. It follows from the two numbers alone."""
    draw = random.Random(f"{seed}-{number}")
    shares = [share for _, share in TARGETS.values()]
    drawn = draw.choices(list(TARGETS), shares)[0]
    target = only or drawn
    return target, TARGETS[target][0](draw)
