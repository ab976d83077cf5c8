"""torch.compile, torch.export and AOT of accelerated models: one graph, our kernels, and the same results."""

import copy
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence  # noqa: E402
from twins import assert_close, parts, twins  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn.torch import accelerate, operators, restore  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _compile_anew() -> Any:
    yield
    torch.compiler.reset()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which of the kernels' runs have taken place in operators, by the names of the functions."""
    names: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: names.append(name) or function(*args)

    for name in ("run", "forward", "backward"):
        monkeypatch.setattr(operators.function, name, watched(name, getattr(operators.function, name)))
    return names


def compiled(model: Any, backend: Any = "aot_eager", **options: Any) -> Any:
    return torch.compile(model, **({"backend": backend, "fullgraph": True} | options))


def results(model: Any, *given: Any) -> list[Any]:
    """The results of a call and the gradients of what was given and of parameters; the loss has a part of each."""
    given = tuple(t.clone().requires_grad_() if t.is_floating_point() else t for t in given)
    found = torch.utils._pytree.tree_leaves(model(*given))
    leaves = [*(t for t in given if t.requires_grad), *model.parameters()]
    loss = sum(torch.sin(t * (k + 1)).sum() for k, t in enumerate(found))
    return [*(t.detach() for t in found), *torch.autograd.grad(loss, leaves, allow_unused=True)]


def assert_same(actual: list[Any], expected: list[Any]) -> None:
    for k, (a, b) in enumerate(zip(actual, expected, strict=True)):
        assert_close(a, b, "gradient", f"result {k}")


