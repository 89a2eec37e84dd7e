"""Manifests: what is written is read, and what is not the one that was written is refused."""

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.schedule.manifest import (
    Manifest,
    open_manifest,
    read_manifest,
    require_replaceable,
    samples_directory,
    store_manifest,
    write_manifest,
)
from mixtures.schedule.records import Domain, SamplePolicy


def manifest(mode: str = "sampling_weight", **changes: Any) -> Manifest:
    weight = [0.5, 1.25, 2.0] if mode == "sampling_weight" else [0, 1, 1] if mode == "filter" else [0, 3, 1]
    known: dict[str, Any] = {
        "domain": "wiki",
        "fingerprint": "sha256:text",
        "domain_tokens": 100,
        "mode": mode,
        "documents": ["a:1", "a:2", "a:7"],
        "start": np.array([0, 10, 50]),
        "tokens": np.array([10, 20, 30]),
        "weight": np.array(weight, dtype=np.float64),
        "facts": {"rule": {"rule": "softmax"}},
    }
    return Manifest(**known | changes)


def domain(
    found: str | None,
    *,
    uri: str | None = "mixture.samples/wiki.parquet",
    mode: Any = "sampling_weight",
    **changes: Any,
) -> Domain:
    policy = SamplePolicy(mode=mode, manifest_uri=uri, manifest_sha256=found)
    return Domain(
        **{"name": "wiki", "unique_tokens": 100, "fingerprint": "sha256:text", "sample_policy": policy, **changes}
    )


@pytest.mark.parametrize("mode", ["filter", "multiplicity", "sampling_weight"])
def test_a_manifest_is_the_same_after_writing_and_reading(tmp_path: Path, mode: str) -> None:
    written = manifest(mode)
    found = write_manifest(tmp_path / "wiki.parquet", written)
    read = read_manifest(tmp_path / "wiki.parquet")
    for name in ("domain", "fingerprint", "domain_tokens", "mode", "documents", "facts"):
        assert getattr(read, name) == getattr(written, name)
    for name in ("start", "tokens", "weight"):
        assert (getattr(read, name) == getattr(written, name)).all()
    assert read.weight.dtype == np.float64
    assert found == "sha256:" + hashlib.sha256((tmp_path / "wiki.parquet").read_bytes()).hexdigest()
    assert write_manifest(tmp_path / "again.parquet", read) == found


def test_other_programs_find_the_columns_that_are_promised(tmp_path: Path) -> None:
    for mode, column in (("filter", "multiplicity"), ("multiplicity", "multiplicity"), ("sampling_weight", "weight")):
        write_manifest(tmp_path / "m.parquet", manifest(mode))
        table = pq.read_table(tmp_path / "m.parquet")
        assert table.column_names == ["document", "start", "tokens", column]
        assert table[column].type == (pa.float64() if column == "weight" else pa.int64())


def test_a_pass_has_listed_documents_as_often_as_stated_and_others_once() -> None:
    assert manifest("filter").pass_tokens == 90
    assert manifest("multiplicity").pass_tokens == 100 - 10 + 2 * 20
    assert manifest("sampling_weight").pass_tokens == 100
    assert manifest("filter").kept_documents(12) == 11
    assert manifest("filter").kept_documents(None) is None
    assert manifest("filter").effective_sample_size == pytest.approx(0.9)


