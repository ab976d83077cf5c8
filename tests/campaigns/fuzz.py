"""Coverage-guided fuzzing of everything that reads what others made: files, and arrays of other frameworks.

    python tests/campaigns/fuzz.py                          # all targets, a minute in all
    python tests/campaigns/fuzz.py --seconds 7200 --jobs 2  # hours, on two cores
    python tests/campaigns/fuzz.py --targets npz onnx       # some of them
    python tests/campaigns/fuzz.py --repeat FILE            # once more what a finding's file holds

Needs atheris (pip install -e ".[fuzz]"), but for --repeat. A target runs in a process of its own, with bounded memory,
and fails (targets.py) by an error that is not documented, by anything that watch.py forbids, by a crash, by a call of
more than 25 seconds. Inputs that reach new code are kept in the folder --work, from which a later call goes on.
Findings are files there, too: the input, and beside it the traceback; the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LONGEST_CALL = 25  # seconds; generous, as machines that fuzz are busy
LONGEST_ROUND = 300  # seconds after which a process is replaced by a fresh one
MEMORY = 1 << 30  # bytes beyond what the process holds at its start
LONGEST_INPUT = 1 << 15
CORPUS = Path(__file__).parent / "corpus"  # inputs that were findings once


# ---- One target, in this process -----------------------------------------------------------------------------------


def fuzz(name: str, seconds: int, work: Path) -> None:
    """Fuzz a target until the time is up. Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["fastrnn", "zipfile"], enable_loader_override=False):
        import targets
    import mutations

    target = targets.TARGETS[name]
    corpus, findings = work / "corpus" / name, work / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in [*target.seeds(), *(file.read_bytes() for file in sorted(CORPUS.glob(f"{name}-*")))]:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    checked = Checked(target)
    current = os.open(work / f"{name}.input", os.O_RDWR | os.O_CREAT)

    def one(content: bytes) -> None:
        os.pwrite(current, content, 0)  # what was in hand, if the process ends here
        os.ftruncate(current, len(content))
        try:
            checked(content)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            note(findings, name, content, error)

    def changed(content: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)

        def change(part: bytes, rng: random.Random) -> bytes:
            return mutations.changed_bytes(part, rng) if rng.random() < 0.3 else atheris.Mutate(part, len(part) + 64)

        new = target.mutate(content, rng, change) if target.mutate and rng.random() < 0.8 else None
        return (change(content, rng) if new is None else new)[:limit]

    arguments = [
        sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-timeout={LONGEST_CALL}", "-rss_limit_mb=4096",
        f"-max_len={LONGEST_INPUT}", "-exact_artifact_path=/dev/null", "-print_final_stats=1", "-reload=0",
    ]  # fmt: skip
    options: dict[str, Any] = {"custom_mutator": changed} if target.mutate else {}
    atheris.Setup(arguments, one, **options)
    atheris.Fuzz()


class Checked:
    """A target whose inputs are watched; raises what is wrong."""

    def __init__(self, target: Any) -> None:
        import targets
        import watch

        warnings.simplefilter("ignore")
        logging.disable()
        self._run = target.run
        for seed in target.seeds():  # imports what is imported when it is first used
            target.run(seed)
        self._watch = watch.Watch(targets.FOLDER)
        watch.limit_memory(MEMORY)

    def __call__(self, content: bytes) -> None:
        with self._watch.reading():
            self._run(content)


def note(findings: Path, name: str, content: bytes, error: BaseException) -> None:
    """Keep the first, or a shorter, input of each cause."""
    import watch

    path = findings / f"{name}-{watch.signature(error)}"
    if not path.exists() or len(content) < path.stat().st_size:
        path.write_bytes(content)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


# ---- All targets, each in processes of its own ---------------------------------------------------------------------


