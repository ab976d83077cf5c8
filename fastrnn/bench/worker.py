"""A contender in a process of its own: it loads problems or whole models, returns results and measures times.

This script also runs in interpreters that have no fastrnn: NumPy and the contender's library are enough. Only the
contender "fastrnn" imports fastrnn. Commands are lines of JSON on stdin, and each is answered by one line; arrays are
passed in .npz files. Engines in the calling process are timed by the same functions (`median_seconds`).

Usage: python worker.py CONTENDER THREADS
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

if os.path.dirname(os.path.realpath(__file__)) in sys.path:  # fastrnn/bench must not hide top-level modules
    sys.path.remove(os.path.dirname(os.path.realpath(__file__)))

import numpy as np

__all__ = ["MEASURES_MEMORY", "median_seconds", "memory_size", "reset_memory_peak", "wait_until_idle"]

# What is timed, and what collects the results of one such run under the names of `contenders.Runner.results`.
Solution = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]

# ---- How long a call takes -----------------------------------------------------------------------------------------

LONG_SECONDS = 0.1  # a run that takes longer warms itself up
SAMPLE_SECONDS = 2e-4  # shorter runs are timed several together, because reading the clock takes 0.1 us


def median_seconds(call: Callable[[], Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> float:
    """Warm up, call for about `seconds` seconds, and return the median time of a call, by that clock."""
    timer = timeit.Timer(call, timer=clock)  # switches off the garbage collector while it measures
    once = timer.timeit(1)
    if once > max(seconds, LONG_SECONDS):
        return once
    if once < 10 * SAMPLE_SECONDS:  # the first call takes longer than the others
        once = min(timer.repeat(5, 1))
    number = max(1, round(SAMPLE_SECONDS / max(once, 1e-9)))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        samples.append(timer.timeit(number) / number)
    return median(samples)


def wait_until_idle(at_most: float = 0.5, step: float = 0.005) -> None:
    """Wait until no thread of this process works.

    The threads of an OpenBLAS spin for 0.1 s after their work, which would halve the speed of what runs next.
    """
    end = time.perf_counter() + at_most
    while time.perf_counter() < end:
        begin, busy = time.perf_counter(), time.process_time()
        time.sleep(step)
        if time.process_time() - busy < 0.1 * (time.perf_counter() - begin):
            return


# ---- How much memory the process takes -----------------------------------------------------------------------------


MEASURES_MEMORY = os.access("/proc/self/clear_refs", os.W_OK)  # on Linux


def memory_size(field: str) -> int:
    """Return a size of this process in bytes: "VmRSS" in memory now, "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


def reset_memory_peak() -> None:
    """Let the peak be the size of now."""
    Path("/proc/self/clear_refs").write_text("5")


# ---- Contenders: each prepares a problem ---------------------------------------------------------------------------
#
# A problem has cell, options, kind, precision, threads, and the arrays x, dy and params. Names, shapes and order of
# gates are those of PyTorch, or fastrnn's where it has none. All contenders start from a state of zeros, which is their
# default. Where weights have fewer bits than float32, arrays are float32 all the same; each contender rounds the
# weights in its own way.


def load_fastrnn(problem: Any) -> Solution:
    """Prepare fastrnn, whose engine and threads are set by FASTRNN_ENGINE and FASTRNN_NUM_THREADS."""
    from fastrnn.bench.problems import Problem, solve
    from fastrnn.layers import LAYERS

    _, _, I = problem.x.shape
    layer = LAYERS[problem.cell](I, problem.dy.shape[-1], dtype=problem.x.dtype, **problem.options)
    layer.load_state_dict(problem.params)
    return solve(problem.kind, Problem(layer, problem.x, (), problem.dy, (), problem.precision))


def load_torch(problem: Any) -> Solution:
    """Prepare PyTorch. With bfloat16, x and y are bfloat16 as well, and are not converted while time is taken."""
    import torch

    torch.set_num_threads(problem.threads)
    I, H = problem.x.shape[-1], problem.dy.shape[-1]
    module = getattr(torch.nn, problem.cell.upper())(I, H).to(getattr(torch, str(problem.x.dtype)))
    module.load_state_dict({name: torch.from_numpy(value) for name, value in problem.params.items()})
    x = torch.from_numpy(problem.x)
    if problem.precision == "int8":  # this replaces the modules within a module
        whole = torch.nn.ModuleList([module])
        (module,) = torch.ao.quantization.quantize_dynamic(whole, {type(module)}, dtype=torch.qint8)
    elif problem.precision == "bfloat16":
        module, x = module.bfloat16(), x.bfloat16()
    return solve_torch(problem, module, x, lambda: dict(module.named_parameters()))


