"""Parameters: PyTorch's names, shapes and initial range; copied in and out whole; layers can be copied and pickled."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from generators import VARIANTS, random_call
from oracle import infer, train

import fastrnn
from fastrnn import GRU, LSTM, RNN


class TestNamesAndShapes:
    """As torch.nn's, in its order."""

    def test_one_layer(self) -> None:
        for cell, gates in ((RNN, 1), (GRU, 3), (LSTM, 4)):
            assert shapes(cell(3, 5)) == {
                "weight_ih_l0": (gates * 5, 3),
                "weight_hh_l0": (gates * 5, 5),
                "bias_ih_l0": (gates * 5,),
                "bias_hh_l0": (gates * 5,),
            }

    def test_no_bias(self) -> None:
        assert list(shapes(GRU(3, 5, bias=False))) == ["weight_ih_l0", "weight_hh_l0"]

    def test_layers_and_directions(self) -> None:
        assert shapes(GRU(3, 5, num_layers=2, bidirectional=True)) == {
            "weight_ih_l0": (15, 3),
            "weight_hh_l0": (15, 5),
            "bias_ih_l0": (15,),
            "bias_hh_l0": (15,),
            "weight_ih_l0_reverse": (15, 3),
            "weight_hh_l0_reverse": (15, 5),
            "bias_ih_l0_reverse": (15,),
            "bias_hh_l0_reverse": (15,),
            "weight_ih_l1": (15, 10),
            "weight_hh_l1": (15, 5),
            "bias_ih_l1": (15,),
            "bias_hh_l1": (15,),
            "weight_ih_l1_reverse": (15, 10),
            "weight_hh_l1_reverse": (15, 5),
            "bias_ih_l1_reverse": (15,),
            "bias_hh_l1_reverse": (15,),
        }

    def test_projection(self) -> None:
        assert shapes(LSTM(3, 5, num_layers=2, bias=False, bidirectional=True, proj_size=2)) == {
            "weight_ih_l0": (20, 3),
            "weight_hh_l0": (20, 2),
            "weight_hr_l0": (2, 5),
            "weight_ih_l0_reverse": (20, 3),
            "weight_hh_l0_reverse": (20, 2),
            "weight_hr_l0_reverse": (2, 5),
            "weight_ih_l1": (20, 4),
            "weight_hh_l1": (20, 2),
            "weight_hr_l1": (2, 5),
            "weight_ih_l1_reverse": (20, 4),
            "weight_hh_l1_reverse": (20, 2),
            "weight_hr_l1_reverse": (2, 5),
        }

    def test_peepholes(self) -> None:
        assert shapes(LSTM(3, 5, peephole=True))["peephole_l0"] == (3, 5)
        assert "peephole_l0" not in shapes(LSTM(3, 5))


def shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in layer.params.items()}


class TestStart:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_is_uniform_within_one_over_the_root_of_hidden_size(self, variant: str, dtype: type) -> None:
        cell, options = VARIANTS[variant]
        options = options | ({"proj_size": 32} if "proj_size" in options else {})
        options = options | ({"num_heads": 4} if "num_heads" in options else {})
        layer = cell(50, 64, num_layers=2, dtype=dtype, rng=3, **options)
        bound = 1 / np.sqrt(64)
        drawn = []
        for name, value in layer.params.items():
            assert value.dtype == dtype
            assert value.flags.c_contiguous
            field = name.partition("_l0" if "_l0" in name else "_l1")[0]
            if field in layer.cell.starts:  # gains of normalisation, and the bias of c's
                assert (value == (0 if field == "bias_c" else 1)).all(), name
                continue
            drawn.append(value.tobytes())
            assert np.abs(value).max() <= bound * (1 + 1e-7), name
            # Where the moments of that many uniform numbers are, within five standard deviations.
            assert abs(value.mean()) < 5 * bound / np.sqrt(3 * value.size), name
            assert abs((value**2).mean() - bound**2 / 3) < 5 * bound**2 * np.sqrt(4 / 45 / value.size), name
        assert len(set(drawn)) == len(drawn), "all drawn apart"

    def test_is_that_of_the_seed(self, build: Callable) -> None:
        one, same, other = build(3, 5, rng=1), build(3, 5, rng=1), build(3, 5, rng=2)
        for name, value in one.params.items():
            np.testing.assert_array_equal(value, same.params[name])
            started = name.partition("_l0")[0] in one.cell.starts  # with a number, whatever the seed
            assert started or (value != other.params[name]).any()

    @pytest.mark.parametrize("seed", [np.int64(1), [1, 2], np.random.SeedSequence(5), None])
    def test_takes_any_seed(self, seed: Any) -> None:
        assert np.isfinite(GRU(3, 5, rng=seed).params["weight_ih_l0"]).all()

    def test_goes_on_in_a_generator(self) -> None:
        generator = np.random.default_rng(1)
        first, second = GRU(3, 5, rng=generator), GRU(3, 5, rng=generator)
        np.testing.assert_array_equal(first.params["weight_ih_l0"], GRU(3, 5, rng=1).params["weight_ih_l0"])
        assert (first.params["weight_ih_l0"] != second.params["weight_ih_l0"]).any()

    def test_differs_without_a_seed(self) -> None:
        assert (GRU(3, 5).params["weight_ih_l0"] != GRU(3, 5).params["weight_ih_l0"]).any()

    def test_leaves_numpys_global_random_numbers_alone(self) -> None:
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        GRU(3, 5, num_layers=2, dropout=0.5).forward(np.zeros((2, 2, 3), np.float32))
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


