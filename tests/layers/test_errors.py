"""Every misuse is an error that names the argument, what was expected and what came, and leaves all as it was."""

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from oracle import parts
from running import run_python

import fastrnn
from fastrnn.engines import blas


class Subjects:
    """One of everything that a failed call could damage."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.lstm = fastrnn.LSTM(3, 4, num_layers=2, rng=0)
        self.gru = fastrnn.GRU(3, 4, rng=0)
        self.both = fastrnn.GRU(3, 4, bidirectional=True, batch_first=True, rng=0)
        self.x = rng.standard_normal((5, 2, 3), np.float32)
        self.h = rng.standard_normal((2, 2, 4), np.float32)
        self.c = rng.standard_normal((2, 2, 4), np.float32)
        self.y, self.state, self.tape = self.lstm.forward(self.x, (self.h, self.c))
        self.stream = self.lstm.freeze().stream(2)
        self.stream.step(self.x[0])
        self.out = np.full((2, 4), 7, np.float32)

    def everything(self) -> list[Any]:
        """Copies of all arrays that no failed call may change."""
        arrays = [self.x, self.h, self.c, self.y, *self.state, self.out, *parts(self.stream.state)]
        for layer in (self.lstm, self.gru, self.both):
            arrays += layer.params.values()
        arrays += self.tape.gates(0).values()
        return [fastrnn.get_num_threads(), fastrnn.engines.current(), *(a.copy() for a in arrays)]


class OnGPU:
    """DLPack from a device that is not the CPU."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not on the CPU")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


class Unreadable:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("no")


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def stepped(s: Subjects, **given: Any) -> Any:
    return s.stream.step(**({"x": s.x[0]} | given))


def set_state(s: Subjects, value: Any) -> None:
    s.stream.state = value


def loaded(s: Subjects, **changed: Any) -> None:
    s.gru.load_state_dict({**s.gru.state_dict(), **changed})


def replaced(s: Subjects, without: Sequence[str] = (), **changed: Any) -> Any:
    """Call a layer whose parameters were replaced by something wrong."""
    layer = copy.copy(s.gru)
    layer.params = {name: value for name, value in {**s.gru.params, **changed}.items() if name not in without}
    return layer(s.x)


def other_tape() -> fastrnn.Tape:
    return fastrnn.LSTM(3, 4, num_layers=2, rng=0).forward(np.zeros((5, 2, 3), np.float32))[2]


def recursive() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


def entered(context: Any) -> None:
    with context:
        pass


f32, f64 = np.float32, np.float64
zeros = np.zeros

