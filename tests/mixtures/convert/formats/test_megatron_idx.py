"""Index files and sample policies of the format `megatron`: which tokens a document is, and which documents a view
has.
"""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.convert.formats.megatron.idx import HEADER, Index, read_index
from mixtures.errors import UserError
from tests.mixtures.convert.formats.megatron_helpers import (
    converted,
    make_index,
    notes,
    read_documents,
    write_data,
    write_toys,
)
from tests.trainers.support import toy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toys(tmp_path_factory.mktemp("data"))


@pytest.mark.slow
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.data())
def test_taking_documents_is_taking_their_tokens(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], draw: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("take")
    inner = draw.draw(st.lists(st.integers(0, len(lengths)), max_size=4))
    borders = sorted([0, *inner, len(lengths)])
    np.arange(sum(lengths), dtype="<u2").tofile(folder / "all.bin")
    make_index(lengths, borders=borders).write(folder / "all.idx")
    chosen = draw.draw(st.lists(st.integers(0, len(borders) - 2), max_size=8))
    read_index(str(folder / "all")).take(np.array(chosen, dtype=np.int64)).write(folder / "some.idx")
    os.link(folder / "all.bin", folder / "some.bin")
    documents = read_documents(str(folder / "all"))
    assert [*itertools.chain(*documents)] == list(range(sum(lengths)))
    assert read_documents(str(folder / "some")) == [documents[number] for number in chosen]


def test_an_index_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    index = make_index([3, 0, 5], borders=[0, 2, 3])
    with_modes = Index(index.code, index.lengths, index.first_bytes, index.borders, np.array([0, 1, 0], dtype=np.int8))
    (tmp_path / "a.bin").write_bytes(bytes(16))
    for one in (index, with_modes):
        one.write(tmp_path / "a.idx")
        found = read_index(str(tmp_path / "a"))
        assert found.document_tokens.tolist() == [3, 5]
        assert (found.modes is None) == (one.modes is None)
        assert [found.lengths.tolist(), found.first_bytes.tolist(), found.borders.tolist()] == [
            [3, 0, 5],
            [0, 6, 6],
            [0, 2, 3],
        ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: b"no index", "is no index of Megatron's"),
        (lambda raw: raw[:-1], "it is torn"),
        (lambda raw: raw + bytes(9), "it is torn"),
        (lambda raw: HEADER.pack(b"MMIDIDX\x00\x00", 2, 8, 2, 3) + raw[HEADER.size :], "version 2"),
        (lambda raw: HEADER.pack(b"MMIDIDX\x00\x00", 1, 5, 2, 3) + raw[HEADER.size :], "do not belong together"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, damage: Any, message: str) -> None:
    write_data(tmp_path, "a", [np.arange(4), np.arange(3)])
    (tmp_path / "a.idx").write_bytes(damage((tmp_path / "a.idx").read_bytes()))
    with pytest.raises(UserError, match=message):
        read_index(str(tmp_path / "a"))


# sample policies


def other_tokenizer(name: str) -> list[np.ndarray]:
    """The documents, each a third longer."""
    return [np.append(document, document[: len(document) // 3]) for document in toy.documents(name)]


@pytest.mark.slow
def test_documents_under_another_tokenizer_are_found_by_their_rows(tmp_path: Path, data: Path) -> None:
    longer = write_data(tmp_path, "longer", other_tokenizer("web"))
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"web": "filter"})
    out = converted(mixture, data, own={"web": longer})
    kept = [document.tolist() for number, document in enumerate(other_tokenizer("web")) if number % 4]
    assert read_documents(str(out / "views" / "1-only" / "web")) == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda documents: documents[::-1], "are not as long as those"),
        (lambda documents: documents[:1000], r"lists row 7,999 of web\.jsonl, .* has 1,000 documents"),
    ],
)
def test_documents_that_are_not_those_of_the_policy_are_refused(
    tmp_path: Path, data: Path, change: Any, message: str
) -> None:
    changed = write_data(tmp_path, "changed", change(other_tokenizer("web")))
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"web": "filter"})
    with pytest.raises(UserError, match=message):
        converted(mixture, data, own={"web": changed})


@pytest.mark.slow
def test_one_policy_over_two_prefixes_is_refused_unless_tokens_are_its_own(tmp_path: Path, data: Path) -> None:
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"web": "multiplicity"})
    for documents, found in ((other_tokenizer("web"), False), (toy.documents("web"), True)):
        halves = [
            write_data(tmp_path, f"half-{found}-{n}", part)
            for n, part in enumerate((documents[:4001], documents[4001:]))
        ]
        own = {"web": halves}
        if found:
            out = converted(mixture, data, own=own)
            both = [read_documents(str(out / "views" / "1-only" / f"web@{n}")) for n in (1, 2)]
            assert [*itertools.chain(*both)] == [document.tolist() for document in toy.kept("web", "multiplicity")]
        else:
            with pytest.raises(UserError, match="a prefix for each file"):
                converted(mixture, data, own=own)


def test_a_policy_far_from_the_data_is_refused(tmp_path: Path) -> None:
    mixture = toy.make_mixture(tmp_path, {"only": toy.WANTED}, policies={"web": "filter"})
    with pytest.raises(UserError, match="sample policies of web become"):
        converted(mixture, Path("/far"), elsewhere=True)
    assert "left out (--samples drop)" in notes(converted(mixture, Path("/far"), elsewhere=True, samples="drop"))
