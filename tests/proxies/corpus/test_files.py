"""Files: the containers that people publish text in are unpacked, and what cannot be unpacked is named."""

import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pytest

from mixtures.errors import UserError
from proxies.corpus.cache import content_hash, reading
from proxies.corpus.files import CHUNK
from proxies.corpus.settings import SourceSettings
from proxies.corpus.sources import describe, documents

TEXTS = ["first text", "second: héllo", "third"]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESS = {"gz": gzip.compress, "zst": zstd, "zstd": zstd, "bz2": bz2.compress, "xz": lzma.compress}


def long_window(data: bytes, log: int) -> bytes:
    """A zstd frame as `zstd --long=LOG` begins it: window of 2^LOG bytes, one block without compression."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + (len(data) << 3 | 1).to_bytes(3, "little") + data


def read(path: Path) -> list[str]:
    return [text for _, text in documents(SourceSettings(data_files=str(path)))]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("kind", ["jsonl", "json", "ndjson"])
def test_json_lines_are_read_under_all_their_names(tmp_path: Path, kind: str, ending: str) -> None:
    (tmp_path / f"a.{kind}").write_bytes(LINES)
    packed = tmp_path / f"a.{kind}.{ending}"
    packed.write_bytes(COMPRESS[ending](LINES))
    assert read(tmp_path / f"a.{kind}") == read(packed) == TEXTS
    assert describe(SourceSettings(data_files=str(packed)))[0]["format"] == "jsonl"


@pytest.mark.parametrize("log", [27, 28, 31])
def test_zstd_frames_with_long_windows_are_read(tmp_path: Path, log: int) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstd(LINES) + long_window(LINES, log) + zstd(LINES))
    assert read(path) == TEXTS * 3


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("zeros", [1, 512, CHUNK + 7])
def test_zeros_behind_the_parts_of_a_file_are_padding(tmp_path: Path, ending: str, zeros: int) -> None:
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes((COMPRESS[ending](LINES) + b"\0" * zeros) * 2)
    assert read(path) == TEXTS * 2


def test_a_skippable_zstd_frame_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0size" + zstd(LINES))  # pzstd writes one before each frame
    assert read(path) == TEXTS


@pytest.mark.slow
@pytest.mark.parametrize("ending", COMPRESS)
def test_a_long_text_comes_out_of_every_compression_whole(tmp_path: Path, ending: str) -> None:
    text = "".join(f"{number * 7919 % 10007} " for number in range(CHUNK // 2))
    path = tmp_path / f"a.txt.{ending}"
    path.write_bytes(COMPRESS[ending](text.encode()))
    assert read(path) == [text]


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("fault", ["cut off", "followed by others", "damaged"])
def test_what_cannot_be_unpacked_is_one_message(tmp_path: Path, ending: str, fault: str) -> None:
    path = tmp_path / f"a.txt.{ending}"
    data = COMPRESS[ending](LINES * 50)
    damaged = b"no header" + data[9:]
    path.write_bytes({"cut off": data[:-3], "followed by others": data + b"text", "damaged": damaged}[fault])
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: not readable as ")
    assert "compressed txt: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_json_array_is_told_how_to_become_lines(tmp_path: Path) -> None:
    for text in ('[{"text": "a"}]', '[\n {"text": "a"}\n]'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(UserError, match=r"a\.json:1: .*`jq -c '\.\[\]'` writes the entries of a JSON array"):
            read(tmp_path / "a.json")


def test_a_line_nested_too_deeply_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for tree in ("[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000):
        path.write_text(f'{{"text": "fine"}}\n{{"text": "x", "tree": {tree}}}\n')
        with pytest.raises(UserError) as caught:
            read(path)
        assert f"{path}:2: not a JSON line: its brackets are nested too deeply" in str(caught.value)
        assert len(str(caught.value)) < 300
    nested = "[" * 700 + "]" * 700
    path.write_text(f'{{"text": {nested}}}\n')
    with pytest.raises(UserError, match=r":1: column 'text' holds list \[\[\[\[\[\[\[\.\.\.\]\]\]\]\]\]\], not text"):
        read(path)


def test_caches_of_earlier_versions_are_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_bytes(LINES)
    Path("b.csv.gz").write_bytes(b"\x1f\x8b")
    source = SourceSettings(data_files=["a.jsonl", "b.csv.gz"], validation="a.jsonl")
    assert content_hash(reading(source, held_out=0.1, draws=7)) == "36972015fcacecd6"