class TestStateDict:
    def test_is_a_copy(self, build: Callable) -> None:
        layer = build(3, 5)
        state = layer.state_dict()
        assert list(state) == list(layer.params)
        for name, value in state.items():
            np.testing.assert_array_equal(value, layer.params[name])
            assert not np.shares_memory(value, layer.params[name])

    @pytest.mark.parametrize("mapping", [dict, OrderedDict, MappingProxyType])
    def test_is_loaded_as_a_copy(self, build: Callable, mapping: Callable) -> None:
        layer, other = build(3, 5, rng=1), build(3, 5, rng=2)
        state = layer.state_dict()
        other.load_state_dict(mapping(state))
        for name, value in state.items():
            np.testing.assert_array_equal(other.params[name], value)
            assert not np.shares_memory(other.params[name], value)

    def test_is_loaded_in_any_order(self, build: Callable) -> None:
        layer, other = build(3, 5, num_layers=2, rng=1), build(3, 5, num_layers=2, rng=2)
        other.load_state_dict(dict(reversed(layer.state_dict().items())))
        assert list(other.params) == list(layer.params)
        for name, value in layer.params.items():
            np.testing.assert_array_equal(other.params[name], value)

    def test_is_loaded_whole_or_not_at_all(self, build: Callable) -> None:
        """Whatever the last of the arrays is like."""
        layer = build(3, 5, num_layers=2)
        before = layer.state_dict()
        last = list(before)[-1]
        for wrong in (np.zeros(2, np.float32), before[last].astype(np.float64), "text", None):
            with pytest.raises((TypeError, ValueError), match=rf"^{last}: expected"):
                layer.load_state_dict({name: value + 1 for name, value in before.items()} | {last: wrong})
            for name, value in before.items():
                np.testing.assert_array_equal(layer.params[name], value)

    def test_is_loaded_whole_over_a_parameter_that_cannot_be_written(self) -> None:
        """One from a memory map, say: it is replaced, or nothing is loaded."""
        layer = GRU(3, 5, rng=0)
        before = layer.state_dict()
        last = list(before)[-1]
        layer.params[last] = before[last].copy()
        layer.params[last].flags.writeable = False
        new = {name: value + 1 for name, value in before.items()}
        expected = new
        try:
            layer.load_state_dict(new)
        except ValueError:
            expected = before
        for name, value in expected.items():
            np.testing.assert_array_equal(layer.params[name], value)

    def test_may_hold_the_layers_own_arrays(self) -> None:
        """As in exchanging two of them: each becomes what the other was."""
        layer = GRU(3, 5, rng=0)
        before = layer.state_dict()
        layer.load_state_dict(
            layer.params | {"bias_ih_l0": layer.params["bias_hh_l0"], "bias_hh_l0": layer.params["bias_ih_l0"]}
        )
        np.testing.assert_array_equal(layer.params["bias_ih_l0"], before["bias_hh_l0"])
        np.testing.assert_array_equal(layer.params["bias_hh_l0"], before["bias_ih_l0"])

    def test_round_trip_gives_the_same_layer(self, engine: str, build: Callable, rng: np.random.Generator) -> None:
        layer, other = (build(3, 5, num_layers=2, bidirectional=True, rng=seed) for seed in (1, 2))
        other.load_state_dict(layer.state_dict())
        call = random_call(layer, 4, 2, rng)
        for name, value in infer(layer, call).items():
            np.testing.assert_array_equal(infer(other, call)[name], value)


