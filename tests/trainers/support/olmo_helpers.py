"""Toy domains as OLMo-core's token files, and the module that conversion generated."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from toy import NAMES, SPAN, documents, make_mixture

from mixtures.convert import Report, convert

LENGTH, BATCH = 128, 16


def write_tokens(folder: Path, *, divisor: int = 1, end_of_text: bool = False) -> Path:
    """Headerless .npy, uint16, two files a domain; ids divided by `divisor`, for a small vocabulary. end_of_text:
    separators become 0.
    """
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        half = len(documents(name)) // 2
        for part, texts in enumerate((documents(name)[:half], documents(name)[half:])):
            ids = np.concatenate(texts)
            ids[(ids % SPAN == 0) & end_of_text] = 0
            (ids // divisor).astype(np.uint16).tofile(folder / name / f"part-{part}.npy")
    return folder


def convert_toy(
    tmp_path: Path, data: Path, *, batch_size: Any = BATCH, samples: Any = "keep", **mixture: Any
) -> Report:
    path = make_mixture(tmp_path / "mixture", **mixture)
    return convert(
        path,
        to="olmo-core",
        output=tmp_path / "olmo",
        data=f"{data}/{{domain}}/*.npy",
        sequence_length=LENGTH,
        batch_size=batch_size,
        samples=samples,
    )


def load_curriculum(report: Report) -> ModuleType:
    """curriculum.py, imported from its directory."""
    spec = spec_from_file_location("curriculum", report.directory / "curriculum.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["curriculum"] = module
    spec.loader.exec_module(module)
    return module
