"""The study's settings with known headroom: text, base runs, swarms of mixtures. `prepare` writes one YAML of
proxies.compare for each.

    python benchmarks/estimator_settings.py [-o runs/estimators]

balanced (A, and with its targets D): the 11 domains of ../shared/corpora, judged by all alike or by Catalan and Dutch
Wikipedia. junk (B): nine real domains, words of stackexchange in random order, near-duplicates of 40 passages of
law_en, random records; judged by the nine. skew (C): seven domains with natural shares 50/20/10/10/5/3/2 of 400,000
tokens, a third of what a base run trains on. noise-LR: uniform beside natural, five seeds, at several learning rates.
twins: a run of proxies.train on six domains of the same text, whose weights should stay alike. proxy-NAME: one run
of proxies.train for every objective of the settings. search-NAME: one of proxies.search, and verify-NAME, the base
models that judge it.
A swarm has every domain's odds times 2.5 (slopes), then mixtures drawn from Dirichlet distributions, around uniform and
towards the corners in turn. SETTING-pushes has every domain's odds times and divided by 2.5, two seeds: the true slopes
of docs/measured/exact-effects.md. Texts are written below the output directory, never into the project.
"""

import argparse
import json
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from corruptions import cut, shuffle_words

HERE = Path(__file__).resolve().parent
CORPORA = HERE.parent.parent / "shared" / "corpora"
DOMAINS = (
    "wiki_en",
    "books_en",
    "code_py",
    "math_latex",
    "stackexchange",
    "gov_web",
    "law_en",
    "irc_noisy",
    "books_fr",
    "books_de",
)
DOMAINS += ("speeches_small",)
TARGETS = ("ood_ca_wiki", "ood_nl_wiki")
REAL = tuple(name for name in DOMAINS if name not in ("irc_noisy", "speeches_small"))
JUNK = ("shuffled_words", "near_duplicates", "random_records")
SKEW = {"wiki_en": 50, "books_fr": 20, "books_de": 10, "code_py": 10, "math_latex": 5, "law_en": 3, "stackexchange": 2}
SUPPLY = 400_000  # tokens of text in the setting skew
ODDS = 2.5  # of a pushed domain in a swarm
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 172,
}
MODEL |= {"tie_word_embeddings": True, "vocab_size": 1024, "max_position_embeddings": 1024, "use_cache": False}
BASE = {
    "steps": 800,
    "batch_rows": 12,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup_steps": 50,
    "evaluate_every": 800,
    "evaluate_rows": 64,
}
PROXY = {
    "steps": 400,
    "rows_per_domain": 4,
    "lr": 1e-3,
    "min_lr": 1e-4,
    "warmup_steps": 30,
    "evaluate_every": 400,
    "evaluate_rows": 64,
}
NOISE_RATES = (1e-3, 2e-3)


def main() -> None:
    """Write texts, mixtures and YAML files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=HERE.parent / "runs" / "estimators")
    folder = parser.parse_args().output.resolve()
    (folder / "text").mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps(MODEL))
    write_junk(folder / "text")
    for name in SETTINGS:
        write_swarm(folder, name)
        write_pushes(folder, name)
    for lr in NOISE_RATES:
        train = BASE | {"lr": lr, "min_lr": lr / 10}
        mixtures = {name: {"fixed": name} for name in ("uniform", "natural")}
        write_comparison(folder, f"noise-{lr:g}", "balanced", mixtures=mixtures, seeds=list(range(5)), train=train)
    write_twins(folder)
    write_proxies(folder)
    write_searches(folder)


def real(name: str) -> dict[str, Any]:
    """A domain of the corpora as a source."""
    return {
        "data_files": str(CORPORA / "train" / f"{name}.parquet"),
        "validation": str(CORPORA / "validation" / f"{name}.parquet"),
    }


def written(name: str, folder: Path) -> dict[str, Any]:
    """A domain of our own making as a source."""
    return {"data_files": str(folder / "text" / f"{name}.jsonl")}


def domains_of(setting: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Every training domain of a setting with its source."""
    if setting == "balanced":
        return {name: real(name) for name in DOMAINS}
    if setting == "junk":
        return {name: real(name) for name in REAL} | {name: written(name, folder) for name in JUNK}
    return {name: real(name) | {"max_tokens": SUPPLY * percent // 100} for name, percent in SKEW.items()}


SETTINGS: dict[str, dict[str, Any]] = {
    "balanced": {"objective": "universal", "targets": TARGETS},
    "junk": {"objective": dict.fromkeys(REAL, 1.0), "targets": ()},
    "skew": {"objective": "universal", "targets": ()},
}


def settings_of(folder: Path, setting: str) -> dict[str, Any]:
    """What every run of a setting shares: corpus, model, objective."""
    targets = {name: real(name) for name in SETTINGS[setting]["targets"]}
    return {
        "corpus": {
            "tokenizer": {"train_bpe": MODEL["vocab_size"]},
            "row_tokens": 128,
            "domains": domains_of(setting, folder),
            "targets": targets,
            "cache_dir": str(folder / "cache"),
        },
        "model": {"config": str(folder / "model.json")},
        "objective": SETTINGS[setting]["objective"],
    }


def write_comparison(
    folder: Path,
    name: str,
    setting: str,
    *,
    mixtures: dict[str, Any],
    seeds: list[int],
    train: dict[str, Any] | None = None,
    **more: Any,
) -> None:
    """FOLDER/NAME.yaml, a comparison in the directory of the same name."""
    content = settings_of(folder, setting) | {"run_dir": str(folder / name), "seeds": seeds, "train": train or BASE}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | {"mixtures": mixtures} | more, sort_keys=False))


