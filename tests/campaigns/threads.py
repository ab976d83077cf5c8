"""Many callers at once: threads, forks, signals, numbers of threads that change, and arrays that change meanwhile.

    python tests/campaigns/threads.py                               # a minute
    python tests/campaigns/threads.py --minutes 120 --jobs 2
    python tests/campaigns/threads.py --only forks --seed 3

A scenario runs for some seconds in a process of its own, again and again with other random numbers. Findings are: a
crash, a process that does not end, results with other bits than one caller alone gets, an error that is not documented,
memory that grows. The exit status is 1 if there is a finding.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import numpy as np
import watch

import fastrnn
from fastrnn import nn, optim
from fastrnn._core import native

CALLERS = 64
SECONDS = 10  # of a scenario
PATIENCE = 60  # seconds more until a process counts as hanging
GROWTH = 128 << 20  # bytes


# ---- Work whose result is known ------------------------------------------------------------------------------------


class Jobs:
    """Calls of every kind on shared objects, and the bits that they have to give."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.jobs: list[tuple[Callable[[], Any], Any]] = []
        for layer, T, B in (
            (fastrnn.LSTM(24, 80, rng=1), 20, 33),
            (fastrnn.GRU(7, 40, num_layers=2, bidirectional=True, rng=2), 12, 5),
            (fastrnn.RNN(5, 257, rng=3), 8, 1),
            (fastrnn.LSTM(16, 130, proj_size=30, peephole=True, dtype=np.float64, rng=4), 6, 70),
        ):
            x = rng.standard_normal((T, B, layer.input_size)).astype(layer.dtype)
            lengths = rng.integers(0, T + 1, B)
            y, _, tape = layer.forward(x)
            frozen = layer.freeze()
            self._add(lambda layer=layer, x=x, lengths=lengths: layer(x, lengths=lengths)[0])
            self._add(lambda frozen=frozen, x=x: frozen(x)[0])
            self._add(lambda layer=layer, x=x, y=y: _trained(layer, x, y))
            self._add(lambda layer=layer, tape=tape, y=y: layer.backward(tape, y).params["weight_hh_l0"])
            if not layer.bidirectional:
                self._add(lambda frozen=frozen, x=x: _streamed(frozen, x))
        linear, rows = nn.Linear(70, 300, rng=0), rng.standard_normal((200, 70)).astype(np.float32)
        targets = rng.integers(0, 300, 200)
        self._add(lambda: linear(rows))
        self._add(lambda: np.float64(nn.SoftmaxCrossEntropy()(linear(rows), targets)))
        self._add(lambda: _updated(rows))

    def _add(self, job: Callable[[], Any]) -> None:
        with fastrnn.num_threads(1):
            self.jobs.append((job, job().tobytes()))

    def run(self, rng: random.Random) -> None:
        """Run one, with some number of threads, and compare."""
        k = rng.randrange(len(self.jobs))
        job, expected = self.jobs[k]
        with fastrnn.num_threads(rng.choice((1, 1, 2, 3, 7, 64))):
            if job().tobytes() != expected:
                raise AssertionError(f"job {k} gives other bits than one caller alone gets")


def _trained(layer: Any, x: Any, y: Any) -> Any:
    _, _, tape = layer.forward(x)
    return layer.backward(tape, y).x


def _streamed(frozen: Any, x: Any) -> Any:
    stream = frozen.stream(x.shape[1])
    out = np.empty((x.shape[1], frozen.output_size), x.dtype)
    for step in x:
        stream.step(step, out)
    return out


def _updated(rows: Any) -> Any:
    params = {"a": rows.copy()}
    optimizer = optim.Adam(params)
    for _ in range(3):
        optimizer.step({"a": rows}, max_norm=1.0)
    return params["a"]


# ---- Callers -------------------------------------------------------------------------------------------------------