class Net(torch.nn.Module):
    """A layer inside a model."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Any, *hx: Any) -> Any:
        y, state = self.layer(x * 1, *([hx if len(hx) == 2 else hx[0]] if hx else []))
        return y * 2, state


# ---- A layer, compiled ----------------------------------------------------------------------------------------------

LAYERS = {
    "LSTM": ("LSTM", {}, False),
    "GRU, stacked, bidirectional": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}, True),
    "LSTM, projected": ("LSTM", {"num_layers": 2, "proj_size": 2, "bidirectional": True}, True),
    "RNN, dropout": ("RNN", {"num_layers": 3, "dropout": 0.4, "bias": False, "nonlinearity": "relu"}, False),
}


@pytest.mark.parametrize(("cell", "options", "state"), LAYERS.values(), ids=LAYERS)
def test_layers(cell: str, options: dict[str, Any], state: bool, ran: list[str]) -> None:
    own, fast = map(Net, twins(cell, 3, 4, **options))
    given = [torch.randn(5, 2, 3)]
    if state:
        given += map(torch.randn_like, parts(own.layer(given[0]))[1:])
    torch.manual_seed(3)
    expected = results(own, *given)
    fc = compiled(fast)
    torch.manual_seed(3)  # dropout draws PyTorch's numbers
    assert_same(results(fc, *given), expected)
    assert ran == ["forward", "backward"]
    with torch.no_grad():
        torch.manual_seed(4)
        expected = own(*given)[0]
        torch.manual_seed(4)
        assert_close(fc(*given)[0], expected, "output", "y")
    assert ran[2:] == ["run"]


def test_unbatched_and_double(ran: list[str]) -> None:
    own, fast = map(Net, twins("LSTM", 3, 4, dtype=torch.float64))
    x = torch.randn(5, 3, dtype=torch.float64)
    assert_same(results(compiled(fast), x), results(own, x))
    assert ran == ["forward", "backward"]


@pytest.mark.parametrize("marked", [False, True], ids=["plain", "marked"])
def test_sizes_change_without_new_graphs(marked: bool) -> None:
    graphs = []

    def backend(graph: Any, given: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    own, fast = map(Net, twins("LSTM", 3, 4, 2, dropout=0.5))
    fc = compiled(fast, backend)
    for T, B in ((5, 2), (6, 3), (7, 4), (9, 5), (3, 8)):
        x = torch.randn(T, B, 3)
        if marked:
            torch._dynamo.mark_dynamic(x, 0)
            torch._dynamo.mark_dynamic(x, 1)
        torch.manual_seed(0)
        expected = own(x)[0]
        torch.manual_seed(0)
        assert_close(fc(x)[0], expected, "output", "y")
    assert len(graphs) == (1 if marked else 2)


def test_y_in_place(ran: list[str]) -> None:
    """As in PyTorch, y may be changed before the backward pass, in whatever runs the graph."""
    own, fast = twins("GRU", 3, 4)
    x = torch.randn(5, 2, 3)

    def changed(layer: Any) -> Any:
        def model(x: Any) -> Any:
            return layer(x)[0].relu_()

        model.parameters = layer.parameters  # type: ignore[attr-defined]
        return model

    expected = results(changed(own), x)
    for backend in ("eager", "aot_eager"):
        model = compiled(changed(fast), backend)
        model.parameters = fast.parameters
        assert_same(results(model, x), expected)


@pytest.mark.parametrize("ordered", [False, True], ids=["any order", "sorted"])
def test_packed(ordered: bool) -> None:
    """Sorted before it was packed, a PackedSequence does not show B in its shapes: then the graph breaks."""
    own, fast = twins("LSTM", 3, 4, bidirectional=True)
    fc = compiled(fast, fullgraph=not ordered)
    for lengths in ((4, 2, 1), (5, 5, 3, 1)):
        order = lengths if ordered else lengths[::-1]
        padded = torch.randn(5, len(order), 3)
        packed = pack_padded_sequence(padded, torch.tensor(order), enforce_sorted=ordered)
        found, expected = fc(packed), own(packed)
        assert type(found[0]) is PackedSequence
        assert_same(parts(found), parts(expected))
        pairs = (found, fast), (expected, own)
        assert_same(*(list(torch.autograd.grad(y.data.sum(), layer.parameters())) for (y, _), layer in pairs))


def test_masks_break_the_graph() -> None:
    layer, x = fastrnn.torch.LSTM(3, 4), torch.randn(5, 2, 3)
    mask = torch.rand(5, 2) > 0.4
    assert_same(parts(compiled(layer, fullgraph=False)(x, mask=mask)), parts(layer(x, mask=mask)))
    with pytest.raises(NotImplementedError, match=r"mask: expected None under torch\.export"):
        torch.export.export(layer, (x,), {"mask": mask})


def test_what_pytorch_computes() -> None:
    """Transforms, and errors, are PyTorch's."""
    own, fast = twins("GRU", 3, 4)
    x = torch.randn(5, 2, 3)
    gradient = torch.compile(torch.func.grad(lambda x: fast(x)[0].sum()), backend="aot_eager")
    assert_close(gradient(x), torch.func.grad(lambda x: own(x)[0].sum())(x), "gradient", "gradient")
    for wrong in (x[:, :, :2], x[:0]):
        with pytest.raises(Exception, match=r".+") as expected:
            own(wrong)
        with pytest.raises(Exception, match=r".+") as found:
            compiled(fast, fullgraph=False)(wrong)
        assert str(found.value) == str(expected.value)


def test_functional_call() -> None:
    own, fast = twins("LSTM", 3, 4)
    x = torch.randn(5, 2, 3)

    def called(layer: Any) -> Any:
        def model(x: Any, *params: Any) -> Any:
            return torch.func.functional_call(layer, dict(zip(dict(layer.named_parameters()), params, strict=True)), x)

        model.parameters = list  # type: ignore[attr-defined]
        return model

    params = [torch.randn_like(p) for p in own.parameters()]
    expected = results(called(own), x, *params)
    assert_same(results(called(fast), x, *params), expected)
    model = compiled(called(fast))
    model.parameters = list
    assert_same(results(model, x, *params), expected)


# ---- Whole models ---------------------------------------------------------------------------------------------------