# What is done, the error, the name it starts with, and what else it must say.
CASES: list[tuple[Callable[[Subjects], Any], type, str, tuple[str, ...]]] = [
    # Construction
    (lambda s: fastrnn.LSTM(0, 4), ValueError, "input_size", ("at least 1", "got 0")),
    (lambda s: fastrnn.LSTM(-3, 4), ValueError, "input_size", ("at least 1", "got -3")),
    (lambda s: fastrnn.LSTM("3", 4), TypeError, "input_size", ("integer", "got str")),
    (lambda s: fastrnn.LSTM(None, 4), TypeError, "input_size", ("integer", "got NoneType")),
    (lambda s: fastrnn.GRU(3, 0), ValueError, "hidden_size", ("at least 1", "got 0")),
    (lambda s: fastrnn.GRU(3, 4.0), TypeError, "hidden_size", ("integer", "got float")),
    (lambda s: fastrnn.GRU(3, True), TypeError, "hidden_size", ("integer", "got a bool")),
    (lambda s: fastrnn.GRU(3, np.array([4, 4])), TypeError, "hidden_size", ("integer", "got ndarray")),
    (lambda s: fastrnn.RNN(3, 4, 0), ValueError, "num_layers", ("at least 1", "got 0")),
    (lambda s: fastrnn.RNN(3, 4, 1.5), TypeError, "num_layers", ("integer", "got float")),
    (lambda s: fastrnn.RNN(3, 4, nonlinearity="sigmoid"), ValueError, "nonlinearity", ("'tanh', 'relu'", "'sigmoid'")),
    (lambda s: fastrnn.RNN(3, 4, nonlinearity=np.tanh), TypeError, "nonlinearity", ("'tanh', 'relu'", "got ufunc")),
    (lambda s: fastrnn.RNN(3, 4, bias=1), TypeError, "bias", ("True or False", "got 1")),
    (lambda s: fastrnn.RNN(3, 4, bias=zeros(4)), TypeError, "bias", ("True or False",)),
    (lambda s: fastrnn.RNN(3, 4, batch_first="yes"), TypeError, "batch_first", ("True or False", "got 'yes'")),
    (lambda s: fastrnn.RNN(3, 4, bidirectional=2), TypeError, "bidirectional", ("True or False", "got 2")),
    (lambda s: fastrnn.RNN(3, 4, dropout=1.0), ValueError, "dropout", ("0 up to but not including 1", "got 1.0")),
    (lambda s: fastrnn.RNN(3, 4, dropout=-0.1), ValueError, "dropout", ("0 up to but not including 1", "got -0.1")),
    (lambda s: fastrnn.RNN(3, 4, dropout=np.nan), ValueError, "dropout", ("0 up to but not including 1", "got nan")),
    (lambda s: fastrnn.RNN(3, 4, dropout="0.5"), TypeError, "dropout", ("number", "got str")),
    (lambda s: fastrnn.RNN(3, 4, dropout=True), TypeError, "dropout", ("number", "got bool")),
    (lambda s: fastrnn.LSTM(3, 4, proj_size=4), ValueError, "proj_size", ("less than hidden_size (4)", "got 4")),
    (lambda s: fastrnn.LSTM(3, 4, proj_size=-1), ValueError, "proj_size", ("at least 0", "got -1")),
    (lambda s: fastrnn.LSTM(3, 4, peephole=1), TypeError, "peephole", ("True or False", "got 1")),
    (lambda s: fastrnn.GRU(3, 4, reset_after=None), TypeError, "reset_after", ("True or False", "got None")),
    (lambda s: fastrnn.GRU(3, 4, update_gate="z"), ValueError, "update_gate", ("'keep', 'replace'", "got 'z'")),
    (lambda s: fastrnn.GRU(3, 4, update_gate=None), TypeError, "update_gate", ("'keep', 'replace'", "got NoneType")),
    (lambda s: fastrnn.GRU(3, 4, dtype=np.float16), TypeError, "dtype", ("float32 or float64", "got float16")),
    (lambda s: fastrnn.GRU(3, 4, dtype=np.int32), TypeError, "dtype", ("float32 or float64", "got int32")),
    (lambda s: fastrnn.GRU(3, 4, dtype=">f4"), TypeError, "dtype", ("float32 or float64", "got >f4")),
    (lambda s: fastrnn.GRU(3, 4, dtype="single precision"), TypeError, "dtype", ("float32 or float64", "got 'single")),
    (lambda s: fastrnn.GRU(3, 4, dtype=None), TypeError, "dtype", ("float32 or float64", "got None")),
    (lambda s: fastrnn.GRU(3, 4, dtype=("f4", -1)), TypeError, "dtype", ("float32 or float64", "got")),
    (lambda s: fastrnn.GRU(3, 4, rng="seed"), TypeError, "rng", ("seed or a numpy.random.Generator", "got 'seed'")),
    (lambda s: fastrnn.GRU(3, 4, rng=-1), ValueError, "rng", ("seed or a numpy.random.Generator", "got -1")),
    # Sizes that no memory could hold
    (lambda s: fastrnn.LSTM(2**62, 1), ValueError, "input_size", ("addressed", "got 4 * 4611686018427387904")),
    (lambda s: fastrnn.LSTM(1, 2**31), ValueError, "hidden_size", ("addressed", "got 8589934592 * 2147483648")),
    (lambda s: fastrnn.LSTM(1, 10**30), ValueError, "hidden_size", ("fits this machine", "got 1" + 30 * "0")),
    (lambda s: fastrnn.LSTM(1, 1, sys.maxsize), ValueError, "num_layers", ("got", str(sys.maxsize))),
    (lambda s: fastrnn.LSTM(3, 4, num_layers=10**8), ValueError, "num_layers", ("at most 10000", "got 100000000")),
    (lambda s: fastrnn.GRU(8, 10**7), ValueError, "num_layers, input_size, hidden_size", ("GB hold, got 1200001",)),
    (lambda s: s.gru(np.broadcast_to(zeros(3, f32), (2**29, 2**29, 3))), ValueError, "x", ("addressed", "536870912")),
    (lambda s: s.gru(np.broadcast_to(f32(0), (2**29, 2**29, 3))), ValueError, "x", ("addressed", "536870912")),
    # x
    (lambda s: s.lstm(s.x[..., :2]), ValueError, "x", ("(T, B, 3)", "got (5, 2, 2)")),
    (lambda s: s.both(s.x[..., :2]), ValueError, "x", ("(B, T, 3)", "got (5, 2, 2)")),
    (lambda s: s.lstm(s.x[0, 0]), ValueError, "x", ("(T, B, 3)", "got (3,)")),
    (lambda s: s.lstm(s.x[None]), ValueError, "x", ("(T, B, 3)", "got (1, 5, 2, 3)")),
    (lambda s: s.lstm(f32(1)), ValueError, "x", ("(T, B, 3)", "got ()")),
    (lambda s: s.lstm(s.x.astype(f64)), TypeError, "x", ("float32", "got float64", "x.astype(np.float32)")),
    (lambda s: s.lstm.forward(s.x.astype(f64)), TypeError, "x", ("float32", "got float64", "x.astype(np.float32)")),
    (lambda s: s.lstm.freeze()(s.x.astype(f64)), TypeError, "x", ("float32", "got float64", "x.astype(np.float32)")),
    (lambda s: fastrnn.RNN(3, 4, dtype=f64)(s.x), TypeError, "x", ("float64", "got float32", "x.astype(np.float64)")),
    (lambda s: s.lstm(s.x.astype(np.float16)), TypeError, "x", ("float32", "got float16")),
    (lambda s: s.lstm(s.x.astype(int)), TypeError, "x", ("float32", "got int64")),
    (lambda s: s.lstm(s.x.astype(complex)), TypeError, "x", ("float32", "got complex128")),
    (lambda s: s.lstm(s.x.astype(">f4")), TypeError, "x", ("float32", "got >f4")),
    (lambda s: s.lstm(s.x.astype(object)), TypeError, "x", ("float32", "got object")),
    (lambda s: s.lstm([list(step) for step in s.x.astype(f64)]), TypeError, "x", ("float32", "got float64")),
    (lambda s: s.lstm([[[True, False, True]]]), TypeError, "x", ("float32", "got bool")),
    (lambda s: s.lstm([[[1j, 0, 0]]]), TypeError, "x", ("float32", "got complex128")),
    (lambda s: s.lstm([[["1", "2", "3"]]]), TypeError, "x", ("float32", "got <U1")),
    (lambda s: s.lstm(recursive()), TypeError, "x", ("array", "got list")),
    (lambda s: s.lstm([[1, 2, 3], [1, 2]]), TypeError, "x", ("array", "got list")),
    (lambda s: s.lstm(None), TypeError, "x", ("array", "got NoneType")),
    (lambda s: s.lstm("text"), TypeError, "x", ("float32", "got <U4")),
    (lambda s: s.lstm(OnGPU()), TypeError, "x", ("on the CPU", "got OnGPU")),
    (lambda s: s.lstm(Unreadable()), TypeError, "x", ("on the CPU", "got Unreadable")),
    (lambda s: s.lstm(np.ma.array(s.x, mask=False)), TypeError, "x", ("without", "a masked", "mask= or lengths=")),
    # rng
    (lambda s: s.lstm.forward(s.x, rng="abc"), TypeError, "rng", ("seed or a numpy.random.Generator", "got 'abc'")),
    (lambda s: s.lstm.forward(s.x, rng=-1), ValueError, "rng", ("seed or a numpy.random.Generator", "got -1")),
    # state
    (lambda s: s.lstm(s.x, s.h), TypeError, "state", ("(h, c)", "got ndarray")),
    (lambda s: s.lstm(s.x, (s.h,)), ValueError, "state", ("(h, c)", "got 1 items")),
    (lambda s: s.lstm(s.x, (s.h, s.c, s.c)), ValueError, "state", ("(h, c)", "got 3 items")),
    (lambda s: s.lstm(s.x, {"h": s.h, "c": s.c}), TypeError, "state", ("(h, c)", "got dict")),
    (lambda s: s.lstm(s.x, (s.h, None)), TypeError, "state[1] (c)", ("array", "got NoneType")),
    (lambda s: s.lstm(s.x, (s.h[:1], s.c)), ValueError, "state[0] (h)", ("(2, 2, 4)", "got (1, 2, 4)")),
    (lambda s: s.lstm(s.x, (s.h, s.c[:, :1])), ValueError, "state[1] (c)", ("(2, 2, 4)", "got (2, 1, 4)")),
    (lambda s: s.lstm(s.x, (s.h.astype(f64), s.c)), TypeError, "state[0] (h)", ("float32", "got float64", "astype")),
    (lambda s: s.lstm(s.x[:, 0], (s.h, s.c)), ValueError, "state[0] (h)", ("(2, 4)", "got (2, 2, 4)")),
    (lambda s: s.gru(s.x, (s.h[:1], s.c[:1])), TypeError, "state", ("one array h", "got a tuple", "LSTM")),
    (lambda s: s.gru(s.x, s.h), ValueError, "state", ("(1, 2, 4)", "got (2, 2, 4)")),
    # A state is layer-major even where x is batch-first.
    (lambda s: s.both(s.x, zeros((5, 2, 4), f32)), ValueError, "state", ("(2, 5, 4)", "got (5, 2, 4)")),
    # lengths
    (lambda s: s.gru(s.x, lengths=[5]), ValueError, "lengths", ("(2,)", "got (1,)")),
    (lambda s: s.gru(s.x, lengths=5), ValueError, "lengths", ("(2,)", "got ()")),
    (lambda s: s.gru(s.x, lengths=[[5, 5]]), ValueError, "lengths", ("(2,)", "got (1, 2)")),
    (lambda s: s.gru(s.x, lengths=[6, 1]), ValueError, "lengths", ("0..5", "got 6")),
    (lambda s: s.gru(s.x, lengths=[5, -1]), ValueError, "lengths", ("0..5", "got -1")),
    (lambda s: s.gru(s.x, lengths=np.array([5, 2**64 - 1], np.uint64)), ValueError, "lengths", ("0..5", f"{2**64-1}")),
    (lambda s: s.gru(s.x, lengths=[5.0, 1.0]), TypeError, "lengths", ("integers", "got float64")),
    (lambda s: s.gru(s.x, lengths=[True, False]), TypeError, "lengths", ("integers", "got bool")),
    (lambda s: s.gru(s.x, lengths=["5", "1"]), TypeError, "lengths", ("integers", "got <U1")),
    (lambda s: s.gru(s.x, lengths=[5, 2**70]), TypeError, "lengths", ("got list",)),
    (lambda s: s.gru(s.x[:, 0], lengths=[5, 5]), ValueError, "lengths", ("(1,)", "got (2,)")),
    # mask
    (lambda s: s.gru(s.x, mask=zeros((5, 2))), TypeError, "mask", ("booleans", "got float64")),
    (lambda s: s.gru(s.x, mask=zeros((5, 2), np.uint8)), TypeError, "mask", ("booleans", "got uint8")),
    (lambda s: s.gru(s.x, mask=zeros((2, 5), bool)), ValueError, "mask", ("(5, 2)", "got (2, 5)")),
    (lambda s: s.gru(s.x, mask=True), ValueError, "mask", ("(5, 2)", "got ()")),
    (lambda s: s.both(s.x, mask=zeros((2, 5), bool)), ValueError, "mask", ("(5, 2)", "got (2, 5)")),
    (lambda s: s.gru(s.x[:, 0], mask=zeros((5, 1), bool)), ValueError, "mask", ("(5,)", "got (5, 1)")),
    (lambda s: s.gru(s.x, masked_output="last"), ValueError, "masked_output", ("'zero', 'hold'", "got 'last'")),
    (lambda s: s.gru(s.x, masked_output=s.x), TypeError, "masked_output", ("'zero', 'hold'", "got ndarray")),
    # resets
    (lambda s: s.gru(s.x, resets=zeros((5, 2))), TypeError, "resets", ("booleans", "got float64")),
    (lambda s: s.gru(s.x, resets=zeros((5, 2), np.uint8)), TypeError, "resets", ("booleans", "got uint8")),
    (lambda s: s.gru(s.x, resets=zeros((2, 5), bool)), ValueError, "resets", ("(5, 2)", "got (2, 5)")),
    (lambda s: s.gru(s.x, resets=zeros(5, bool)), ValueError, "resets", ("(5, 2)", "got (5,)")),
    (lambda s: s.both(s.x, resets=zeros((2, 5), bool)), ValueError, "resets", ("(5, 2)", "got (2, 5)")),
    (lambda s: s.gru(s.x[:, 0], resets=zeros((5, 1), bool)), ValueError, "resets", ("(5,)", "got (5, 1)")),
    # backward
    (lambda s: s.lstm.backward(None, s.y), TypeError, "tape", ("Tape from forward()", "got NoneType")),
    (lambda s: s.lstm.backward(s.y, s.y), TypeError, "tape", ("Tape from forward()", "got ndarray")),
    (lambda s: s.lstm.backward(other_tape(), s.y), ValueError, "tape", ("this layer's", "got another layer's")),
    (lambda s: s.lstm.backward(s.tape), ValueError, "dy, dstate", ("at least one", "got neither")),
    (lambda s: s.lstm.backward(s.tape, s.y[:4]), ValueError, "dy", ("(5, 2, 4)", "got (4, 2, 4)")),
    (lambda s: s.lstm.backward(s.tape, s.y[:, 0]), ValueError, "dy", ("(5, 2, 4)", "got (5, 4)")),
    (lambda s: s.lstm.backward(s.tape, s.y.astype(f64)), TypeError, "dy", ("float32", "got float64", "dy.astype")),
    (lambda s: s.lstm.backward(s.tape, 1.0), ValueError, "dy", ("(5, 2, 4)", "got ()")),
    (lambda s: s.lstm.backward(s.tape, f64(1)[None]), TypeError, "dy", ("float32", "got float64")),
    (lambda s: s.lstm.backward(s.tape, s.y, s.h), TypeError, "dstate", ("(h, c)", "got ndarray")),
    (lambda s: s.lstm.backward(s.tape, None, (s.h, s.c[:1])), ValueError, "dstate[1] (c)", ("(2, 2, 4)", "(1, 2, 4)")),
    (lambda s: s.lstm.backward(s.tape, None, (s.h.astype(f64), s.c)), TypeError, "dstate[0] (h)", ("float32",)),
    # gates
    (lambda s: s.tape.gates(2), IndexError, "layer", ("0 to 1", "got 2")),
    (lambda s: s.tape.gates("0"), TypeError, "layer", ("integer", "got str")),
    (lambda s: s.tape.gates(0, 1), IndexError, "direction", ("0 to 0", "got 1")),
    (lambda s: s.tape.gates(0, 0.0), TypeError, "direction", ("integer", "got float")),
    # Parameters
    (lambda s: replaced(s, without=["bias_hh_l0"]), ValueError, "params", ("bias_hh_l0 of shape (12,)",)),
    (lambda s: replaced(s, bias_hh_l0=zeros(4, f32)), ValueError, "bias_hh_l0", ("(12,)", "got (4,)")),
    (lambda s: replaced(s, bias_hh_l0=zeros(12)), TypeError, "bias_hh_l0", ("float32", "got float64")),
    (lambda s: replaced(s, weight_ih_l0=None), TypeError, "weight_ih_l0", ("array", "got NoneType")),
    (lambda s: loaded(s, bias_hh_l0=zeros(4, f32)), ValueError, "bias_hh_l0", ("(12,)", "got (4,)")),
    (lambda s: loaded(s, bias_hh_l0=zeros(12)), TypeError, "bias_hh_l0", ("float32", "got float64", "astype")),
    (lambda s: s.gru.load_state_dict(list(s.gru.params)), TypeError, "mapping", ("names and arrays", "got list")),
    (lambda s: s.gru.load_state_dict(None), TypeError, "mapping", ("names and arrays", "got NoneType")),
    # Streams
    (lambda s: s.both.freeze().stream(), ValueError, "stream", ("unidirectional", "got a bidirectional")),
    (lambda s: s.lstm.freeze().stream(0), ValueError, "batch_size", ("at least 1", "got 0")),
    (lambda s: s.lstm.freeze().stream(1.0), TypeError, "batch_size", ("integer", "got float")),
    (lambda s: s.lstm.freeze().stream(2**62), ValueError, "batch_size", ("addressed", "got 4611686018427387904 * 2")),
    (lambda s: s.lstm.freeze().stream(2**64), ValueError, "batch_size", ("fits this machine", "got 18446744073709")),
    (lambda s: s.lstm.freeze().stream(True), TypeError, "batch_size", ("integer", "got a bool")),
    (lambda s: stepped(s, x=s.x[0, :1]), ValueError, "x", ("(2, 3)", "got (1, 3)")),
    (lambda s: stepped(s, x=s.x), ValueError, "x", ("(2, 3)", "got (5, 2, 3)")),
    (lambda s: stepped(s, x=s.x[0, 0]), ValueError, "x", ("(2, 3)", "got (3,)")),
    (lambda s: s.gru.freeze().stream().step(s.x[0, 0, :2]), ValueError, "x", ("(3,)", "got (2,)")),
    (lambda s: s.gru.freeze().stream().step(s.x[0, 0], s.out[:1]), ValueError, "out", ("(4,)", "got (1, 4)")),
    (lambda s: s.gru.freeze().stream().step(s.x[0, :1], s.out[0]), ValueError, "out", ("(1, 4)", "got (4,)")),
    (lambda s: stepped(s, x=s.x[0].astype(f64)), TypeError, "x", ("float32", "got float64")),
    (lambda s: stepped(s, out=s.out[:1]), ValueError, "out", ("(2, 4)", "got (1, 4)")),
    (lambda s: stepped(s, out=s.out.astype(f64)), TypeError, "out", ("float32", "got float64")),
    (lambda s: stepped(s, out=s.out.tolist()), TypeError, "out", ("numpy.ndarray", "got list")),
    (lambda s: stepped(s, out=zeros((4, 2), f32).T), ValueError, "out", ("writeable C-contiguous", "got one that")),
    (lambda s: stepped(s, out=read_only(s.out)), ValueError, "out", ("writeable C-contiguous", "got one that")),
    (lambda s: stepped(s, x=s.x[0], rows=[0]), ValueError, "x", ("(1, 3)", "a row for each of", "got (2, 3)")),
    (lambda s: stepped(s, x=s.x[0, :1], rows=[True, False]), ValueError, "x", ("(2, 3)", "got (1, 3)")),
    (lambda s: stepped(s, x=s.x[0, 0], rows=[1, 0]), ValueError, "x", ("(2, 3)", "got (3,)")),
    (lambda s: stepped(s, x=s.x[0, :1], rows=[0], out=s.out), ValueError, "out", ("(1, 4)", "got (2, 4)")),
    (lambda s: stepped(s, x=s.x[0, 0], rows=0, out=s.out[:1]), ValueError, "out", ("(4,)", "got (1, 4)")),
    (lambda s: stepped(s, rows=[1, 1]), ValueError, "rows", ("distinct rows", "got 1 more than once")),
    (lambda s: stepped(s, rows=np.array([1, 1]), out=s.out), ValueError, "rows", ("distinct rows", "got 1 more than")),
    (lambda s: stepped(s, rows=np.array([0, 1, 0]), x=zeros((3, 3), f32)), ValueError, "rows", ("distinct", "got 0")),
    (lambda s: stepped(s, rows=np.array([0, 2]), out=s.out), IndexError, "rows", ("0..1", "got 2")),
    (lambda s: stepped(s, rows=np.array([0, -1]), out=s.out), IndexError, "rows", ("0..1", "got -1")),
    (lambda s: stepped(s, rows=2), IndexError, "rows", ("0..1", "got 2")),
    (lambda s: stepped(s, rows=2**64), TypeError, "rows", ("array of numbers", "got int of objects")),
    (lambda s: stepped(s, rows=[0.0, 1.0]), TypeError, "rows", ("integers or booleans", "got float64")),
    (lambda s: stepped(s, rows=[True]), ValueError, "rows", ("mask of shape (2,)", "got (1,)")),
    (lambda s: stepped(s, rows=[[0, 1]]), ValueError, "rows", ("row or a list of rows", "got shape (1, 2)")),
    (lambda s: stepped(s, rows="all"), TypeError, "rows", ("integers or booleans", "got <U3")),
    (lambda s: stepped(s, rows=[0, 1], x=s.x[0].astype(f64)), TypeError, "x", ("float32", "got float64")),
    (lambda s: stepped(s, rows=[0, 1], out=read_only(s.out)), ValueError, "out", ("writeable C-contiguous", "got one")),
    (lambda s: s.stream.reset(2), IndexError, "rows", ("0..1", "got 2")),
    (lambda s: s.stream.reset([0, -1]), IndexError, "rows", ("0..1", "got -1")),
    (lambda s: s.stream.reset(0.0), TypeError, "rows", ("integers or booleans", "got float64")),
    (lambda s: s.stream.reset([True]), ValueError, "rows", ("mask of shape (2,)", "got (1,)")),
    (lambda s: s.stream.reset(True), ValueError, "rows", ("mask of shape (2,)", "got ()")),
    (lambda s: s.stream.reset([[0, 1]]), ValueError, "rows", ("row or a list of rows", "got shape (1, 2)")),
    (lambda s: s.stream.reset("all"), TypeError, "rows", ("integers or booleans", "got <U3")),
    (lambda s: set_state(s, s.h), TypeError, "state", ("(h, c)", "got ndarray")),
    (lambda s: set_state(s, (s.h, s.c[:, :1])), ValueError, "state[1] (c)", ("(2, 2, 4)", "got (2, 1, 4)")),
    (lambda s: set_state(s, (s.h, s.c.astype(f64))), TypeError, "state[1] (c)", ("float32", "got float64")),
    # Threads and engines
    (lambda s: fastrnn.set_num_threads(0), ValueError, "n", ("1 to", "got 0")),
    (lambda s: fastrnn.set_num_threads(10**9), ValueError, "n", ("1 to", "got 1000000000")),
    (lambda s: fastrnn.set_num_threads(2.0), TypeError, "n", ("integer", "got float")),
    (lambda s: fastrnn.set_num_threads(True), TypeError, "n", ("integer", "got a bool")),
    (lambda s: entered(fastrnn.num_threads(-1)), ValueError, "n", ("1 to", "got -1")),
    (lambda s: entered(fastrnn.num_threads(None)), TypeError, "n", ("integer", "got NoneType")),
    (lambda s: entered(fastrnn.engines.use("warp")), ValueError, "name", ("one of", "reference", "got 'warp'")),
]  # fmt: skip