class Callers:
    """Threads that do something again and again until the time is up; the first error of any ends all."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.end, self.seed = time.monotonic() + seconds, seed
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.count = 0

    @property
    def going(self) -> bool:
        return time.monotonic() < self.end and not self._errors

    def start(self, action: Callable[[random.Random], Any], count: int = 1) -> None:
        """Start threads that call `action` with random numbers of their own."""
        for _ in range(count):
            rng = random.Random(self.seed << 16 | len(self._threads))
            thread = threading.Thread(target=self._repeat, args=(action, rng), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _repeat(self, action: Callable[[random.Random], Any], rng: random.Random) -> None:
        try:
            while self.going:
                action(rng)
                self.count += 1
        except BaseException as error:
            self._errors.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
            if thread.is_alive():
                faulthandler.dump_traceback(all_threads=True)
                _show_c_stacks()
                raise AssertionError("a thread does not end")
        if self._errors:
            raise self._errors[0]


# ---- Scenarios -----------------------------------------------------------------------------------------------------


def callers(all: Callers) -> None:
    """64 threads on the same layers and tapes, while another changes the settings of the process."""
    all.start(Jobs().run, CALLERS)
    all.start(_change_settings)


def forks(all: Callers) -> None:
    """Threads that call, and one that forks; children call, too."""
    jobs = Jobs()

    def fork(rng: random.Random) -> None:
        child = os.fork()
        if not child:
            status = 1
            try:
                faulthandler.dump_traceback_later(PATIENCE / 2, exit=True)
                for _ in range(3):
                    jobs.run(rng)
                status = 0
            finally:
                os._exit(status)
        _ended(child)

    all.start(jobs.run, 7)
    all.start(fork)


def signals(all: Callers) -> None:
    """Signals whose handlers return, a hundred a second, to the main thread and others; the main thread calls."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    jobs = Jobs()
    main = threading.main_thread().ident
    all.start(jobs.run, 7)

    def send(rng: random.Random) -> None:
        time.sleep(0.01)
        signal.pthread_kill(rng.choice([main, threading.get_ident()]), signal.SIGUSR1)

    all.start(send)
    rng = random.Random(all.seed)
    while all.going:
        jobs.run(rng)


