"""A comparison's directory: what in it is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixtures.compare.directory import read_comparison
from mixtures.errors import UserError
from tests.mixtures.compare.helpers import make_comparison


@pytest.mark.parametrize(
    "costs",
    [["none"], {"base_run": 3}, {"mixtures": {"uniform": "cheap"}}, {"base_run": {"flops": 1.0, "seconds": "long"}}],
)
def test_damaged_costs_are_one_message(tmp_path: Path, costs: Any) -> None:
    path = make_comparison(tmp_path / "comparison")
    (path / "costs.json").write_text(json.dumps(costs))
    with pytest.raises(UserError, match=r"costs\.json is damaged: .*; remove it, and give the command"):
        read_comparison(path)