def label(case: Any) -> str:
    return f"{CASES.index(case)} {case[2]}"


@pytest.mark.parametrize("case", CASES, ids=label)
def test_misuse(engine: str, case: tuple) -> None:
    misuse, error, name, said = case
    s = Subjects()
    before = s.everything()
    with pytest.raises(error) as caught:
        misuse(s)
    assert caught.type is error, "a subclass says something else"
    message = str(caught.value)
    assert message.startswith(name), message
    assert message[len(name)] in ":,", message  # of two sizes that are too large together, either may come first
    for part in ("expected", "got", *said):
        assert part in message, message
    for a, b in zip(s.everything(), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("bias_hh_l0"), "missing ['bias_hh_l0'], unknown []"),
        (lambda d: d.update(weight_hr_l0=0), "missing [], unknown ['weight_hr_l0']"),
        (lambda d: d.clear(), "missing ['weight_ih_l0'"),
    ],
)
def test_names_of_a_state_dict(change: Callable, said: str) -> None:
    layer = fastrnn.GRU(3, 4, rng=0)
    before, mapping = layer.state_dict(), fastrnn.GRU(3, 4, rng=1).state_dict()
    change(mapping)
    with pytest.raises(ValueError, match=r"^mapping: expected weight_ih_l0, weight_hh_l0") as caught:
        layer.load_state_dict(mapping)
    assert said in str(caught.value)
    for name, value in before.items():
        np.testing.assert_array_equal(layer.params[name], value)


