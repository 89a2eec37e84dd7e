"""The files under launch/ are what the programs that read them accept."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from proxies.comparison.settings import CompareSettings
from proxies.config import load
from proxies.settings import Settings

LAUNCH = Path(__file__).parents[2] / "launch"
CORPORA = LAUNCH.parent.parent / "shared" / "corpora"
PROCESSES = {"cpu1": 1, "cpu2": 2, "gpu1": 1, "gpu8": 8, "nodes2": 16}


def kind_of(name: str) -> type[Settings] | type[CompareSettings]:
    return CompareSettings if name.startswith("compare") else Settings


@pytest.mark.parametrize("path", sorted((LAUNCH / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == PROCESSES[path.stem]
    assert config.use_cpu == path.stem.startswith("cpu")


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_own_runs_have_valid_settings(path: Path) -> None:
    settings = load(kind_of(path.stem), path)
    assert settings.run_path == LAUNCH.parent / "runs" / path.stem
    assert len(settings.corpus.domains) in (7, 11)


@pytest.mark.skipif(not CORPORA.exists(), reason="../shared/corpora is not beside this checkout")
@pytest.mark.parametrize("name", ["corpora", "corpora_target", "compare", "compare_target"])
def test_the_corpora_runs_find_their_files(name: str) -> None:
    for source in load(kind_of(name), LAUNCH / f"{name}.yaml").corpus.sources.values():
        assert Path(str(source.data_files)).exists()
        assert Path(str(source.validation)).exists()
