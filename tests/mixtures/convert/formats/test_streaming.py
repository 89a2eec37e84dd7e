"""The `streaming` format without the trainer: LLM-Foundry's keys, the rounding of an epoch, and views of MDS shards
made by hand.

tests/trainers/test_streaming.py reads the same with MosaicML's own code.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mixtures.convert import Report, convert
from mixtures.convert.formats.streaming import chosen
from mixtures.convert.formats.streaming_views import border, read_shards
from mixtures.errors import UserError
from tests.trainers.support import toy

STREAM = {"local", "remote", "split", "proportion", "repeat", "choose"}  # keys of streaming's Stream that matter here
DATASET = {"streams", "epoch_size", "shuffle", "shuffle_seed", "max_seq_len"}  # of LLM-Foundry's StreamingTextDataset
HEAD = json.dumps({"column_encodings": ["bytes"], "column_names": ["tokens"], "column_sizes": [None]}).encode()


def _shard(samples: list[bytes]) -> bytes:
    """An MDS shard: count, count + 1 offsets from the beginning of the file, description of the columns, samples (size,
    then bytes).
    """
    coded = [np.uint32(len(sample)).tobytes() + sample for sample in samples]
    offsets = np.cumsum([4 * (len(samples) + 2) + len(HEAD), *map(len, coded)]).astype(np.uint32)
    return np.uint32(len(samples)).tobytes() + offsets.tobytes() + HEAD + b"".join(coded)


def _samples(path: Path, count: int) -> list[bytes]:
    """As MDSReader reads them: two offsets at every sample's place, no other part of the head."""
    data = path.read_bytes()
    spans = [np.frombuffer(data, np.uint32, 2, 4 * (1 + place)) for place in range(count)]
    return [data[int(begin) + 4 : int(end)] for begin, end in spans]


def _write(folder: Path, shards: list[list[bytes]], *, compressed: bool = False) -> None:
    folder.mkdir(parents=True)
    entries = []
    for number, samples in enumerate(shards):
        name, data = f"shard.{number:05d}.mds", _shard(samples)
        raw, packed = ({"basename": f"{name}{end}", "bytes": len(data), "hashes": {}} for end in ("", ".zstd"))
        (folder / (f"{name}.zstd" if compressed else name)).write_bytes(data)
        entry = {
            "version": 2,
            "format": "mds",
            "samples": len(samples),
            "size_limit": 2**26,
            "hashes": [],
            "column_names": ["tokens"],
        }
        entries.append(
            {
                **entry,
                "raw_data": raw,
                "zip_data": packed if compressed else None,
                "compression": "zstd" if compressed else None,
            }
        )
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": entries}))