def test_a_size_that_only_blas_cannot_count(compiled: str) -> None:
    """2**21 values a row, in as many rows as there may be threads, are more than 32 bits count."""
    layer = fastrnn.RNN(2**21, 1, rng=0)
    x = np.zeros((2, 1, 2**21), np.float32)
    x[..., -1] = 1
    if compiled == "blas" and blas.integer_bytes == 4:
        with pytest.raises(ValueError, match=r"^x, hidden_size: expected sizes that fit BLAS's integer, got larger"):
            layer(x)
        return
    with fastrnn.engines.use("reference"):
        expected, _ = layer(x)
    y, _, tape = layer.forward(x)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    np.testing.assert_allclose(layer.freeze().stream().step(x[0]), expected[0], atol=1e-6)
    grads = layer.backward(tape, np.ones_like(y))
    np.testing.assert_allclose(grads.params["weight_ih_l0"][0, -1], grads.params["bias_ih_l0"][0], rtol=1e-5)


def test_wrong_keywords_are_errors() -> None:
    """Options belong to the cells that have them, and lengths and resets are not positional."""
    x = np.zeros((2, 1, 3), np.float32)
    with pytest.raises(TypeError, match="peephole"):
        fastrnn.GRU(3, 4, peephole=True)
    with pytest.raises(TypeError, match="reset_after"):
        fastrnn.LSTM(3, 4, reset_after=True)
    with pytest.raises(TypeError, match="positional"):
        fastrnn.GRU(3, 4)(x, None, [2])