class Tagger(torch.nn.Module):
    """Embedding, bidirectional LSTM over packed sequences, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(20, 5)
        self.rnn = torch.nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.tags = torch.nn.Linear(12, 4)

    def forward(self, words: Any, lengths: Any = None) -> Any:
        x = self.embedding(words)
        if lengths is None:
            return self.tags(self.rnn(x)[0])
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=words.shape[1])
        return self.tags(y)


class Translator(torch.nn.Module):
    """Encoder and decoder; the decoder reads what it wrote, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.GRU(3, 4)
        self.decoder = torch.nn.GRU(3, 4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        h = self.encoder(x)[1]
        y, written = x[:1], []
        for _ in range(2):
            y, h = self.decoder(y, h)
            y = self.out(y)
            written.append(y)
        return torch.cat(written)


MODELS: dict[str, tuple[Any, Any]] = {
    "tagger": (Tagger, lambda B: (torch.arange(6 * B).view(B, 6) % 20,)),
    "encoder-decoder": (Translator, lambda B: (torch.linspace(-1, 1, 5 * B * 3).view(5, B, 3),)),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def model(request: pytest.FixtureRequest) -> tuple[Any, Any, Any]:
    """A model, its accelerated twin, and what makes arguments for a batch of B."""
    torch.manual_seed(0)
    own = request.param[0]()
    return own, accelerate(copy.deepcopy(own)), request.param[1]


def test_models_compiled(model: Any, ran: list[str]) -> None:
    own, fast, given = model
    fc = compiled(fast, dynamic=True)
    for seed, B in enumerate((2, 3)):
        torch.manual_seed(seed)
        expected = results(own, *given(B))
        torch.manual_seed(seed)
        assert_same(results(fc, *given(B)), expected)
    assert {"forward", "backward"} == set(ran)


def test_a_tagger_that_packs() -> None:
    """PyTorch breaks the graph where sequences are packed, because the sizes of the result depend on values."""
    own = Tagger().eval()
    fast = accelerate(copy.deepcopy(own))
    words, lengths = torch.randint(20, (3, 6)), torch.tensor([2, 6, 3])
    assert_same(results(compiled(fast, fullgraph=False), words, lengths), results(own, words, lengths))


def exported(model: Any, given: Any) -> Any:
    """A program for any B, from a file."""
    batch = torch.export.Dim("B", min=2)
    (x,) = given(3)
    shapes = ({0 if x.dim() == 2 else 1: batch},)
    file = io.BytesIO()
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), file)
    return torch.export.load(io.BytesIO(file.getvalue()))


def targets(program: Any) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if "fastrnn" in str(node.target)}


def test_models_exported(model: Any, ran: list[str]) -> None:
    own, fast, given = model
    own.eval(), fast.eval()
    program = exported(fast, given)
    assert targets(program) == {"fastrnn.recurrent.default"}
    ran.clear()
    for B in (2, 4):
        assert_same(results(program.module(), *given(B)), results(own, *given(B)))
    lowered = program.run_decompositions()
    assert targets(lowered) == {"fastrnn.infer.default"}
    with torch.no_grad():
        assert_close(lowered.module()(*given(5)), own(*given(5)), "output", "y")
    assert "run" in ran


def test_restored_models_need_no_fastrnn() -> None:
    program = torch.export.export(restore(accelerate(torch.nn.LSTM(3, 4))), (torch.randn(5, 2, 3),))
    assert not targets(program)


def test_a_program_in_another_process(tmp_path: Path) -> None:
    own = Tagger().eval()
    words = torch.randint(20, (3, 6))
    torch.export.save(torch.export.export(accelerate(copy.deepcopy(own)), (words,)), tmp_path / "tagger.pt2")
    torch.save((words, own(words).detach()), tmp_path / "expected.pt")
    code = """
import sys, torch, fastrnn.torch
words, expected = torch.load(sys.argv[2])
error = (torch.export.load(sys.argv[1]).module()(words) - expected).abs().max()
sys.exit(not error < 1e-5)
"""
    given = [tmp_path / "tagger.pt2", tmp_path / "expected.pt"]
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code, *given], check=False).returncode == 0


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_frozen(precision: str, ran: list[str]) -> None:
    model = accelerate(Net(torch.nn.LSTM(3, 4)).eval(), precision=precision)
    fc = compiled(model)
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.randn(5, 2, 3),), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}}
        )
        for T in (5, 1):
            x = torch.randn(T, 2, 3)
            expected = model(x)[0]
            assert torch.equal(fc(x)[0], expected)
            assert torch.equal(program.module()(x)[0], expected)
        model.layer.weight_hh_l0.mul_(2)  # a graph computes with the weights that it finds
        accelerate(model, precision=precision)
        assert torch.equal(fc(x)[0], model(x)[0])
    with pytest.raises(RuntimeError, match="frozen: expected a call that needs no gradients of the weights"):
        fc(x)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor(ran: list[str]) -> None:
    """The default backend, which compiles what is around the layers."""
    own = torch.nn.Sequential(torch.nn.LSTM(3, 4, batch_first=True))
    fast = accelerate(copy.deepcopy(own))
    x = torch.randn(2, 5, 3)
    assert_same(results(compiled(fast, "inductor"), x), results(own, x))
    assert ran == ["forward", "backward"]