def load_loop(problem: Any, compiled: bool = False) -> Solution:
    """Prepare a PyTorch user's own loop over the steps of a cell."""
    import torch

    torch.set_num_threads(problem.threads)
    loops = neighbour("loops/torch.py")
    params = {name.removesuffix("_l0"): torch.from_numpy(value) for name, value in problem.params.items()}
    module = loops.build(problem.cell, problem.options, params)
    if compiled:
        loops.compile_step(module)
    return solve_torch(problem, module, torch.from_numpy(problem.x), lambda: loops.named(module))


def load_compiled(problem: Any) -> Solution:
    """Prepare such a loop with torch.compile. What it compiles is compiled when the problem is loaded."""
    return load_loop(problem, compiled=True)


def solve_torch(problem: Any, module: Any, x: Any, params: Callable[[], dict[str, Any]]) -> Solution:
    """Return the solution of a module that takes x and returns y and a state; `params` are those with gradients."""
    import torch

    dy = torch.from_numpy(problem.dy)

    def infer() -> Any:
        with torch.inference_mode():
            return module(x)[0]

    def train() -> Any:
        module.zero_grad()
        x.grad = None
        y, _ = module(x)
        y.backward(dy)
        return y

    def gradients() -> dict[str, Any]:
        y = train().detach()
        return with_gradients(y, x.grad, {name: parameter.grad for name, parameter in params().items()})

    if problem.kind == "inference":
        module.eval()
        return infer, lambda: {"y": infer().to(dy.dtype)}
    x.requires_grad_()
    return train, gradients


def load_onnxruntime(problem: Any) -> Solution:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = problem.threads, 1
    session = onnxruntime.InferenceSession(onnx_model(problem), options, providers=["CPUExecutionProvider"])

    def infer() -> Any:
        return session.run(None, {"X": problem.x})

    return infer, lambda: {"y": infer()[0][:, 0]}


def load_openvino(problem: Any) -> Solution:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": problem.threads, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if problem.precision == "bfloat16" else "f32",
    }  # fmt: skip
    core = openvino.Core()
    request = core.compile_model(core.read_model(onnx_model(problem)), "CPU", settings).create_infer_request()

    def infer() -> Any:
        return request.infer({"X": problem.x})

    return infer, lambda: {"y": infer()[0][:, 0]}


# The places of ONNX's gates (i, o, f, g and z, r, n) among PyTorch's.
ONNX_GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}


def onnx_model(problem: Any) -> bytes:
    """Return a model of one node, with the weights as constants, from X (T, B, I) to Y (T, 1, B, H).

    With int8, the node is ONNX Runtime's own LSTM, with signed weights and a scale for each matrix. That is the fastest
    of its forms, and the one that its tool writes unless it is asked for another.
    """
    import onnx
    from onnx import TensorProto, helper

    (T, B, I), H, order = problem.x.shape, problem.dy.shape[-1], ONNX_GATES[problem.cell]

    def reordered(name: str) -> Any:
        value = problem.params[f"{name}_l0"]
        return value.reshape(len(order), H, -1)[list(order)].reshape(value.shape)[None]

    biases = np.concatenate([reordered("bias_ih"), reordered("bias_hh")], axis=1)
    constants = {"W": reordered("weight_ih"), "R": reordered("weight_hh"), "B": biases}
    options: dict[str, Any] = {"linear_before_reset": 1} if problem.cell == "gru" else {}
    name, inputs, domains = problem.cell.upper(), ["X", *constants], [helper.make_opsetid("", 17)]
    if problem.precision == "int8":
        name, options = "DynamicQuantizeLSTM", {"domain": "com.microsoft"}
        domains.append(helper.make_opsetid("com.microsoft", 1))
        quantities = ("scale", "zero_point")
        inputs += ["", "", "", "", *(f"{factor}_{quantity}" for factor in "WR" for quantity in quantities)]
        for factor in "WR":
            scale = np.abs(constants[factor]).max(axis=(1, 2)) / np.float32(127)
            constants[factor] = np.rint(constants[factor] / scale).astype(np.int8).swapaxes(1, 2)
            constants |= {f"{factor}_scale": scale, f"{factor}_zero_point": np.zeros(scale.shape, np.int8)}
    node = helper.make_node(name, inputs, ["Y"], hidden_size=H, **options)
    graph = helper.make_graph(
        [node], "cell", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [T, B, I])],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, [T, 1, B, H])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 8  # the version that came with opset 17; runtimes refuse versions that they do not know
    return bytes(model.SerializeToString())