def test_a_manifest_may_list_nothing(tmp_path: Path) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    write_manifest(tmp_path / "m.parquet", manifest(documents=[], start=nothing, tokens=nothing, weight=np.zeros(0)))
    read = read_manifest(tmp_path / "m.parquet")
    assert (len(read.documents), read.pass_tokens, read.effective_sample_size) == (0, 100, 1)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(0, 9),
)
def test_a_pass_counted_token_by_token(spans: list[tuple[int, int, int]], rest: int) -> None:
    times: list[int] = []
    start = []
    for gap, tokens, count in spans:
        times += [1] * gap
        start.append(len(times))
        times += [count] * tokens
    times += [1] * rest
    sizes, counts = np.array([tokens for _, tokens, _ in spans]), np.array([float(count) for *_, count in spans])
    made = manifest(
        "multiplicity",
        documents=["d"] * len(spans),
        start=np.array(start),
        tokens=sizes,
        weight=counts,
        domain_tokens=len(times),
    )
    assert made.pass_tokens == sum(times)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        (
            {"start": np.array([0, 9, 50])},
            r"a:2 of wiki overlaps the one before it, or is out of order \(tokens 9 to 29 of 100",
        ),
        ({"start": np.array([50, 0, 20])}, "out of order"),
        ({"start": np.array([0, 10, 80])}, "a:7 of wiki does not lie in the domain"),
        ({"start": np.array([-1, 10, 50])}, "a:1 of wiki does not lie in the domain"),
        ({"tokens": np.array([10, 0, 30])}, "a:2 of wiki has no tokens"),
        ({"weight": np.array([1, np.nan, 1])}, "a:2 of wiki has a weight that is not finite and at least 0"),
        ({"weight": np.array([1, -1.0, 1])}, "a:2 of wiki has a weight that is not finite"),
        (
            {"mode": "multiplicity", "weight": np.array([1, 0.5, 1])},
            "a:2 of wiki has a multiplicity that is not a whole number",
        ),
        ({"mode": "filter", "weight": np.array([1, 2.0, 1])}, "a:2 of wiki has a multiplicity that is not 0 or 1"),
        ({"mode": "some"}, "mode 'some'; known: filter, multiplicity"),
        ({"documents": ["a"]}, "columns have different lengths"),
    ],
)
def test_what_is_no_manifest_is_not_written(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=found):
        write_manifest(tmp_path / "m.parquet", manifest(**changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cut", "found"), [(slice(0, 200), "cannot be read: it is torn or damaged"), (slice(0, 0), "cannot be read")]
)
def test_a_torn_manifest_is_refused(tmp_path: Path, cut: slice, found: str) -> None:
    write_manifest(tmp_path / "m.parquet", manifest())
    (tmp_path / "m.parquet").write_bytes((tmp_path / "m.parquet").read_bytes()[cut])
    with pytest.raises(UserError, match=f"{found}.*restore it from a copy, or export the mixture again"):
        read_manifest(tmp_path / "m.parquet")


def test_another_parquet_file_is_no_manifest(tmp_path: Path) -> None:
    pq.write_table(pa.table({"document": ["a"], "weight": [1.0]}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="is not a manifest"):
        read_manifest(tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"none.parquet is not there; keep it beside its mixture.json"):
        read_manifest(tmp_path / "none.parquet")


def test_the_manifest_of_a_domain_is_opened_beside_its_mixture(tmp_path: Path) -> None:
    found = write_manifest(tmp_path / "mixture.samples" / "wiki.parquet", manifest())
    opened = open_manifest(domain(found), tmp_path)
    assert opened is not None
    assert opened.weight.tolist() == [0.5, 1.25, 2.0]
    assert open_manifest(domain(found, mode="none"), None) is None
    assert open_manifest(domain(found, sample_policy=None), None) is None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"found": "sha256:" + "0" * 64}, r"the mixture was written with sha256:0+: the file was replaced or damaged"),
        ({"unique_tokens": 101}, "it is for a text of 100 tokens, the mixture's has 101"),
        ({"fingerprint": "sha256:other"}, "it is for the text sha256:text, the mixture's is sha256:other"),
        ({"name": "forum"}, "it lists documents of wiki"),
        ({"mode": "filter"}, "it is for mode sampling_weight, the mixture says filter"),
        ({"uri": None}, "names no manifest"),
        ({"uri": "other.parquet"}, "other.parquet is not there"),
    ],
)
def test_a_manifest_that_is_not_the_domains_is_refused(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    digest = write_manifest(tmp_path / "mixture.samples" / "wiki.parquet", manifest())
    with pytest.raises(UserError, match=found):
        open_manifest(domain(**{"found": digest, **changes}), tmp_path)


def test_a_mixture_that_never_was_in_a_file_says_so() -> None:
    with pytest.raises(
        UserError,
        match="this mixture was never in a file; save it beside its manifests, or load it from the file beside them",
    ):
        open_manifest(domain(None), None)


def test_no_manifest_takes_the_place_of_another(tmp_path: Path) -> None:
    one, digest = store_manifest(tmp_path, manifest())
    other, _ = store_manifest(tmp_path, manifest(weight=np.ones(3)))
    assert one != other
    assert one.name == f"wiki-{digest[7:23]}.parquet"
    assert read_manifest(one).weight.tolist() == [0.5, 1.25, 2.0]


def test_a_full_disk_leaves_no_manifest_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), samples_directory(tmp_path / "mixture.json") as directory:
        store_manifest(directory, manifest())
    assert not list(tmp_path.iterdir())


