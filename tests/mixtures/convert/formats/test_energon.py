"""The `energon` format: datasets that are not as `energon prepare` writes them; Energon itself is in tests/trainers."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mixtures.convert import convert
from mixtures.errors import UserError
from tests.trainers.support import toy


def prepared(folder: Path) -> Path:
    """The metadata of a webdataset of all documents of the domain web, one shard."""
    meta = folder / "web" / ".nv-meta"
    meta.mkdir(parents=True)
    count = toy.DOCUMENTS["web"]
    (meta / ".info.json").write_text(json.dumps({"shard_counts": {"web-0.tar": count}}))
    (meta / "split.yaml").write_text("split_parts: {train: [web-0.tar]}\n")
    with closing(sqlite3.connect(meta / "index.sqlite")) as index:
        index.execute("CREATE TABLE samples (tar_file_id, sample_key, sample_index)")
        index.executemany("INSERT INTO samples VALUES (0, ?, ?)", [(str(row), row) for row in range(count)])
        index.commit()
    return meta


def converted(folder: Path) -> Any:
    mixture = toy.make_mixture(folder, {"only": {"web": 1.0, "code": 0.0, "math": 0.0}}, policies={"web": "filter"})
    return convert(mixture, to="energon", output=folder / "out", data=f"{folder}/{{domain}}")


def test_a_policy_leaves_its_documents_out_of_the_split(tmp_path: Path) -> None:
    prepared(tmp_path)
    converted(tmp_path)
    split = json.loads((tmp_path / "out" / "splits" / "web-1.json").read_text())
    assert split["split_parts"] == {"train": ["web-0.tar"]}
    assert split["exclude"] == [f"web-0.tar/{row}" for row in range(0, toy.DOCUMENTS["web"], 4)]


BROKEN = {
    "split.yaml": [None, "[1, 2]", "a: [", "3"],
    ".info.json": [None, "{", "{}", "[]", '{"shard_counts": {}}', '{"shard_counts": 3}'],
    "index.sqlite": [None, "no database", ""],
}


@pytest.mark.parametrize(("name", "content"), [(name, text) for name, texts in BROKEN.items() for text in texts])
def test_a_dataset_that_is_not_prepared_is_refused(name: str, content: str | None, tmp_path: Path) -> None:
    meta = prepared(tmp_path)
    (meta / name).unlink()
    if content is not None:
        (meta / name).write_text(content)
    with pytest.raises(UserError, match=r"^web: .*\.nv-meta is not as `energon prepare` writes it .*; prepare"):
        converted(tmp_path)
