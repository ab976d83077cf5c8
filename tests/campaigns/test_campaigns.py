"""The campaigns in short: each fuzz target on its seeds and some changes of them, a few wrong calls, a few callers."""

import inspect
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import catalogue
import mutations
import pytest
import targets

HERE = Path(__file__).parent


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", targets.TARGETS)
def test_seeds_and_changes_of_them(name: str) -> None:
    target, rng = targets.TARGETS[name], random.Random(0)
    seeds = target.seeds()
    for seed in seeds:
        target.run(seed)
    for _ in range(100):
        seed = rng.choice(seeds)
        new = target.mutate(seed, rng, mutations.changed_bytes) if target.mutate else None
        target.run(mutations.changed_bytes(seed, rng) if new is None else new)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", sorted((HERE / "corpus").glob("*")), ids=lambda path: path.name)
def test_what_was_a_finding_once(path: Path) -> None:
    """As `fuzz.py --repeat`; files are named after their target."""
    name = max((name for name in targets.TARGETS if path.name.startswith(f"{name}-")), key=len)
    targets.TARGETS[name].run(path.read_bytes())


@pytest.mark.parametrize(
    "command", [["calls.py", "--calls", "1500"], ["threads.py", "--minutes", "0.05", "--only", "callers", "streams"]]
)
def test_campaign(command: list[str]) -> None:
    """Commands run, and find nothing."""
    done = subprocess.run(
        [sys.executable, HERE / command[0], *command[1:]], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]


def test_catalogue_has_every_public_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is public is called with wrong arguments, or stands in NOT_CALLED; and the right ones work."""
    monkeypatch.chdir(tmp_path)  # it writes files
    entries = catalogue.catalogue()
    (tmp_path / "blocks.txt").write_text("a b")
    for entry in entries.values():
        entry.function(**entry.arguments)
    called = {id(subject) for entry in entries.values() for subject in (entry.function, *entry.documented)}
    called |= {id(getattr(entry.function, "__func__", None)) for entry in entries.values()}
    missing = []
    for module in catalogue.MODULES:
        for name in set(module.__all__) - catalogue.NOT_CALLED.get(module.__name__, set()):
            subject = getattr(module, name)
            if not isinstance(subject, ModuleType) and callable(subject) and id(subject) not in called:
                missing.append(f"{module.__name__}.{name} ({inspect.getfile(subject)})")
    assert not missing