# ---- The operators themselves ---------------------------------------------------------------------------------------


def arguments(layer: Any, x: Any) -> list[Any]:
    """What the operator is given for a call."""
    return [
        x, None, None, [*layer.parameters()], [], None, 0, layer.mode, layer.input_size, layer.hidden_size,
        layer.num_layers, layer.bias, layer.batch_first, layer.bidirectional, layer.proj_size, False, None,
    ]  # fmt: skip


def test_opcheck() -> None:
    """PyTorch's own test of an operator: schema, fake kernel, gradients, dynamic shapes."""
    layer = torch.nn.LSTM(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 2, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.fastrnn.recurrent.default, tuple(arguments(layer, x)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(5, 2, 4)}, "x: expected"),
        ({0: torch.zeros(5, 2, 3).long()}, "x: expected"),
        ({1: torch.zeros(1, 3, 4)}, "h, c: expected"),
        ({1: torch.zeros(1, 2, 4)}, "h, c: expected"),
        ({3: []}, "weights: expected"),
        ({3: [torch.zeros(16, 3)] * 4}, "weights: expected"),
        ({4: [torch.zeros(5, 2, 4)]}, "noises: expected"),
        ({0: torch.zeros(6, 3), 5: torch.tensor([2, 3, 1]), 6: 2}, "batch_sizes: expected"),
        ({0: torch.zeros(6, 3), 5: torch.tensor([3, 2, 1]), 6: 4}, "batch_sizes: expected"),
        ({7: "TREE"}, "expected the options"),
        ({9: 0}, "expected the options"),
        ({14: 4}, "proj_size: expected"),
        ({15: True, 16: "int3"}, "precision: expected"),
    ],
)
def test_wrong_arguments(change: dict[int, Any], message: str) -> None:
    args = arguments(torch.nn.LSTM(3, 4), torch.zeros(5, 2, 3))
    for k, value in change.items():
        args[k] = value
    for name in ("recurrent", "infer", "forward"):
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            getattr(torch.ops.fastrnn, name)(*args)


def test_rare_memory() -> None:
    """Tensors that the kernels cannot read as they lie."""
    own = torch.nn.GRU(3, 4)
    memory = bytearray(4 * 30 + 1)
    memory[1:] = np.random.default_rng(0).standard_normal(30, np.float32).tobytes()
    x = torch.frombuffer(memory, dtype=torch.float32, offset=1).view(5, 2, 3)
    with torch.no_grad():
        y = torch.ops.fastrnn.recurrent(*arguments(own, x))[0]
        assert_close(y, own(x.clone())[0], "output", "y")
        y = torch.ops.fastrnn.recurrent(*arguments(own, torch._neg_view(x.clone())))[0]
        assert_close(y, own(-x)[0], "output", "y")


def test_a_graph_breaks_where_a_layer_keeps_states() -> None:
    torch.manual_seed(0)
    layer = torch.nn.GRU(4, 5)
    x = torch.randn(600, 3, 4)

    def gradient(model: Any) -> Any:
        return torch.autograd.grad(model(x)[0].square().sum(), layer.weight_hh_l0)[0]

    expected = gradient(accelerate(layer))
    accelerate(layer, keep="states")
    assert torch.equal(gradient(torch.compile(layer, backend="eager")), expected)
