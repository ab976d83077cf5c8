"""`accelerate` and `restore`: modules keep all that they are, and can be stored, copied and wrapped as before."""

import copy
import io
import pickle
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: fastrnn.torch has nothing to accelerate")

from torch.nn.utils import parametrizations, parametrize  # noqa: E402
from twins import CELLS, assert_close, parts, twins  # noqa: E402

import fastrnn.torch  # noqa: E402
from fastrnn.torch import accelerate, restore  # noqa: E402


class Model(torch.nn.Module):
    """Layers at several depths, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(5, 3)
        self.layers = torch.nn.ModuleList([torch.nn.LSTM(3, 4), torch.nn.GRU(4, 4), torch.nn.RNN(4, 4)])
        self.again = self.layers[1]

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in (*self.layers, self.again):
            x = layer(x)[0]
        return x


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


@pytest.fixture
def tokens() -> Any:
    return torch.randint(5, (6, 2))


def classes(model: Model) -> list[type]:
    return [type(layer) for layer in model.layers]


FAST = [fastrnn.torch.LSTM, fastrnn.torch.GRU, fastrnn.torch.RNN]
OWN = [torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN]


def test_switches_in_place_and_back(model: Model, tokens: Any) -> None:
    expected, names, parameters = model(tokens), list(model.state_dict()), list(model.parameters())
    layers = list(model.layers)
    for _ in range(2):  # twice is once
        assert accelerate(model) is model
        assert classes(model) == FAST
    assert [id(layer) for layer in model.layers] == [id(layer) for layer in layers]
    assert list(model.state_dict()) == names
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert_close(model(tokens), expected, "output", "y")
    for _ in range(2):
        assert restore(model) is model
        assert classes(model) == OWN
    assert torch.equal(model(tokens), expected)


def test_the_module_itself() -> None:
    layer = torch.nn.GRU(3, 4)
    assert accelerate(layer) is layer
    assert type(layer) is fastrnn.torch.GRU
    assert isinstance(layer, torch.nn.GRU)
    assert repr(layer) == "GRU(3, 4)"


def test_other_peoples_subclasses_are_left_alone() -> None:
    class Mine(torch.nn.LSTM):
        def forward(self, x: Any, hx: Any = None) -> Any:
            return "mine"

    assert accelerate(Mine(3, 4))(torch.zeros(1, 1, 3)) == "mine"


@pytest.mark.parametrize("cell", CELLS)
def test_constructors(cell: str) -> None:
    own, fast = getattr(torch.nn, cell), getattr(fastrnn.torch, cell)
    torch.manual_seed(0)
    a = own(3, 4, 2, bias=False, batch_first=True, dropout=0.1, bidirectional=True, device="cpu", dtype=torch.float64)
    torch.manual_seed(0)
    b = fast(3, 4, 2, bias=False, batch_first=True, dropout=0.1, bidirectional=True, device="cpu", dtype=torch.float64)
    assert all(map(torch.equal, a.parameters(), b.parameters()))
    assert repr(a) == repr(b)
    b.load_state_dict(a.state_dict())
    for wrong in ({"hidden_size": 0}, {"hidden_size": 4, "num_layers": 0}, {"hidden_size": 4, "dropout": 2}):
        errors = []
        for kind in (own, fast):
            with pytest.raises(ValueError, match=r".+") as caught:
                kind(3, **wrong)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]


def test_what_is_not_a_module() -> None:
    with pytest.raises(TypeError, match=r"module: expected a torch\.nn\.Module, got dict"):
        accelerate({})  # type: ignore[type-var]


def test_hooks_and_attributes_stay(model: Model, tokens: Any) -> None:
    seen = []
    model.layers[0].register_forward_hook(lambda *_: seen.append("forward"))
    model.layers[0].register_full_backward_hook(lambda *_: seen.append("backward"))
    model.layers[0].note = "mine"
    accelerate(model)(tokens).sum().backward()
    assert seen == ["forward", "backward"]
    assert model.layers[0].note == "mine"


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def state(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = accelerate(Model())
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize("through", [pickled, copy.deepcopy, saved, state])
def test_copies(model: Model, tokens: Any, through: Any) -> None:
    expected = accelerate(model)(tokens)
    expected.sum().backward()
    other = through(model)
    assert classes(other) == FAST
    assert torch.equal(other(tokens), expected)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert torch.equal(other(tokens), expected), "a copy shares parameters with the model"


def test_state_dict_goes_both_ways(model: Model, tokens: Any) -> None:
    other = Model()
    other.load_state_dict(accelerate(model).state_dict())
    assert_close(other(tokens), model(tokens), "output", "y")


def test_parameters_are_shared_in_place(model: Model, tokens: Any) -> None:
    accelerate(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plain = restore(copy.deepcopy(model))
    plain_optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for net, steps in ((model, optimizer), (plain, plain_optimizer)):
        for _ in range(3):
            steps.zero_grad()
            net(tokens).square().sum().backward()
            steps.step()
    assert_close(model(tokens), plain(tokens), "gradient", "y after training")
    model.layers[0].weight_hh_l0.data.zero_()  # past PyTorch's version counter
    plain.layers[0].weight_hh_l0.data.zero_()
    assert_close(model(tokens), plain(tokens), "gradient", "y after a change of .data")


def test_moves_of_dtype(model: Model, tokens: Any) -> None:
    y = accelerate(model)(tokens)
    assert_close(model.double()(tokens).float(), y, "output", "y in double")
    assert_close(model.bfloat16().float()(tokens), restore(copy.deepcopy(model))(tokens), "output", "y in bfloat16")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_parametrized(cell: str, when: str) -> None:
    own, fast = twins(cell, 3, 4)
    if when == "before":
        restore(fast)
    for layer in (own, fast):
        parametrizations.weight_norm(layer, "weight_hh_l0")
        with torch.no_grad():
            layer.parametrizations.weight_hh_l0.original0.mul_(2)
    accelerate(fast)
    assert isinstance(fast, getattr(fastrnn.torch, cell))
    x = torch.randn(5, 2, 3)
    found = []
    for layer in (own, fast):
        y, _ = layer(x)
        layer.zero_grad()
        y.square().sum().backward()
        found.append([y, *(p.grad for p in layer.parameters())])
    for a, b in zip(found[1], found[0], strict=True):
        assert_close(a, b, "gradient", "gradient")
    assert not isinstance(restore(fast), getattr(fastrnn.torch, cell))
    parametrize.remove_parametrizations(accelerate(fast), "weight_hh_l0")
    assert type(fast) is getattr(fastrnn.torch, cell)
    assert_close(fast(x)[0], found[0][0], "output", "y")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weight_norm_of_old() -> None:
    own, fast = twins("GRU", 3, 4)
    x, found = torch.randn(5, 2, 3), []
    for layer in (own, fast):
        torch.nn.utils.weight_norm(layer, "weight_hh_l0")
        with torch.no_grad():
            layer.weight_hh_l0_g.mul_(2)
        y, _ = layer(x)
        y.square().sum().backward()
        found.append([y, layer.weight_hh_l0_g.grad, layer.weight_hh_l0_v.grad])
    for a, b in zip(found[1], found[0], strict=True):
        assert_close(a, b, "gradient", "gradient")


def test_shared_memory_and_hogwild(model: Model, tokens: Any) -> None:
    accelerate(model).share_memory()
    copy_of_it = copy.deepcopy(model)
    expected = model(tokens)
    model.layers[1].weight_hh_l0.data.mul_(2)
    assert not torch.equal(model(tokens), expected)
    assert torch.equal(copy_of_it(tokens), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_packed_results_are_those_of_pytorch(cell: str) -> None:
    own, fast = twins(cell, 3, 4)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.randn(5, 3, 3), torch.tensor([2, 5, 4]), enforce_sorted=False
    )
    for layer in (own, fast):
        y, _ = layer(packed)
        assert y.batch_sizes is packed.batch_sizes
        assert y.sorted_indices is packed.sorted_indices
        assert y.unsorted_indices is packed.unsorted_indices
    assert_close(parts(fast(packed))[1], parts(own(packed))[1], "output", "h")