def write_swarm(folder: Path, setting: str) -> None:
    """FOLDER/SETTING-swarm.csv (a mixture a line) and its comparison, one seed."""
    names = list(domains_of(setting, folder))
    mixtures = swarm(len(names), seed=0)
    table = folder / f"{setting}-swarm.csv"
    lines = [",".join(names), *(",".join(f"{share:.6f}" for share in mixture) for mixture in mixtures)]
    table.write_text("\n".join(lines) + "\n")
    contenders = {"uniform": {"fixed": "uniform"}} | {
        f"m{row:02d}": {"file": str(table), "row": row} for row in range(len(mixtures))
    }
    write_comparison(folder, f"{setting}-swarm", setting, mixtures=contenders, seeds=[0])


def write_pushes(folder: Path, setting: str) -> None:
    """FOLDER/SETTING-pushes.csv and its comparison, two seeds: uniform, then every domain's odds raised and lowered."""
    names = list(domains_of(setting, folder))
    uniform = np.full(len(names), 1 / len(names))
    table = folder / f"{setting}-pushes.csv"
    pushes = {
        f"{way}_{name}": pushed_mixture(uniform, number, factor)
        for number, name in enumerate(names)
        for way, factor in (("up", ODDS), ("down", 1 / ODDS))
    }
    lines = [",".join(names), *(",".join(f"{share:.6f}" for share in mixture) for mixture in pushes.values())]
    table.write_text("\n".join(lines) + "\n")
    contenders = {"uniform": {"fixed": "uniform"}} | {
        name: {"file": str(table), "row": row} for row, name in enumerate(pushes)
    }
    write_comparison(folder, f"{setting}-pushes", setting, mixtures=contenders, seeds=[0, 1])