class TestParameters:
    def test_changes_in_place_are_seen_by_the_next_call(self, engine: str, build: Callable) -> None:
        layer = build(3, 5)
        x = np.ones((4, 2, 3), np.float32)
        before = layer(x)[0]
        layer.params["weight_ih_l0"] *= 2
        changed = layer(x)[0]
        assert (changed != before).any()
        layer.params["weight_ih_l0"] = layer.params["weight_ih_l0"] / 2
        np.testing.assert_array_equal(layer(x)[0], before)

    def test_names_of_others_do_not_break_training(self, engine: str) -> None:
        """A user's own entry beside the parameters does no harm."""
        layer = GRU(3, 5, rng=0)
        layer.params["mine"] = np.zeros(3, np.float32)
        y, _, tape = layer.forward(np.ones((4, 2, 3), np.float32))
        assert np.isfinite(layer.backward(tape, y).params["weight_ih_l0"]).all()


class TestAttributes:
    def test_say_what_was_asked_for(self) -> None:
        layer = GRU(3, 5, 2, batch_first=True, dropout=0.25, bidirectional=True, dtype=np.float64)
        assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 5, 2)
        assert (layer.batch_first, layer.bidirectional, layer.dropout) == (True, True, 0.25)
        assert layer.dtype == np.float64

    def test_integers_of_numpy_are_integers(self) -> None:
        layer = RNN(np.int32(3), np.uint8(5), np.int64(2))
        assert shapes(layer)["weight_ih_l1"] == (5, 5)
        assert type(layer.hidden_size) is int

    @pytest.mark.parametrize("dtype", [np.float64, "float64", "f8", float, np.dtype("d")])
    def test_dtype_may_be_spelt_as_in_numpy(self, dtype: Any) -> None:
        assert RNN(3, 5, dtype=dtype).dtype == np.float64

    @pytest.mark.parametrize(
        "name", ["input_size", "hidden_size", "num_layers", "bidirectional", "batch_first", "dtype"]
    )
    def test_cannot_be_set(self, name: str) -> None:
        with pytest.raises(AttributeError):
            setattr(RNN(3, 5), name, 1)


LAYERS = [
    "RNN(3, 5)",
    "RNN(3, 5, bias=False, nonlinearity='relu')",
    "LSTM(3, 5, num_layers=2, batch_first=True, dropout=0.5, bidirectional=True, proj_size=2, peephole=True)",
    "GRU(3, 5, reset_after=False, update_gate='replace', dtype=float64)",
]


@pytest.mark.parametrize("text", LAYERS)
def test_repr_is_the_call_that_makes_it(text: str) -> None:
    layer = eval(text, {"RNN": RNN, "LSTM": LSTM, "GRU": GRU, "float64": np.float64})
    assert repr(layer) == text


def pickled(layer: Any) -> Any:
    return pickle.loads(pickle.dumps(layer))


class TestCopies:
    @pytest.mark.parametrize("clone", [copy.deepcopy, pickled])
    def test_are_equal_and_independent(
        self, engine: str, build: Callable, clone: Callable, rng: np.random.Generator
    ) -> None:
        layer = build(3, 5, num_layers=2, bidirectional=True, dropout=0.3)
        call = random_call(layer, 4, 2, rng)
        other = clone(layer)
        assert repr(other) == repr(layer)
        expected = train(layer, call)
        for name, value in train(other, call).items():  # with the same dropout: the random numbers are copied too
            np.testing.assert_array_equal(value, expected[name])
        for param in other.params.values():
            param += 1
        inferred = infer(clone(layer), call)
        for name, value in infer(layer, call).items():
            np.testing.assert_array_equal(value, inferred[name])
        assert (infer(other, call)["y"] != inferred["y"]).any()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_pickle_with_every_protocol(self, protocol: int) -> None:
        layer = LSTM(3, 5, rng=0)
        other = pickle.loads(pickle.dumps(layer, protocol))
        for name, value in layer.params.items():
            np.testing.assert_array_equal(other.params[name], value)

    def test_subclasses_are_layers(self, engine: str) -> None:
        class Mine(fastrnn.LSTM):
            pass

        layer = Mine(3, 5, rng=0)
        x = np.ones((4, 2, 3), np.float32)
        assert repr(layer) == "Mine(3, 5)"
        np.testing.assert_array_equal(layer(x)[0], LSTM(3, 5, rng=0)(x)[0])
