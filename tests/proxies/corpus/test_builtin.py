"""Builtin texts: there on any machine, the same at every call, bounded, and not overlapping."""

import importlib.util

import pytest

from mixtures.errors import UserError
from proxies.corpus import builtin
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import documents

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh():
    """Each test finds its texts anew (the small ones) or shares them (the whole set)."""
    yield
    builtin.texts.cache_clear()


def test_every_builtin_is_there_bounded_and_the_same_again() -> None:
    for name in builtin.BUILTINS:
        found = builtin.texts(name)
        size = sum(len(text.encode()) for _, text in found)
        assert 300_000 < size <= builtin.DOMAIN_BYTES, name
        assert len(found) >= 100, name  # enough for a held-out share
        for _, text in found:
            assert len(text) <= builtin.DOCUMENT_CHARACTERS or text.count("\n") <= 1, name
        assert len({place for place, _ in found}) == len(found), name
        assert all(text.strip() for _, text in found), name
    before = {name: builtin.fingerprint(name) for name in ("noise_records", "generated_ops", "legal")}
    builtin.texts.cache_clear()
    assert before == {name: builtin.fingerprint(name) for name in before}


def test_headers_and_generated_code_do_not_overlap() -> None:
    written, generated = (
        {place.rsplit(":", 1)[0] for place, _ in builtin.texts(name)} for name in ("cpp_headers", "generated_ops")
    )
    assert not written & generated
    assert not any("@generated" in text for _, text in builtin.texts("cpp_headers"))
    assert all("/ATen/ops/" in place for place in generated)


def test_noise_is_the_same_on_every_machine() -> None:
    assert builtin.fingerprint("noise_records") == NOISE


NOISE = "sha256:aac4133c7f54fdc4a8e757f990bba33d0109903155cdd9b84043e73f6b77f0a7"


def test_licences_are_there_once() -> None:
    found = list(builtin.legal())
    assert len({" ".join(text.casefold().split()) for _, text in found}) == len(found)


def test_pieces_join_to_the_whole_and_are_cut_at_lines() -> None:
    text = "".join(f"line {number}\n" for number in range(5000))
    pieces = list(builtin._cut(text))
    assert "".join(piece for _, piece in pieces) == text
    assert all(
        piece.startswith(f"line {first - 1}\n") and len(piece) <= builtin.DOCUMENT_CHARACTERS for first, piece in pieces
    )


def test_a_missing_package_leaves_a_domain_empty_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    builtin.texts.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **_: [])
    assert builtin.texts("docstrings") == ()
    for name in ("cpp_headers", "generated_ops", "docstrings", "legal"):
        with pytest.raises(UserError, match=f"builtin:{name} holds no documents"):
            list(documents(SourceSettings(builtin=name)))
    assert list(documents(SourceSettings(builtin="noise_records")))


def test_documents_lead_back_to_the_file_and_line() -> None:
    place = next(documents(SourceSettings(builtin="python"))).id
    assert place.startswith("builtin:python3.")
    assert place.rsplit(":", 1)[1].isdigit()
