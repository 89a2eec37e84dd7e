"""A damaged file of a run, its scores, mixture or token cache is refused or healed, and never another result."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.faults.damages import DAMAGES, KINDS, REPLACED, SAMPLES, Act, damage, outcome
from tests.faults.helpers import ALL, SEED, do, note
from tests.proxies.helpers import ALPHABETS, write_domain, write_run

pytestmark = pytest.mark.slow
CASES = [(kind, name) for kind in KINDS for name in (*DAMAGES, REPLACED)]
CHOSEN = CASES if ALL else random.Random(SEED).sample(CASES, 5)


class Homes:
    """Folders of undamaged runs, made at one place and kept at others, so that no path in their files tells them apart.

    finished: a run, its token cache, its scores and a mixture with manifests. interrupted: the same run two steps
    before its end. other: a finished run of another seed, on the same text; its token cache is that of another text.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self.folder = folder / "work", folder
        self._expected: dict[tuple[bool, str], Any] = {}
        self._make("other", "--seed", "1")
        shutil.rmtree(self.folder / "other/cache")
        for name, letters in ALPHABETS.items():
            if (self.work / f"{name}.jsonl").exists():
                write_domain(self.work / f"{name}.jsonl", letters, seed=1)
        assert do("proxies.train", self.work / "run.yaml", "--run_dir", self.work / "more").code == 0
        caches = sorted((self.work / "cache").iterdir(), key=lambda path: path.stat().st_mtime)
        for path in caches[-3:]:
            shutil.copytree(path, self.folder / "other/cache" / path.name)
        self._make("finished")
        interrupted = shutil.copytree(self.folder / "finished", self.folder / "interrupted")
        for made in ("checkpoints/step-00000006", "scores", "plots"):
            shutil.rmtree(interrupted / "run" / made, ignore_errors=True)  # there are no plots in CI
        for made in ("mixture.json", "diagnosis.json"):
            (interrupted / "run" / made).unlink()

    def _make(self, name: str, *flags: str) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        path = write_run(self.work)
        assert do("proxies.train", path, *flags).code == 0
        assert do("proxies.score", self.work / "run").code == 0
        words = ("export", self.work / "run", "-o", self.work / "sampled.json", *SAMPLES)
        assert do("mixtures.__main__", *words).code == 0
        shutil.copytree(self.work, self.folder / name)

    def fresh(self, *, interrupted: bool) -> Path:
        """Put the undamaged run back into its place, and return the place."""
        shutil.rmtree(self.work, ignore_errors=True)
        return shutil.copytree(self.folder / ("interrupted" if interrupted else "finished"), self.work)

    def expected(self, act: Act, *, interrupted: bool) -> Any:
        """Return the result of the command on the undamaged run."""
        key = (interrupted, act.__name__)
        if key not in self._expected:
            ended, result = act(self.fresh(interrupted=interrupted))
            assert ended.code == 0, ended
            self._expected[key] = result()
        return self._expected[key]


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    return Homes(tmp_path_factory.mktemp("homes"))


@pytest.mark.parametrize(("kind", "name"), CHOSEN)
def test_damage_is_refused_or_healed(homes: Homes, capsys: pytest.CaptureFixture[str], kind: str, name: str) -> None:
    what, found = KINDS[kind], []
    for act in what.acts:
        expected = homes.expected(act, interrupted=what.interrupted)
        home = homes.fresh(interrupted=what.interrupted)
        draw = random.Random(f"{SEED} {kind} {name}")
        damage(home, what, name, other=homes.folder / "other", draw=draw)
        found.append(f"{act.__name__}: {outcome(act, home, expected)}")
        note(capsys, kind, name, found[-1].replace("\n", " ")[:150])
    assert not [line for line in found if "WRONG" in line]