def rounds(name: str, seconds: float, work: Path) -> tuple[int, int, int]:
    """Fuzz a target in fresh processes, one after another; return executions, coverage and inputs kept."""
    executions = coverage = kept = 0
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1 or not executions:
        seconds = max(1, min(int(left), LONGEST_ROUND))
        command = [sys.executable, __file__, "--child", name, "--seconds", str(seconds), "--work", str(work)]
        log = work / f"{name}.log"
        with log.open("wb") as file:
            try:
                status = subprocess.run(
                    command, stdout=file, stderr=file, timeout=seconds + 240, check=False, env=_environment()
                ).returncode
            except subprocess.TimeoutExpired:
                status = -9
        text = log.read_text(errors="replace")
        done = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text) or re.findall(r"^#(\d+)\s", text, re.M)
        executions += int(done[-1]) if done else 0
        coverage = max([coverage, *map(int, re.findall(r" cov: (\d+)", text))])
        kept = len(list((work / "corpus" / name).glob("*")))
        if status:
            path = work / "findings" / f"{name}-exit{status}"
            path.with_suffix(".txt").write_text(text[-20000:])
            shutil.copyfile(work / f"{name}.input", path)
            if not done:  # it does not even start
                break
    return executions, coverage, kept


def _environment() -> dict[str, str]:
    """Few threads: each target has a core, and BLAS's own would take memory."""
    return os.environ | {"OPENBLAS_NUM_THREADS": "1", "FASTRNN_NUM_THREADS": "2", "PYTHONDONTWRITEBYTECODE": "1"}


def everything(names: Sequence[str], seconds: float, jobs: int, work: Path) -> int:
    """Fuzz these targets; print a table; return the number of findings."""
    (work / "findings").mkdir(parents=True, exist_ok=True)
    share = seconds * jobs / len(names)
    begun = time.monotonic()

    print(f"{'target':16} {'executions':>11} {'a second':>9} {'coverage':>9} {'kept':>6} {'findings':>9}", flush=True)

    def one(name: str) -> int:
        executions, coverage, kept = rounds(name, share, work)
        found = len(_causes(work, name))
        print(f"{name:16} {executions:11,} {executions / share:9,.0f} {coverage:9,} {kept:6,} {found:9,}", flush=True)
        return executions

    with ThreadPoolExecutor(jobs) as pool:
        total = sum(pool.map(one, names))
    causes = [cause for name in names for cause in _causes(work, name)]
    print(f"\n{total:,} executions in {time.monotonic() - begun:,.0f} s, {len(causes)} findings, all in {work}")
    for cause in causes:
        text = cause.with_suffix(".txt") if cause.with_suffix(".txt").exists() else cause
        last = text.read_text(errors="replace").strip().splitlines()[-1:] if text.suffix == ".txt" else [""]
        print(f"  {cause.name}: {''.join(last)[:160]}")
    return len(causes)


def _causes(work: Path, name: str) -> list[Path]:
    """A file for each finding of a target: the input, or what the process said at its end."""
    files = sorted((work / "findings").glob(f"{name}-*"))
    return [file for file in files if file.suffix != ".txt" or not file.with_suffix("").exists()]


def repeat(path: Path) -> None:
    """Run the target that a finding's file is named after on it, watched as it was."""
    import targets

    name = max((name for name in targets.TARGETS if path.name.startswith(f"{name}-")), key=len)
    Checked(targets.TARGETS[name])(path.read_bytes())
    print(f"{path.name}: {name} does what it should")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="in all, on one core (default: 60)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time (default: 1)")
    parser.add_argument("--targets", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--work", type=Path, help="folder of inputs and findings (default: a new one)")
    parser.add_argument("--repeat", type=Path, metavar="FILE")
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeat:
        repeat(arguments.repeat)
        return
    work = arguments.work or Path(tempfile.mkdtemp(prefix="fastrnn-fuzz-"))
    if arguments.child:
        fuzz(arguments.child, int(arguments.seconds), work)
        return
    import targets

    names = arguments.targets or list(targets.TARGETS)
    if unknown := [name for name in names if name not in targets.TARGETS]:
        parser.error(f"--targets: expected some of {', '.join(targets.TARGETS)}, got {', '.join(unknown)}")
    shutil.rmtree(targets.FOLDER, ignore_errors=True)
    sys.exit(1 if everything(names, arguments.seconds, arguments.jobs, work.resolve()) else 0)


if __name__ == "__main__":
    main()