def load_jax(problem: Any) -> Solution:
    """Prepare JAX: a compiled scan over the steps. The inputs of all steps are projected before it, in one product."""
    import jax
    from jax import numpy as jnp

    if problem.x.dtype == np.float64:
        jax.config.update("jax_enable_x64", True)
    cell, B, H = problem.cell, problem.x.shape[1], problem.dy.shape[-1]
    sigmoid, tanh = jax.nn.sigmoid, jnp.tanh

    def step(weights: dict[str, Any], carry: Any, a: Any) -> Any:
        h = carry[0]
        if cell == "lstm":
            i, f, g, o = jnp.split(a + h @ weights["weight_hh_l0"], 4, -1)
            c = sigmoid(f) * carry[1] + sigmoid(i) * tanh(g)
            h = sigmoid(o) * tanh(c)
            return (h, c), h
        if cell == "gru":
            r, z, n = jnp.split(h @ weights["weight_hh_l0"] + weights["bias_hh_l0"], 3, -1)
            a_r, a_z, a_n = jnp.split(a, 3, -1)
            z = sigmoid(a_z + z)
            h = (1 - z) * tanh(a_n + sigmoid(a_r + r) * n) + z * h
            return (h,), h
        h = tanh(a + h @ weights["weight_hh_l0"])
        return (h,), h

    def forward(weights: dict[str, Any], x: Any) -> Any:
        carry = tuple(jnp.zeros((B, H), x.dtype) for _ in range(2 if cell == "lstm" else 1))
        a = x @ weights["weight_ih_l0"] + weights["bias_ih_l0"]
        return jax.lax.scan(lambda carry, a_t: step(weights, carry, a_t), carry, a)[1]

    weights = {name: jnp.asarray(np.ascontiguousarray(value.T)) for name, value in problem.params.items()}
    if cell != "gru":  # the two biases are only ever added: one array holds their sum
        weights["bias_ih_l0"] += weights.pop("bias_hh_l0")
    x, dy = jnp.asarray(problem.x), jnp.asarray(problem.dy)
    infer = jax.jit(forward)
    if problem.kind == "inference":
        return lambda: jax.block_until_ready(infer(weights, x)), lambda: {"y": infer(weights, x)}
    differentiate = jax.jit(jax.grad(lambda weights, x: (forward(weights, x) * dy).sum(), argnums=(0, 1)))

    def gradients() -> dict[str, Any]:
        named, dx = differentiate(weights, x)
        return with_gradients(infer(weights, x), dx, {"bias_hh_l0": named["bias_ih_l0"], **named}, transposed=True)

    return lambda: jax.block_until_ready(differentiate(weights, x)), gradients


