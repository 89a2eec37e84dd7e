"""Five corruptions of real text, and training text in which a known share of the documents has one of them.

All functions from text to text are pure; the same seed gives the same text. A corrupted document is about as long as it
was, so that its length does not give it away.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

CORRUPTIONS = ("word_shuffle", "character_noise", "other_domain", "boilerplate", "broken_encoding")
CLEAN = "clean"  # the label of a document that was left as it is
LONGEST, SHORTEST = 1_600, 300  # of a document (characters): longer ones are cut, shorter ones left out
CHARACTERS = 800_000  # of a domain at most
DONORS = 20  # documents of a domain that only give their text to corruptions
PASSAGE = 100  # of a boilerplate (characters)
PASSAGES = 4  # boilerplates of a domain
SHARE = 0.2  # of a domain's documents that are corrupted


def shuffle_words(text: str, *, seed: int) -> str:
    """The same words in a random order, white space and line ends where they were."""
    parts = re.split(r"(\s+)", text)
    words = np.random.default_rng(seed).permutation(np.array(parts[::2], dtype=object))
    parts[::2] = words.tolist()
    return "".join(parts)


def character_noise(text: str, *, seed: int, share: float = 0.1) -> str:
    """A share of the characters replaced by a random letter, left out, doubled by one, or swapped with the next."""
    generator = np.random.default_rng(seed)
    letters = generator.choice(list(ascii_lowercase), size=len(text))
    kinds = np.where(generator.random(len(text)) < share, generator.integers(1, 5, size=len(text)), 0)
    noisy: list[str] = []
    for character, letter, kind in zip(text, letters, kinds, strict=True):
        if kind == 4 and noisy:
            noisy.insert(-1, character)
        else:
            noisy += (character, letter, "", character + letter, character)[kind]
    return "".join(noisy)


def mix_in(text: str, stranger: str, *, seed: int) -> str:
    """Half of the text, its beginning or its end, replaced by the beginning of a stranger."""
    half = len(text) // 2
    foreign = stranger[:half]
    return foreign + text[half:] if np.random.default_rng(seed).random() < 0.5 else text[: len(text) - half] + foreign


def repeat_boilerplate(text: str, passage: str) -> str:
    """The passage after every piece of the text that is as long as it, to the length of the text: half of it is
    boilerplate.
    """
    size = len(passage)
    pieces = [text[start : start + size] + passage for start in range(0, len(text) // 2 + size, size)]
    return "".join(pieces)[: len(text)]


def break_encoding(text: str, *, seed: int, every: int = 40, longest: int = 6) -> str:
    """UTF-8 read as Latin-1 and written as UTF-8 again; then runs of bytes cut out, and what is no character any more
    replaced.

    A cut comes about every so many bytes, up to `longest` bytes are lost, and half a character (U+FFFD once it is read)
    marks the place.
    """
    generator = np.random.default_rng(seed)
    data = text.encode().decode("latin-1").encode()
    broken, place = b"", 0
    while place < len(data):
        size = int(generator.geometric(1 / every))
        broken += data[place : place + size] + b"\xe2"
        place += size + int(generator.integers(1, longest + 1))
    return broken.decode(errors="replace")


def corrupt(name: str, text: str, *, stranger: str, passage: str, seed: int) -> str:
    """The text with one of CORRUPTIONS. `stranger`: text of another domain; `passage`: a boilerplate of this one."""
    if name == "word_shuffle":
        return shuffle_words(text, seed=seed)
    if name == "character_noise":
        return character_noise(text, seed=seed)
    if name == "other_domain":
        return mix_in(text, stranger, seed=seed)
    if name == "boilerplate":
        return repeat_boilerplate(text, passage)
    if name == "broken_encoding":
        return break_encoding(text, seed=seed)
    raise ValueError(f"corruption {name!r} is unknown; allowed: {', '.join(CORRUPTIONS)}")


def cut(text: str, *, longest: int = LONGEST) -> Iterator[str]:
    """The text in pieces of at most so many characters, cut between paragraphs, lines or words where there are any."""
    while len(text) > longest:
        ends = (text.rfind(separator, longest // 2, longest) for separator in ("\n\n", "\n", " "))
        end = next((end for end in ends if end > 0), longest)
        yield text[:end].strip()
        text = text[end:].strip()
    yield text


def read_documents(path: Path) -> tuple[list[str], list[str]]:
    """(documents, donors) of a domain's parquet file: pieces drawn with seed 0, the documents in the order of the
    file.
    """
    texts = pq.read_table(path, columns=["text"]).column("text").to_pylist()
    pieces = [piece for text in texts for piece in cut(text) if len(piece) >= SHORTEST]
    order = np.random.default_rng(0).permutation(len(pieces)).tolist()
    donors = [number for number in order if len(pieces[number]) >= LONGEST // 2][:DONORS]
    rest = [number for number in order if number not in set(donors)]
    kept = np.cumsum([len(pieces[number]) for number in rest]) <= CHARACTERS
    return [pieces[number] for number in sorted(np.array(rest)[kept].tolist())], [pieces[number] for number in donors]


def plant(
    documents: Sequence[str], *, passages: Sequence[str], strangers: Sequence[str], seed: int
) -> tuple[list[str], list[str]]:
    """(texts, labels): SHARE of the documents, drawn at random, corrupted, each corruption as often as the others."""
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(documents))[: round(SHARE * len(documents))]
    texts, labels = list(documents), [CLEAN] * len(documents)
    for turn, number in enumerate(chosen.tolist()):
        labels[number] = CORRUPTIONS[turn % len(CORRUPTIONS)]
        stranger, passage = strangers[generator.integers(len(strangers))], passages[generator.integers(len(passages))]
        own = int(generator.integers(2**32))
        texts[number] = corrupt(labels[number], texts[number], stranger=stranger, passage=passage, seed=own)
    return texts, labels


def write_texts(sources: dict[str, Path], folder: Path, *, seeds: Sequence[int]) -> None:
    """FOLDER/clean/DOMAIN.jsonl, and FOLDER/corrupted-SEED/DOMAIN.jsonl with labels.parquet (domain, line from 1,
    corruption) beside.
    """
    found = {name: read_documents(path) for name, path in sources.items()}
    for name, (documents, _) in found.items():
        _write_jsonl(folder / "clean" / f"{name}.jsonl", documents)
    for seed in seeds:
        frames = []
        for place, (name, (documents, donors)) in enumerate(found.items()):
            strangers = [text for other, (_, texts) in found.items() if other != name for text in texts]
            passages = [donor[:PASSAGE] for donor in donors[:PASSAGES]]
            texts, labels = plant(documents, passages=passages, strangers=strangers, seed=1_000 * seed + place)
            _write_jsonl(folder / f"corrupted-{seed}" / f"{name}.jsonl", texts)
            frames.append(pd.DataFrame({"domain": name, "line": np.arange(1, len(texts) + 1), "corruption": labels}))
        pd.concat(frames).to_parquet(folder / f"corrupted-{seed}" / "labels.parquet", index=False)


def _write_jsonl(path: Path, texts: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