@pytest.mark.parametrize("method", ["__call__", "forward"])
def test_a_failed_call_draws_no_random_numbers(engine: str, method: str) -> None:
    """Dropout goes on as if it had not been."""
    x = np.ones((3, 2, 3), np.float32)
    one, other = (fastrnn.GRU(3, 4, num_layers=2, dropout=0.5, rng=0) for _ in range(2))
    with pytest.raises(ValueError, match="lengths"):
        getattr(one, method)(x, lengths=[9, 9])
    np.testing.assert_array_equal(one.forward(x)[0], other.forward(x)[0])


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FASTRNN_ENGINE", "warp"),
        ("FASTRNN_ISA", "avx9"),
        ("FASTRNN_NUM_THREADS", "0"),
        ("FASTRNN_NUM_THREADS", "many"),
        ("FASTRNN_NUM_THREADS", "-2"),
        ("FASTRNN_NUM_THREADS", "1000000"),
    ],
)
def test_an_environment_variable_that_cannot_be_followed(variable: str, value: str) -> None:
    """Naming an engine, an instruction set or a number of threads that is not there is an error, not ignored."""
    done = run_python("import fastrnn", **{variable: value})
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ValueError: {variable}: expected "), done.stderr
    assert "got" in last
    assert value in last


@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_environment_variable_is_none(value: str) -> None:
    code = "import fastrnn; print(fastrnn.engines.current().name, fastrnn.get_num_threads())"
    plain = run_python(code)
    empty = run_python(code, FASTRNN_ENGINE=value.strip(), FASTRNN_ISA=value.strip(), FASTRNN_NUM_THREADS=value)
    assert plain.returncode == empty.returncode == 0, empty.stderr
    assert plain.stdout == empty.stdout