def interrupts(all: Callers) -> None:
    """Ctrl-C in the middle of calls of the main thread: the call is dropped, and the next one gives the right bits."""
    jobs = Jobs()
    layer, x = fastrnn.LSTM(64, 128, rng=0), np.zeros((3000, 4, 64), np.float32)
    main = threading.main_thread().ident
    armed = False

    def handler(*_: Any) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, handler)
    all.start(jobs.run, 3)
    rng = random.Random(all.seed)
    while all.going:
        timer = threading.Timer(rng.random() * 0.3, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with suppress(KeyboardInterrupt):
            armed = True
            while timer.is_alive():
                _, _, tape = layer.forward(x)
                layer.backward(tape, x[..., :1].repeat(128, -1))
            armed = False
        timer.join()
        jobs.run(rng)


def streams(all: Callers) -> None:
    """Streams of many threads on one frozen layer; and one stream that all of them use, which is an error, no crash."""
    frozen = fastrnn.GRU(5, 20, num_layers=2, rng=0).freeze()
    shared = frozen.stream(2)
    x = np.random.default_rng(0).standard_normal((30, 2, 5)).astype(np.float32)
    expected = _streamed(frozen, x).tobytes()

    def step(rng: random.Random) -> None:
        if rng.random() < 0.3:
            if _streamed(frozen, x).tobytes() != expected:
                raise AssertionError("a stream gives other bits than one caller alone gets")
            return
        with suppress(RuntimeError):
            action = rng.randrange(8)
            if action == 0:
                shared.reset([rng.randrange(2)])
            elif action == 1:
                shared.select([1, 0])
            elif action == 2:
                shared.state = shared.state
            elif action == 3:
                shared.step(x[rng.randrange(30), :1], rows=[rng.randrange(2)])
            else:
                shared.step(x[rng.randrange(30)])

    all.start(step, CALLERS)


def meddlers(all: Callers) -> None:
    """Arrays that threads change, reshape and replace while others compute with them: nonsense, but no crash."""
    layer = fastrnn.LSTM(6, 30, num_layers=2, rng=0)
    x = np.random.default_rng(0).standard_normal((20, 9, 6)).astype(np.float32)
    lengths = np.full(9, 20)

    def compute(rng: random.Random) -> None:
        with suppress(TypeError, ValueError):
            y, state, tape = layer.forward(x, lengths=lengths)
            action = rng.randrange(5)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if action == 0:
                    y.shape = (-1,)
                elif action == 1:
                    y.resize((1, 1), refcheck=False)
                elif action == 2:
                    state[0][...] = 9
            layer.backward(tape, np.ones((20, 9, 30), np.float32))
            layer(x, lengths=lengths)

    def meddle(rng: random.Random) -> None:
        name = rng.choice(sorted(layer.params))
        array = layer.params[name]
        action = rng.randrange(6)
        if action == 0:
            array *= -1
        elif action == 1:
            layer.params[name] = array.copy()
        elif action == 2:
            layer.params[name] = np.asfortranarray(array)
        elif action == 3:
            x[rng.randrange(20)] *= -1
        elif action == 4:
            lengths[rng.randrange(9)] = rng.choice((-1, 0, 5, 20, 10**9))
            lengths[...] = 20
        else:
            layer.params[name] = array[:0]
            layer.params[name] = array
        time.sleep(0.0005)

    all.start(compute, 12)
    all.start(meddle, 3)


def teams(all: Callers) -> None:
    """As `callers`, but each call gets as many threads as it asks for, on OpenMP and on workers."""
    native.insist_on_teams(random.Random(all.seed).choice(("rows", "units")))
    all.start(Jobs().run, 6)
    all.start(_change_settings)


SCENARIOS = (callers, forks, signals, interrupts, streams, meddlers, teams)


def _change_settings(rng: random.Random) -> None:
    """Another number of threads, or other threads, for the whole process."""
    fastrnn.set_num_threads(rng.choice((1, 2, 3, 8, 64)))
    if fastrnn.get_threading() != "none":
        fastrnn.set_threading(rng.choice(native.threading_names()))
    time.sleep(0.02)


def _show_c_stacks() -> None:
    """Where all threads are in C, if gdb is there."""
    with suppress(OSError, subprocess.TimeoutExpired):
        command = ["gdb", "-p", str(os.getpid()), "-batch", "-ex", "thread apply all bt 12"]
        subprocess.run(command, stdout=sys.stderr, stderr=subprocess.DEVNULL, timeout=60, check=False)


def _ended(child: int) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                raise AssertionError(f"a child that was forked ended with status {status}")
            return
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("a child that was forked hangs")


# ---- Processes -----------------------------------------------------------------------------------------------------


def child(name: str, seconds: float, seed: int) -> None:
    """One scenario, in this process."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    fastrnn.get_num_threads()
    scenario = {function.__name__: function for function in SCENARIOS}[name]
    counts, sizes = 0, []
    for part in range(2):  # the first warms up: threads and scratch memory stay
        all = Callers(seconds / 2, seed << 1 | part)
        scenario(all)
        all.join()
        counts += all.count
        sizes.append(watch.resident())
    if sizes[1] - sizes[0] > GROWTH:
        raise AssertionError(f"memory grew by {(sizes[1] - sizes[0]) >> 20} MiB")
    print(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1, help="scenarios at a time (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(f.__name__ for f in SCENARIOS))
    parser.add_argument("--child", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.minutes * 60, arguments.seed)
        return
    names = arguments.only or [function.__name__ for function in SCENARIOS]
    end = time.monotonic() + arguments.minutes * 60
    runs: dict[str, int] = dict.fromkeys(names, 0)
    actions: dict[str, int] = dict.fromkeys(names, 0)
    findings: list[str] = []

    def one(number: int) -> None:
        if time.monotonic() > end:
            return
        name, seed = names[number % len(names)], arguments.seed + number // len(names)
        command = [sys.executable, __file__, "--child", name, "--minutes", str(SECONDS / 60), "--seed", str(seed)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS + 4 * PATIENCE, check=False, errors="replace"
            )  # fmt: skip
            what = done.stderr[-20000:] if done.returncode else ""
            status: Any = done.returncode
        except subprocess.TimeoutExpired as error:
            what, status = (error.stderr or b"").decode(errors="replace")[-3000:], "hangs"
        runs[name] += 1
        if status:
            findings.append(f"{name} --seed {seed}: exit status {status}\n{what}")
            print(f"{name} --seed {seed}: exit status {status}", flush=True)
        else:
            actions[name] += int(done.stdout)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, range(int(arguments.minutes * 60 / SECONDS + 1) * arguments.jobs)))
    for name in names:
        print(f"{name:12} {runs[name]:5} runs {actions[name]:10,} calls")
    print(f"{len(findings)} findings")
    for finding in findings:
        print(f"\n{finding}")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
