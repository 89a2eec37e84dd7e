"""Good inputs, made once and copied for every case: text, settings, a finished run, a comparison, mixtures, tables."""

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mixtures.__main__ import main as mixtures
from proxies import compare, score, train
from proxies.corpus.tokenizer import train_bpe
from tests.proxies.helpers import ALPHABETS, MODEL, write_domain

DOMAINS = ("vowels", "consonants", "digits")
SHARES = {"vowels": 0.5, "consonants": 0.3, "digits": 0.2}


def write_base(folder: Path) -> None:
    """Write all inputs into the empty directory `folder`. The commands that make them must succeed."""
    data = folder / "data"
    data.mkdir()
    for name in (*DOMAINS, "mixed"):
        write_domain(data / f"{name}.jsonl", ALPHABETS[name])
        write_domain(data / f"{name}_validation.jsonl", ALPHABETS[name], documents=5, seed=1)
    _write_settings(folder)
    assert train.main([str(folder / "run.yaml")]) == 0
    wide = ["--run_dir", str(folder / "wide"), "--model.config", str(folder / "wide.json")]
    assert train.main([str(folder / "run.yaml"), *wide]) == 0
    assert score.main([str(folder / "run"), "--max-rows", "8"]) == 0
    assert compare.main([str(folder / "compare.yaml")]) == 0
    run, mixture, sampled = (str(folder / name) for name in ("run", "mixture.json", "sampled.json"))
    assert mixtures(["export", run, "-o", mixture, "--stages", "2", "--token-budget", "200k"]) == 0
    assert mixtures(["export", run, "-o", sampled, "--samples", "softmax"]) == 0
    _write_tables(folder / "tables")


def _write_settings(folder: Path) -> None:
    """run.yaml with domains and a target, compare.yaml, text.yaml (to prepare only), model.json, tokenizer.json."""
    sources = {name: {"data_files": f"data/{name}.jsonl"} for name in (*DOMAINS, "mixed")}
    corpus = {
        "tokenizer": {"bytes": True},
        "row_tokens": 16,
        "held_out": 0.3,
        "domains": {name: sources[name] for name in DOMAINS},
    }
    loop = {"lr": 0.01, "min_lr": 0.001, "warmup_steps": 1, "evaluate_every": 2, "evaluate_rows": 2}
    model = {"config": "model.json"}
    train_loop = {"steps": 4, "rows_per_domain": 2, "save_every": 2, **loop}
    run = {
        "run_dir": "run",
        "seed": 3,
        "corpus": {**corpus, "targets": {"mixed": sources["mixed"]}},
        "model": model,
        "train": train_loop,
        "update": {"preset": "stable", "objective": "auto"},
    }
    comparison = {
        "run_dir": "comparison",
        "seeds": [0, 1],
        "corpus": corpus,
        "model": model,
        "train": {"steps": 2, "batch_rows": 4, **loop},
        "mixtures": {"uniform": {"fixed": "uniform"}, "natural": {"fixed": "natural"}, "kept": {"file": "shares.json"}},
    }
    text = {**run, "corpus": {**corpus, "tokenizer": {"file": "tokenizer.json"}}}
    for name, settings in {"run": run, "compare": comparison, "text": text}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / "model.json").write_text(json.dumps(MODEL))
    (folder / "wide.json").write_text(json.dumps({**MODEL, "hidden_size": 32}))
    (folder / "shares.json").write_text(json.dumps(SHARES))
    texts = [json.loads(line)["text"] for line in (folder / "data" / "mixed.jsonl").read_text().splitlines()]
    train_bpe(texts, 300).save(folder / "tokenizer.json")


def _write_tables(folder: Path) -> None:
    """A swarm's two tables for `fit`, and for `import` one file of every program, named after its format."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    shares = draw.dirichlet(np.full(len(DOMAINS), 2.0), 24)
    losses = 3 + np.exp(-4 * shares) + 0.001 * draw.normal(size=shares.shape)
    index = pd.Index(range(len(shares)), name="index")
    pd.DataFrame(shares, index, DOMAINS).to_csv(folder / "ratios.csv")
    pd.DataFrame(losses, index, [f"loss_{name}" for name in DOMAINS]).to_csv(folder / "metrics.csv")
    prefixed = {f"train_{name}": share for name, share in SHARES.items()}
    (folder / "doremi.json").write_text(json.dumps({"train_domain_weights": SHARES, "eval_domain_weights": SHARES}))
    pd.DataFrame([prefixed]).to_csv(folder / "regmix.csv", index_label="index")
    (folder / "olmix.json").write_text(json.dumps([{"domain": name, "weight": x} for name, x in SHARES.items()]))
    (folder / "megatron.txt").write_text(" ".join(f"{share} {name}" for name, share in SHARES.items()))
    (folder / "levanter.yaml").write_text(yaml.safe_dump({"data": {"train_weights": [[0, SHARES]]}}))
    (folder / "hf.json").write_text(json.dumps({"datasets": list(SHARES), "probabilities": list(SHARES.values())}))
    (folder / "json.json").write_text(json.dumps(SHARES))


def documents(draw: random.Random) -> list[str]:
    """Texts of many scripts, short and long, with what file formats have to escape."""
    alphabets = ("aeiou ", "bcdfgh,\n ", '0123\t" ', "äßé€ ", "漢字かな ", "😀👩‍👧 ", "\\'\u2028\u0085 ", "{}[]:\r\n ")
    texts = ["".join(draw.choices(draw.choice(alphabets), k=draw.choice((20, 60, 200)))) for _ in range(30)]
    return [*texts, "x" * 5000, " spaces ", "the same text twice", "the same text twice"]