def swarm(domains: int, *, seed: int) -> np.ndarray:
    """(K, D) mixtures, K at least 24: each domain pushed up, then 14 or more drawn at random."""
    uniform = np.full(domains, 1 / domains)
    pushed = [pushed_mixture(uniform, domain, ODDS) for domain in range(domains)]
    generator = np.random.default_rng(seed)
    concentrations = [3.0, 0.7] * max(7, (25 - domains) // 2)
    drawn = [generator.dirichlet(np.full(domains, concentration)) for concentration in concentrations]
    mixtures = np.array(pushed + [0.99 * mixture + 0.01 * uniform for mixture in drawn])
    return mixtures / mixtures.sum(axis=1, keepdims=True)


def pushed_mixture(mixture: np.ndarray, domain: int, factor: float) -> np.ndarray:
    """The mixture with one domain's odds multiplied by `factor`, the others in proportion."""
    odds = factor * mixture[domain] / (1 - mixture[domain])
    pushed = mixture * (1 - odds / (1 + odds)) / (1 - mixture[domain])
    pushed[domain] = odds / (1 + odds)
    return pushed


PROXIES: dict[str, tuple[str, dict[str, Any]]] = {  # {name: (setting, its update block)}
    "balanced": ("balanced", {"objective": "universal"}),
    "junk": ("junk", {"objective": dict.fromkeys(REAL, 1.0)}),
    "skew": ("skew", {"objective": "universal"}),
    "ca": ("balanced", {"objective": {"ood_ca_wiki": 1.0}}),
    "nl": ("balanced", {"objective": {"ood_nl_wiki": 1.0}}),
    "both": ("balanced", {"objective": dict.fromkeys(TARGETS, 1.0)}),
    "worst": ("balanced", {"objective": dict.fromkeys(TARGETS, 1.0), "aggregate": "worst"}),
}


def write_proxies(folder: Path) -> None:
    """FOLDER/proxy-NAME.yaml: what `stable` learns for each objective, as a run of proxies.train."""
    for name, (setting, update) in PROXIES.items():
        content = {key: value for key, value in settings_of(folder, setting).items() if key != "objective"}
        content |= {"run_dir": str(folder / f"proxy-{name}"), "train": PROXY, "update": {"preset": "stable"} | update}
        (folder / f"proxy-{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


SEARCHES = {"skew": (4, 0.05), "ca": (2, 0.1), "nl": (2, 0.1)}  # {name in PROXIES: rows per domain, first radius}


def write_searches(folder: Path) -> None:
    """FOLDER/search-NAME.yaml, a run of proxies.search, and verify-NAME.yaml: base models on what it found.

    adjoint: the mixture of its first step. search: the best that it measured.
    """
    for name, (rows, radius) in SEARCHES.items():
        setting, update = PROXIES[name]
        content = settings_of(folder, setting)
        train, search = PROXY | {"rows_per_domain": rows}, {"rounds": 3, "seeds": 2, "radius": radius}
        run = {key: value for key, value in content.items() if key != "objective"}
        run |= {
            "run_dir": str(folder / f"search-{name}"),
            "seed": 11,
            "train": train,
            "update": update,
            "search": search,
        }
        (folder / f"search-{name}.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
        mixtures: dict[str, Any] = {each: {"fixed": each} for each in ("uniform", "natural")}
        found = {"adjoint": "rounds/01/mixture.json", "search": "mixture.json"}
        mixtures |= {each: {"file": str(folder / f"search-{name}" / place)} for each, place in found.items()}
        objective = update["objective"]
        write_comparison(folder, f"verify-{name}", setting, mixtures=mixtures, seeds=[1, 2, 3], objective=objective)


def write_twins(folder: Path) -> None:
    """FOLDER/twins.yaml and its text: pieces of two real domains, dealt out to six."""
    dealt = [
        text
        for name in ("stackexchange", "wiki_en")
        for text in pieces(CORPORA / "train" / f"{name}.parquet", characters=900_000)
    ]
    names = [f"twin_{number}" for number in range(6)]
    for number, name in enumerate(names):
        write_jsonl(folder / "text" / f"{name}.jsonl", dealt[number::6])
    corpus = settings_of(folder, "balanced")["corpus"] | {
        "domains": {name: written(name, folder) for name in names},
        "targets": {},
    }
    run = {
        "run_dir": str(folder / "twins-0"),
        "corpus": corpus,
        "model": {"config": str(folder / "model.json")},
        "train": PROXY,
    }
    (folder / "twins.yaml").write_text(yaml.safe_dump(run, sort_keys=False))


def write_junk(folder: Path) -> None:
    """The three junk domains as JSON lines, about as long as a real domain each."""
    posts, laws = (
        pieces(CORPORA / "train" / f"{name}.parquet", characters=900_000) for name in ("stackexchange", "law_en")
    )
    write_jsonl(
        folder / "shuffled_words.jsonl", [shuffle_words(text, seed=number) for number, text in enumerate(posts)]
    )
    write_jsonl(folder / "near_duplicates.jsonl", near_duplicates(laws[:40], count=600, seed=0))
    write_jsonl(folder / "random_records.jsonl", random_records(count=700, seed=0))


def pieces(path: Path, *, characters: int) -> list[str]:
    """Documents of at most 1,600 characters from the beginning of a parquet file."""
    texts = [
        piece
        for text in pq.read_table(path, columns=["text"]).column("text").to_pylist()
        for piece in cut(text)
        if len(piece) > 300
    ]
    return [
        text for text, end in zip(texts, np.cumsum([len(text) for text in texts]), strict=True) if end <= characters
    ]


def near_duplicates(passages: list[str], *, count: int, seed: int) -> list[str]:
    """The passages over and over, in each copy one word in fifty replaced by another of the same passage."""
    generator = np.random.default_rng(seed)
    copies = []
    for number in range(count):
        words = passages[number % len(passages)].split(" ")
        for place in np.flatnonzero(generator.random(len(words)) < 0.02):
            words[place] = words[generator.integers(len(words))]
        copies.append(" ".join(words))
    return copies


def random_records(*, count: int, seed: int) -> list[str]:
    """Documents of 20 lines of random hexadecimal digits and letters: nothing to learn but the alphabet."""
    generator = np.random.default_rng(seed)
    alphabet = np.array(list(string.ascii_letters + string.digits + "+/"))
    return ["\n".join("".join(generator.choice(alphabet, size=48)) for _ in range(20)) for _ in range(count)]


def write_jsonl(path: Path, texts: list[str]) -> None:
    """One {"text": ...} a line."""
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
