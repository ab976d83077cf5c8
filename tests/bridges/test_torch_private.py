"""Releases of PyTorch that lack a name which it does not document: models run, with the same results, and a warning."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

# PyTorch is imported once. Each name is then hidden in a process of its own, while fastrnn.torch is imported.
CHILD = """
import copy, operator, os, sys, warnings
from unittest import mock
import fastrnn, fastrnn.arguments, fastrnn.frozen, torch
from torch.nn.utils.rnn import pack_sequence

real = operator.attrgetter

def hiding(hidden):
    def attrgetter(name):
        if name == hidden:
            raise AttributeError(name)
        return real(name)
    return attrgetter

def results(layer, x, call):
    layer.zero_grad()
    y, state = call(layer, x)
    y = y if isinstance(y, torch.Tensor) else y.data
    (y.square().sum() + sum(t.sum() for t in state)).backward()
    return [y, *state, *(p.grad for p in layer.parameters())]

def check(hidden):
    torch.manual_seed(0)
    own = torch.nn.LSTM(3, 4, 2, dropout=0.5, bidirectional=True)
    with mock.patch("operator.attrgetter", hiding(hidden)), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import fastrnn.torch
    assert len(fastrnn.torch.missing) == 1 and fastrnn.torch.missing[0].endswith(hidden), fastrnn.torch.missing
    assert any(hidden in str(w.message) for w in caught)
    fast = fastrnn.torch.accelerate(copy.deepcopy(own))
    ran = []
    for name in ("run", "forward"):
        function = getattr(fastrnn.torch.operators.function, name)
        setattr(fastrnn.torch.operators.function, name, lambda *a, function=function: ran.append(1) or function(*a))
    x, calls = torch.randn(5, 2, 3), 0
    for call in (
        lambda layer, x: layer(x), lambda layer, x: layer(x[:1]),
        lambda layer, x: layer(pack_sequence([x[:, 0], x[:3, 1]])),
        lambda layer, x: torch.func.functional_call(layer, {n: 2 * p for n, p in layer.named_parameters()}, (x,)),
    ):
        found = []
        for layer in (own, fast):
            torch.manual_seed(1)
            found.append(results(layer, x, call))
        assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(*found, strict=True))
        calls += 1
        assert len(ran) == calls, (ran, calls)
    frozen = fastrnn.torch.accelerate(fast.eval(), frozen=True)
    with torch.no_grad():
        assert torch.allclose(frozen(x)[0], own.eval()(x)[0], atol=1e-5)
    fast = fastrnn.torch.accelerate(fast)  # not frozen any more
    x.requires_grad_()  # second derivatives, where PyTorch has them
    own = torch.nn.GRU(3, 4)
    fast, found = fastrnn.torch.accelerate(copy.deepcopy(own)), []
    for layer in (own, fast):
        (gradient,) = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), x)[0])
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5)

failed = []
for name in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check(name)
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(f"failed without {failed}" if failed else 0)
"""


def names() -> list[str]:
    """What fastrnn/torch/private.py looks up."""
    import ast
    from pathlib import Path

    import fastrnn.torch.private as private

    calls = [node for node in ast.walk(ast.parse(Path(private.__file__).read_text())) if isinstance(node, ast.Call)]
    found = [call.args[0] for call in calls if isinstance(call.func, ast.Name) and call.func.id == "_find"]
    return [arg.value.split(":")[1] for arg in found if isinstance(arg, ast.Constant)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="hides each name in a forked process")
def test_without_a_name() -> None:
    assert len(names()) > 8
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *names()], check=False, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_nothing_is_missing_here() -> None:
    import fastrnn.torch

    assert fastrnn.torch.missing == []
