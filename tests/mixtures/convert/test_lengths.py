"""Lengths of documents from a token cache."""

from pathlib import Path

import pandas as pd
import pytest

from mixtures.convert.lengths import read_texts
from mixtures.errors import UserError
from mixtures.stream import cached
from tests.mixtures.stream.test_tokens import SIZES, mixture_of, write_cache


def test_changed_lengths_of_documents_are_refused(tmp_path: Path) -> None:
    write_cache(tmp_path)
    paths = {name: tmp_path / f"{name}-0123456789abcdef" / "documents.parquet" for name in SIZES}
    table = pd.DataFrame({"split": "train", "start": [0], "tokens": [30]})
    for path in paths.values():
        table.to_parquet(path)
        cached.write_sums(path.with_name("_SHA256SUMS"), ["meta.json", path.name])
    read = {"means": {}, "cache": tmp_path, "most_tokens": None}
    assert read_texts(mixture_of(), {}, **read).keys() == SIZES.keys()
    table.assign(tokens=7).to_parquet(paths["code"])
    with pytest.raises(UserError, match=r"code-0123456789abcdef is damaged \(documents.parquet changed after"):
        read_texts(mixture_of(), {}, **read)