def _read(folder: Path) -> list[bytes]:
    """All samples of a stream."""
    shards = json.loads((folder / "index.json").read_text())["shards"]
    for shard in shards:
        assert (folder / shard["raw_data"]["basename"]).stat().st_size == shard["raw_data"]["bytes"]
    return [sample for shard in shards for sample in _samples(folder / shard["raw_data"]["basename"], shard["samples"])]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Streams of 90 short samples in three shards."""
    for name in toy.NAMES:
        _write(
            tmp_path / "data" / name,
            [[f"{name} {shard} {place}".encode() for place in range(30)] for shard in range(3)],
        )
    return tmp_path / "data"


def _convert(tmp_path: Path, words: str, **flags: Any) -> Report:
    mixture = toy.make_mixture(tmp_path / "mixture")
    return convert(mixture, to="streaming", output=tmp_path / "out", data=f"{words}/{{domain}}", **flags)


def _loaders(report: Report) -> list[dict[str, Any]]:
    return [
        yaml.safe_load((report.directory / f"stage-{number}.yaml").read_text())["train_loader"] for number in (1, 2)
    ]


def test_a_stage_names_the_keys_that_llm_foundry_has(tmp_path: Path, data: Path) -> None:
    for loader in _loaders(_convert(tmp_path, str(data), sequence_length=128)):
        assert loader.keys() == {"name", "dataset", "drop_last", "num_workers"}
        assert loader["name"] == "text"
        assert loader["dataset"].keys() == DATASET
        assert loader["dataset"]["shuffle"] is True, "without it streams come one after the other"
        assert all(stream.keys() <= STREAM for stream in loader["dataset"]["streams"].values())


def test_proportions_are_of_documents(tmp_path: Path, data: Path) -> None:
    for loader, wanted in zip(_loaders(_convert(tmp_path, str(data))), (toy.WANTED, toy.SECOND), strict=True):
        streams = loader["dataset"]["streams"]
        tokens = {
            name: streams[name]["proportion"] * len(toy.tokens_of(name)) / toy.DOCUMENTS[name] for name in toy.NAMES
        }
        assert {name: share / sum(tokens.values()) for name, share in tokens.items()} == pytest.approx(wanted)
        assert loader["dataset"]["epoch_size"] == pytest.approx(200_000 / sum(tokens.values()), abs=1)


def test_an_epoch_is_rounded_as_streaming_rounds_it() -> None:
    assert chosen({"a": 0.5, "b": 0.3, "c": 0.2}, 10, seed=0) == {"a": 5, "b": 3, "c": 2}
    counts = chosen({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, 11, seed=3)
    assert sum(counts.values()) == 11
    extra = np.random.default_rng(3).choice(3, 2, False)
    assert counts == {name: 3 + (place in extra) for place, name in enumerate("abc")}


def test_views_of_two_stages_are_all_samples_once(tmp_path: Path, data: Path) -> None:
    report = _convert(tmp_path, str(data))
    for name in toy.NAMES:
        first, second = (Path(loader["dataset"]["streams"][name]["local"]) for loader in _loaders(report))
        assert _read(first) + _read(second) == _read(data / name)
        assert all(
            path.is_symlink() or path.name == "index.json" or path.stat().st_size < 30 * 40 for path in first.iterdir()
        )


def test_views_are_as_large_as_what_their_stages_take(tmp_path: Path, data: Path) -> None:
    first = _loaders(_convert(tmp_path, str(data)))[0]["dataset"]["streams"]
    assert len(_read(Path(first["web"]["local"]))) == round(90 * 0.7 / (0.7 + 0.3))
    assert len(_read(Path(first["math"]["local"]))) == round(90 * 0.1 / (0.1 + 0.3))


def test_a_compressed_shard_stays_whole(tmp_path: Path) -> None:
    _write(tmp_path / "web", [[b"x"] * 30] * 3, compressed=True)
    shards = read_shards(tmp_path / "web")
    assert [border(shards, fraction) for fraction in (0.0, 0.15, 0.2, 0.5, 0.6, 1.0)] == [0, 0, 30, 30, 60, 90]


def test_a_stream_that_cannot_be_cut_is_shared_and_the_report_says_so(tmp_path: Path) -> None:
    for name in toy.NAMES:
        _write(tmp_path / "data" / name, [[b"x"] * 30], compressed=True)
    report = _convert(tmp_path, f"{tmp_path}/data")
    assert any("read some twice" in note and "web" in note for note in report.record["notes"])


def test_samples_that_are_no_documents_are_noticed(tmp_path: Path, data: Path) -> None:
    notes = _convert(tmp_path, str(data)).record["notes"]
    assert any("web has 90 samples, in the mixture 8,000 documents" in note and "--packed" in note for note in notes)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"math/index.json is not there"):
        _convert(tmp_path, f"{tmp_path}/data")


@pytest.mark.parametrize("index", ['{"shards": [', "[]", '{"shards": []}', '{"version": 2}', '{"shards": [{}]}'])
def test_an_index_that_lists_no_shards_is_refused(index: str, tmp_path: Path) -> None:
    for name in toy.NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.json").write_text(index)
    with pytest.raises(UserError, match=r"web/index.json (lists no shards as Streaming|is not complete JSON)"):
        convert(toy.make_mixture(tmp_path), to="streaming", output=tmp_path / "out", data=f"{tmp_path}/{{domain}}")
