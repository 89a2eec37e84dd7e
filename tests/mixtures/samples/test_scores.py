"""Scores on disk: what is there is read as it was written, what is not is refused with the command to make it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mixtures.errors import UserError
from mixtures.samples.scores import (
    ScoredDomain,
    ScoresMeta,
    part_path,
    read_scores,
    table_schema,
    write_meta,
    write_part,
)

NAMES = ("self_influence_all", "nll_mean")


def write(run: Path, *, complete: bool = True, parts: tuple[int, int] = (2, 1)) -> ScoresMeta:
    """Scores of two domains, three documents a part; a score is the number of its document in all."""
    entry = {"fingerprint": None, "documents": 9, "tokens": 90}
    domains = {
        name: ScoredDomain(
            **entry, scored_documents=3 * count, scored_tokens=30 * count, samples=3 * count, parts=count
        )
        for name, count in zip(("wiki", "web"), parts, strict=True)
    }
    meta = ScoresMeta(
        unit="document",
        scores=NAMES,
        checkpoints=(),
        max_rows=None,
        row_tokens=8,
        tokenizer="t",
        domains=domains,
        complete=complete,
    )
    names = [name for name, count in zip(("wiki", "web"), parts, strict=True) for _ in range(count)]
    for number, name in enumerate(names):
        place = np.arange(3 * number, 3 * number + 3)
        arrays = [
            [name] * 3,
            [f"{name}:{line}" for line in place],
            [None] * 3,
            10 * place,
            [10] * 3,
            place.astype(float),
            place / 10,
        ]
        write_part(run, number, pa.table(arrays, schema=table_schema(NAMES)))
    write_meta(run, meta)
    return meta


def refused(run: Path) -> str:
    with pytest.raises(UserError) as error:
        read_scores(run).frame("wiki")
    assert "proxies.score" in str(error.value)
    return str(error.value)


def test_a_domains_frame_is_its_parts_in_order(tmp_path: Path) -> None:
    write(tmp_path)
    scores = read_scores(tmp_path)
    assert (scores.domains, scores.columns) == (("wiki", "web"), NAMES)
    wiki = scores.frame("wiki")
    assert list(wiki.columns) == ["domain", "document", "row", "start", "tokens", *NAMES]
    assert wiki["start"].tolist() == [0, 10, 20, 30, 40, 50]
    assert wiki["row"].isna().all()
    assert scores.frame("web", ["nll_mean"])["nll_mean"].tolist() == [0.6, 0.7, 0.8]


def test_a_domain_without_samples_has_an_empty_frame(tmp_path: Path) -> None:
    write(tmp_path, parts=(2, 0))
    assert read_scores(tmp_path).frame("web").empty


def test_a_run_without_scores_says_how_to_make_them(tmp_path: Path) -> None:
    assert f"{tmp_path} has no sample scores" in refused(tmp_path)


def test_scores_that_are_not_complete_are_refused(tmp_path: Path) -> None:
    write(tmp_path, complete=False)
    assert "not complete (3 of 3 parts)" in refused(tmp_path)
    write(tmp_path)
    part_path(tmp_path, 1).unlink()
    assert "not complete (2 of 3 parts)" in refused(tmp_path)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    path = part_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-20])
    assert f"{path} cannot be read: it is torn or damaged" in refused(tmp_path)


def test_parts_of_other_scores_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    part_path(tmp_path, 1).write_bytes(part_path(tmp_path, 2).read_bytes())
    assert "does not hold the 6 samples of wiki" in refused(tmp_path)


def test_damaged_and_unknown_meta_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "scores" / "meta.json"
    good = path.read_text()
    path.write_text(good.replace('"unit": "document"', '"unit": "word"'))
    assert "unit" in refused(tmp_path)
    path.write_text(good.replace('"format": 1', '"format": 7'))
    assert "has format 7; known: 1" in refused(tmp_path)
    path.write_text(good[:-40])
    with pytest.raises(UserError, match="not complete JSON"):
        read_scores(tmp_path)


def test_an_unknown_domain_lists_those_there_are(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(UserError, match=r"no domain 'books'; it has wiki, web"):
        read_scores(tmp_path).frame("books")