def test_only_manifests_that_the_file_names_stay(tmp_path: Path) -> None:
    with samples_directory(tmp_path / "mixture.json") as directory:
        kept, _ = store_manifest(directory, manifest())
        store_manifest(directory, manifest(weight=np.ones(3)))
        (directory / "notes.parquet").write_bytes(b"somebody's")
        text = '{"domains": [{"sample_policy": {"manifest_uri": "mixture.samples/%s"}}, {"sample_policy": null}, {}]}'
        (tmp_path / "mixture.json").write_text(text % kept.name)
    assert sorted(path.name for path in directory.iterdir()) == ["notes.parquet", kept.name]


def exported(output: Path, weight: float | None) -> Path | None:
    """The manifest of a mixture that is written into `output`; a mixture without sample weights for None."""
    with samples_directory(output) as directory:
        path = None
        if weight is not None:
            path, _ = store_manifest(directory, manifest(weight=np.full(3, weight)))
        uri = "null" if path is None else f'{{"manifest_uri": "{directory.name}/{path.name}"}}'
        output.write_text(f'{{"domains": [{{"sample_policy": {uri}}}], "stages": []}}')
    return path


def test_the_next_export_deletes_what_the_old_file_named(tmp_path: Path) -> None:
    first = exported(tmp_path / "mixture.json", 0.5)
    second = exported(tmp_path / "mixture.json", 0.7)
    assert first is not None
    assert second is not None
    assert not first.exists()
    assert second.exists()
    exported(tmp_path / "mixture.json", None)
    assert not (tmp_path / "mixture.samples").exists()


def test_a_copy_of_a_mixture_keeps_its_manifests(tmp_path: Path) -> None:
    first = exported(tmp_path / "mixture.json", 0.5)
    shutil.copy(tmp_path / "mixture.json", tmp_path / "kept_for_the_run_in_progress.json")
    exported(tmp_path / "mixture.json", 0.7)
    assert first is not None
    assert first.exists()


def test_an_export_deletes_nothing_that_it_did_not_write(tmp_path: Path) -> None:
    one = exported(tmp_path / "w.json", 0.5)
    mine = tmp_path / "w.samples" / "mine-0123456789abcdef.parquet"  # of the user's, named like a manifest
    mine.write_bytes(b"somebody's")
    exported(tmp_path / "w", 0.6)  # another output, same directory w.samples
    assert one is not None
    assert one.exists()
    exported(tmp_path / "w", None)
    assert one.exists()
    assert mine.exists()


def test_only_a_mixture_is_replaced_by_one(tmp_path: Path) -> None:
    require_replaceable(tmp_path / "new.json")
    exported(tmp_path / "old.json", None)
    require_replaceable(tmp_path / "old.json")
    (tmp_path / "shares.json").write_text('{"wiki": 0.5, "forum": 0.5}')
    require_replaceable(tmp_path / "shares.json")
    (tmp_path / "config.yaml").write_text("run_dir: here\n")
    os.mkfifo(tmp_path / "pipe")
    for name, part in (("config.yaml", "is no mixture; nothing was written"), ("pipe", "a pipe"), (".", "a directory")):
        with pytest.raises(UserError, match=part):
            require_replaceable(tmp_path / name)


def test_a_device_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        write_atomic(tmp_path / "pipe", "text")
    assert not (tmp_path / "pipe").is_file()


def test_an_export_at_the_same_time_waits_and_deletes_no_manifest(tmp_path: Path) -> None:
    other = threading.Thread(target=exported, args=(tmp_path / "mixture", 0.7))  # its manifests go to the same place
    with samples_directory(tmp_path / "mixture.json") as directory:
        path, _ = store_manifest(directory, manifest())
        other.start()
        other.join(0.1)
        assert other.is_alive()
        uri = f"{directory.name}/{path.name}"
        (tmp_path / "mixture.json").write_text(f'{{"domains": [{{"sample_policy": {{"manifest_uri": "{uri}"}}}}]}}')
    other.join(10)
    assert path.exists()
    assert len(list(directory.iterdir())) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mixture", "mixture.json", "mixture.samples"]