def neighbour(path: str) -> Any:
    """Import a file of this folder, also where there is no fastrnn."""
    file = Path(__file__).resolve().parent / path
    spec = importlib.util.spec_from_file_location(f"fastrnn_{file.parent.name}_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def with_gradients(y: Any, dx: Any, dparams: dict[str, Any], transposed: bool = False) -> dict[str, Any]:
    named = {f"grad {name}": value.T if transposed else value for name, value in dparams.items()}
    return {"y": y, "grad x": dx, **named}


# For each contender the modules that it must import, and the function that prepares a problem.
LOADERS: dict[str, tuple[tuple[str, ...], Callable[[Any], Solution]]] = {
    "fastrnn": (("fastrnn",), load_fastrnn),
    "torch": (("torch",), load_torch),
    "loop": (("torch",), load_loop),
    "compiled": (("torch",), load_compiled),
    "onnxruntime": (("onnxruntime", "onnx"), load_onnxruntime),
    "openvino": (("openvino", "onnx"), load_openvino),
    "jax": (("jax",), load_jax),
}

# For each contender with whole models the modules that it must import, and the file of models/ that has its models.
MODELS: dict[str, tuple[tuple[str, ...], str]] = {
    "kit": (("fastrnn",), "kit"),
    "torch": (("torch",), "torch"),
    "accelerate": (("torch", "fastrnn.torch"), "torch"),
    "jax": (("jax",), "jax"),
}
# What a batch of a whole model has, unless the file says otherwise.
NO_BATCH = {"x": None, "y": None, "x_lengths": None, "y_lengths": None, "follows": False}

# ---- Commands ------------------------------------------------------------------------------------------------------


class Worker:
    """Carries out commands: each public method is one, and returns the fields of the answer."""

    def __init__(self, contender: str, threads: int) -> None:
        self._contender, self._threads = contender, threads
        self._solution: Solution | None = None
        modules = LOADERS[contender][0] if contender in LOADERS else MODELS[contender][0]
        library, *_ = [importlib.import_module(name) for name in modules]
        self.version = library.__version__

    def load(
        self, path: str, cell: str, kind: str, precision: str, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """Prepare the problem in a file, and warm up."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        x, dy = arrays.pop("x"), arrays.pop("dy")
        self._solution = None  # frees the one before
        problem = SimpleNamespace(
            cell=cell, options=options or {}, kind=kind, precision=precision, threads=self._threads, x=x, dy=dy,
            params=arrays,
        )  # fmt: skip
        self._solution = call, _ = LOADERS[self._contender][1](problem)
        call()
        call()
        return {}

    def build(
        self, path: str, model: str, sizes: dict[str, Any], kind: str, steps: int | None = None
    ) -> dict[str, Any]:  # fmt: skip
        """Build a whole model, with the parameters and the batches of a file.

        The names of their arrays are "param <name>", "batch <number> <field>" and "valid <number> <field>". A call goes
        through all batches, or takes so many steps; with valid batches, results are those of their loss.
        """
        self._before = memory_size("VmRSS") if MEASURES_MEMORY else 0
        module = neighbour(f"models/{MODELS[self._contender][1]}.py")
        params: dict[str, Any] = {}
        batches: dict[str, dict[str, Any]] = {"batch": {}, "valid": {}}
        with np.load(path) as arrays:
            for name in arrays.files:
                what, _, rest = name.partition(" ")
                if what == "param":
                    params[rest] = arrays[name]
                else:
                    number, _, field = rest.partition(" ")
                    batches[what].setdefault(number, SimpleNamespace(**NO_BATCH)).__dict__[field] = arrays[name]
        given, valid = (list(found.values()) for found in batches.values())
        self._solution = module.load(
            SimpleNamespace(
                model=model, sizes=SimpleNamespace(**sizes), kind=kind, threads=self._threads, params=params,
                batches=given, valid=valid, steps=steps or len(given), accelerated=self._contender == "accelerate",
            )
        )  # fmt: skip
        return {}

    def once(self) -> dict[str, Any]:
        """Call once, and return the seconds."""
        assert self._solution is not None
        return {"seconds": timeit.Timer(self._solution[0]).timeit(1)}

    def memory(self) -> dict[str, Any]:
        """Return in bytes the process's peak size since the last such call, and its size before the model was built."""
        if not MEASURES_MEMORY:
            return {"peak": 0, "before": 0}
        peak = memory_size("VmHWM")
        reset_memory_peak()
        return {"peak": peak, "before": self._before}

    def results(self, path: str) -> dict[str, Any]:
        """Write the results of a run to a file."""
        assert self._solution is not None
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in self._solution[1]().items()}
        np.savez(path, **arrays)
        return {}

    def measure(self, seconds: float) -> dict[str, Any]:
        """See `contenders.Runner.measure`."""
        assert self._solution is not None
        return {"seconds": median_seconds(self._solution[0], seconds)}


def main() -> None:
    # Answers go to the original stdout; what libraries print to stdout goes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    try:
        worker = Worker(sys.argv[1], int(sys.argv[2]))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}")
        return
    answer(version=worker.version)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            fields = getattr(worker, command.pop("do"))(**command)
            wait_until_idle()  # threads that still spin would slow down the next contender
            answer(**fields)
        except Exception as error:
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
