"""Which nodes of a model are run by what: recurrent ones by fastrnn, all others by ONNX Runtime, in few pieces.

The steps of a model are a sequence: a piece, which is a model of its own for ONNX Runtime; then the recurrent nodes
that it leads to, with nodes around them that only move axes; then the next piece. Nothing here needs ONNX Runtime.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from fastrnn.onnx import spec
from fastrnn.onnx.constants import OPERATORS, Unknown
from fastrnn.onnx.models import Layer, Loading, NotServedError, Stacks, domain, name_of
from fastrnn.onnx.reading import MOST_NESTED, bodies, is_onnx, text
from fastrnn.onnx.stacks import names_in
from fastrnn.onnx.states import Carried, carried
from fastrnn.onnx.views import Move, move
from fastrnn.stack import Stack

__all__ = ["CannotSplitError", "Moved", "Node", "Piece", "Plan", "Planner", "Recurrence", "Step", "empty_y"]


class Node(NamedTuple):
    """A recurrent node of a model, and what runs it; `Session.nodes` has all of them."""

    name: str
    """Its name or, where it has none, that of its first output."""
    op_type: str
    """Its operator."""
    runs_in: str
    """"fastrnn" or "onnxruntime"."""
    reason: str
    """Why ONNX Runtime runs it; empty for the others."""
    is_inside: bool = False
    """Whether it is in a body of another node: an If, a Loop or a Scan."""


class CannotSplitError(Exception):
    """A model that ONNX Runtime has to run as a whole, and why."""


class _ApartError(Exception):
    """A stack whose nodes cannot run together."""


# ---- Steps --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Recurrence:
    """Recurrent nodes that are one layer."""

    layer: Layer
    x: str
    lengths: str
    initial: tuple[tuple[str, ...], ...]  # of h and, of an LSTM, of c: a name for each node or for all; empty for zeros
    final: tuple[tuple[str, ...], ...]  # a name for each node
    y: str
    together: tuple[str, ...] = ("", "")  # final states of all nodes in one
    order: tuple[int, ...] = (0, 1, 2)  # of the axes T, B and D of y in memory

    @property
    def sources(self) -> list[str]:
        return [name for name in (self.x, self.lengths, *itertools.chain(*self.initial)) if name]

    @property
    def results(self) -> list[str]:
        return [name for name in (self.y, *self.together, *itertools.chain(*self.final)) if name]


def empty_y(stack: Stack, order: tuple[int, ...], T: int, B: int, dtype: Any) -> tuple[NDArray, NDArray]:
    """A new Y of a `Recurrence` as the model has it, and as a (T, B, D, H) view."""
    sizes = (T, B, len(stack.directions))
    memory = np.empty((*(sizes[k] for k in order), stack.cells[0].hidden_size), dtype)
    y = memory.transpose(*(order.index(k) for k in range(3)), 3)
    return y.transpose(1, 0, 2, 3) if stack.batch_first else y.transpose(0, 2, 1, 3), y


@dataclass(eq=False)
class Moved:
    """A node that only moves axes: `move` takes the values of `data`."""

    node: Any
    sources: list[str]
    results: list[str]
    data: list[str]
    move: Move


@dataclass(eq=False)
class _Other:
    """A node for ONNX Runtime."""

    node: Any
    sources: list[str]
    results: list[str]
    stage: int = 0


class Piece(NamedTuple):
    """Nodes for ONNX Runtime that are one model."""

    nodes: list[Any]
    inputs: list[str]
    outputs: list[str]
    proto: Any  # the whole model

    def model(self, types: Mapping[str, Any]) -> Any:
        """The piece as an onnx.ModelProto; `types` has a TypeProto for each input."""
        graph = self.proto.graph
        read = set(itertools.chain.from_iterable(_reads(node) for node in self.nodes)) | set(self.outputs)
        model = onnx.ModelProto(ir_version=max(self.proto.ir_version, 4))  # older ones list initializers as inputs, too
        model.opset_import.extend(self.proto.opset_import)
        piece = model.graph
        piece.name = graph.name or "piece"
        piece.node.extend(self.nodes)
        piece.initializer.extend(tensor for tensor in graph.initializer if tensor.name in read)
        piece.sparse_initializer.extend(sparse for sparse in graph.sparse_initializer if sparse.values.name in read)
        piece.input.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in self.inputs)
        known = {value.name: value for value in itertools.chain(graph.value_info, graph.output)}
        piece.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in self.outputs)
        made = {name for node in self.nodes for name in node.output} - set(self.outputs)
        piece.value_info.extend(value for value in graph.value_info if value.name in made)
        return model


Step: TypeAlias = "Piece | Recurrence | Moved"


@dataclass
class Plan:
    """How a model is run."""

    steps: list[Step]
    nodes: list[Node]
    constants: dict[str, NDArray]  # what recurrent nodes, and the model's outputs, take of these
    types: dict[str, Any]  # the TypeProto of each input of the model, and of what recurrent nodes give
    carried: Carried  # what a stream carries


class Planner:
    """Makes the plans of a model."""

    def __init__(self, loading: Loading) -> None:
        self._loading, self._proto, self._graph = loading, loading.proto, loading.proto.graph
        self._nodes = list(self._graph.node)  # protobuf makes an object anew if nobody holds it
        self._constants = loading.constants.inside(self._graph)
        self._initializers = {tensor.name for tensor in self._graph.initializer}
        self._initializers |= {sparse.values.name for sparse in self._graph.sparse_initializer}
        self._inputs = {value.name: value for value in self._graph.input if value.name not in self._initializers}
        self._outputs = [value.name for value in self._graph.output]
        self._made_by = {name: node for node in self._nodes for name in node.output if name}
        self._folded = self._foldable()

        self._layers, self._placed = self._recurrent()

    def plan(self) -> Plan:
        """How the model is run.

        Raises
        ------
        CannotSplitError
            If ONNX Runtime has to run all of it.
        ValueError
            If the model is damaged.
        """
        if not self._layers:
            raise CannotSplitError("none of its recurrent nodes can be run by fastrnn")
        apart: set[str] = set()
        while True:
            try:
                return self._plan(apart)
            except _ApartError as error:
                if apart.issuperset(*error.args):
                    raise ValueError("the model's nodes depend on themselves") from None
                apart.update(*error.args)

    def whole(self, reason: str) -> Plan:
        """The plan by which ONNX Runtime runs all of the model."""
        piece = Piece(self._nodes, list(self._inputs), self._outputs, self._proto)
        nodes = [node._replace(runs_in="onnxruntime", reason=node.reason or reason) for node in self._placed]
        types = {name: value.type for name, value in self._inputs.items()}
        return Plan([piece], nodes, {}, types, self._carried([]))

    # ---- What there is ----

    def _foldable(self) -> set[str]:
        """What depends on no input, and is made by deterministic nodes: each piece that reads it has its own copy."""
        folded: set[str] = set()
        for node in self._nodes:
            known = is_onnx(node.domain) and (node.op_type in OPERATORS or node.op_type == "Constant")
            if known and all(name in folded or name in self._initializers for name in node.input if name):
                folded.update(name for name in node.output if name)
        return folded

    def _recurrent(self) -> tuple[dict[str, Layer], list[Node]]:
        """The layers of the nodes that fastrnn runs, by their keys, and what runs each recurrent node."""
        layers, nodes = dict[str, Layer](), list[Node]()
        for node in self._nodes:
            if node.op_type not in spec.INPUTS or domain(node) != spec.domain_of(node.op_type):
                nodes += _inside(node, 0)
                continue
            name, reason = name_of(node), ""
            try:
                outputs = [output for output in node.output if output]
                if not outputs or any(self._made_by[output] is not node for output in outputs):
                    raise NotServedError("its outputs are not its own")
                layer = self._loading.checked(node, self._constants)
                if layer.stack.has_c and layer.stack.cells[0].options["clip"]:
                    raise NotServedError("clip of an LSTM, which ONNX Runtime does not apply to h(C) as ONNX says")
                layers[_key(node)] = layer
            except (NotServedError, TypeError, ValueError) as error:
                reason = str(error)
            nodes.append(Node(name, text(node.op_type), "onnxruntime" if reason else "fastrnn", reason))
        return layers, nodes

    def _is_zero(self, name: str) -> bool:
        """Whether a value is zeros of a shape that may depend on inputs."""
        pending, seen = [name], set[str]()
        while pending:
            name = pending.pop()
            node = self._made_by.get(name)
            if name in seen:
                continue
            seen.add(name)
            if name in self._initializers or (node is not None and name in self._folded):
                value = self._constants.value(name)
                if isinstance(value, Unknown) or value.any():
                    return False
            elif node is None or not is_onnx(node.domain) or not node.input:
                return False
            elif node.op_type == "ConstantOfShape":
                if any(self._loading.tensor(a.t).any() for a in node.attribute if a.name == "value"):
                    return False
            elif node.op_type in ZERO_FROM_FIRST:
                pending.append(node.input[0])
            elif node.op_type == "Concat":
                pending += node.input
            else:
                return False
        return True

    def _recurrence(self, layer: Layer) -> Recurrence:
        roles = ("h", "c") if layer.stack.has_c else ("h",)

        def source(node: Any, role: str) -> str:
            place = spec.INPUTS[node.op_type].index(role)
            return node.input[place] if place < len(node.input) else ""

        def initial(node: Any, role: str) -> str:
            name = source(node, f"initial_{role}")
            return name if name and not self._is_zero(name) else ""

        def output(node: Any, role: str) -> str:
            place = spec.OUTPUTS[node.op_type].index(role)
            return node.output[place] if place < len(node.output) else ""

        first, last = layer.nodes[0], layer.nodes[-1]
        return Recurrence(
            layer, source(first, "X"), source(first, "sequence_lens"),
            tuple(tuple(initial(node, role) for node in layer.nodes) for role in roles),
            tuple(tuple(output(node, f"Y_{role}") for node in layer.nodes) for role in roles), output(last, "Y"),
        )  # fmt: skip

    # ---- One plan ----

    def _plan(self, apart: set[str]) -> Plan:
        layers = self._layers
        stacks = Stacks(
            self._graph, self._loading.constants, {y: layer for y, layer in layers.items() if y not in apart}
        )
        found = [layer if y in apart else stacks.upon(y) for y, layer in layers.items()]
        recurrences = [self._recurrence(layer) for layer in found if layer is not None]
        units, inner = self._units(recurrences)
        live = self._live(units, inner)
        dummies = self._after(live)
        self._before(live)
        for unit in [unit for unit in live if isinstance(unit, Recurrence)]:
            _join_states(unit, live)
        self._drop_unread(live)
        in_order = self._staged(live)
        for unit in live:
            if isinstance(unit, Recurrence):
                _lay_out(unit, live, self._outputs)
        types = {name: value.type for name, value in self._inputs.items()} | dummies
        steps = self._steps(live, in_order)
        return Plan(steps, self._placed, self._needed_constants(steps), types, self._carried(recurrences))

    def _carried(self, recurrences: list[Recurrence]) -> Carried:
        recurrent = [
            node for node in self._nodes if node.op_type in spec.INPUTS and domain(node) == spec.domain_of(node.op_type)
        ]
        kept = [
            f"{_key(node)}.{role}"
            for recurrence in recurrences
            for role, names in zip("hc", recurrence.initial, strict=False)
            for k, node in enumerate(recurrence.layer.nodes)
            if not (name := names[k % len(names)]) or name in self._initializers or name in self._folded
        ]
        found = carried({_key(node): node for node in recurrent}, kept, self._made_by, self._inputs, self._outputs)
        late = [f"{name_of(node)} starts at the end" for node in recurrent if _is_reversed(node)]
        inside = [f"{node.name} is run by ONNX Runtime: {node.reason}" for node in self._placed if node.is_inside]
        return found._replace(obstacles=[*late, *inside, *found.obstacles])

    def _units(self, recurrences: list[Recurrence]) -> tuple[list[Any], dict[str, Recurrence]]:
        """All that makes values, in the graph's order; and what lies within stacks."""
        whose = {id(node): r for r in recurrences for node in r.layer.nodes}
        units: list[Any] = []
        inner: dict[str, Recurrence] = {}
        for node in self._nodes:
            recurrence = whose.get(id(node))
            if recurrence is None:
                units.append(_Other(node, _reads(node), [name for name in node.output if name]))
            elif node is recurrence.layer.nodes[-1]:
                units.append(recurrence)
            elif node.output[0]:
                inner[node.output[0]] = recurrence
        return units, inner

    def _live(self, units: list[Any], inner: dict[str, Recurrence]) -> list[Any]:
        """The units that the outputs depend on, in the graph's order."""
        made_by = {name: unit for unit in units for name in unit.results}
        needed: set[Any] = set()
        pending = [*self._outputs]
        while pending:
            name = pending.pop()
            if self._is_leaf(name):
                continue
            if name in inner:
                raise _ApartError([_key(node) for node in inner[name].layer.nodes])
            unit = made_by.get(name)
            if unit is None:
                raise ValueError(f"{text(name)!r} is nowhere given")
            if unit not in needed:
                needed.add(unit)
                pending += unit.sources
        return [unit for unit in units if unit in needed]

    def _is_leaf(self, name: str) -> bool:
        return not name or name in self._inputs or name in self._initializers or name in self._folded

    def _after(self, live: list[Any]) -> dict[str, Any]:
        """Let NumPy move axes behind recurrent nodes; return the types of what they and these give.

        A move is tried with two sizes, of which one is right for the model if it says none.
        """
        tried: dict[str, list[NDArray]] = {}
        states: set[str] = set()
        dtypes: dict[str, np.dtype] = {}
        for at, unit in enumerate(live):
            if isinstance(unit, Recurrence):
                for name, sizes in _shapes_of(unit).items():
                    tried[name] = [np.empty(shape, np.int8) for shape in sizes]
                    dtypes[name] = unit.layer.calls[0].dtype
                states.update(itertools.chain.from_iterable(unit.final))
                continue
            node = unit.node
            data = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
            if not data or not all(name in tried for name in data) or (len(data) > 1 and not states.issuperset(data)):
                continue
            try:
                moving = move(node, self._constants)
                results = [] if moving is None else [moving([tried[name][k] for name in data]) for k in range(2)]
            except Exception:  # whatever NumPy raises for axes and sizes that do not fit: the node's runtime says it
                continue
            if moving is None or len(results[0]) != len(node.output):
                continue
            live[at] = Moved(node, unit.sources, unit.results, data, moving)
            for k, name in enumerate(node.output):
                if name:
                    tried[name] = [of_size[k] for of_size in results]
                    dtypes[name] = dtypes[data[0]]
                    if states.issuperset(data):
                        states.add(name)
        return {name: _type_of(dtypes[name], *arrays) for name, arrays in tried.items()}

    def _before(self, live: list[Any]) -> None:
        """Let NumPy move axes of what recurrent nodes alone read."""
        readers: dict[str, list[Any]] = {}
        for unit in live:
            for name in unit.sources:
                readers.setdefault(name, []).append(unit)
        ours = {unit for unit in live if not isinstance(unit, _Other)}
        for at in reversed(range(len(live))):
            unit = live[at]
            if not isinstance(unit, _Other) or unit.node.op_type not in MOVED_BEFORE or len(unit.node.input) == 0:
                continue
            reading = [reader for name in unit.results for reader in readers.get(name, [])]
            if not ours.issuperset(reading) or any(name in self._outputs for name in unit.results):
                continue
            order = next((list(a.ints) for a in unit.node.attribute if a.name == "perm"), [])
            if unit.node.op_type == "Transpose" and order[-1:] != [len(order) - 1]:  # then ONNX Runtime's is faster
                continue
            moving = move(unit.node, self._constants)
            if moving is not None:
                live[at] = new = Moved(unit.node, unit.sources, unit.results, [unit.node.input[0]], moving)
                ours.add(new)
                for name in new.sources:
                    readers[name] = [new if reader is unit else reader for reader in readers[name]]

    def _drop_unread(self, live: list[Any]) -> None:
        """Drop moves that nobody reads any more."""
        read = {name for unit in live if not isinstance(unit, Moved) for name in unit.sources} | set(self._outputs)
        for unit in reversed(list(live)):
            if isinstance(unit, Moved):
                if read.isdisjoint(unit.results):
                    live.remove(unit)
                else:
                    read.update(unit.sources)

    def _staged(self, live: list[Any]) -> list[Any]:
        """Give each unit its stage; return them so that each follows all that it reads."""
        made_by = {name: unit for unit in live for name in unit.results}
        before = {unit: {made_by[name] for name in unit.sources if name in made_by} for unit in live}
        after: dict[Any, list[Any]] = {unit: [] for unit in live}
        for unit, needed in before.items():
            for other in needed:
                after[other].append(unit)
        missing = {unit: len(needed) for unit, needed in before.items()}
        ready = [unit for unit in live if not missing[unit]]
        stages: dict[Any, int] = {}
        for unit in ready:  # which grows
            ours = not isinstance(unit, _Other)
            stages[unit] = max(
                (stages[other] + (not ours and not isinstance(other, _Other)) for other in before[unit]), default=0
            )
            for other in after[unit]:
                missing[other] -= 1
                if not missing[other]:
                    ready.append(other)
        if len(ready) < len(live):
            stuck = [unit for unit in live if unit not in stages and isinstance(unit, Recurrence)]
            together = [_key(node) for unit in stuck if len(unit.layer.nodes) > 1 for node in unit.layer.nodes]
            if together:
                raise _ApartError(together)
            raise ValueError("the model's nodes depend on themselves")
        # Nodes for ONNX Runtime as late as possible, so that none makes a piece only for what a later one reads.
        last = max((stages[unit] for unit in ready if isinstance(unit, _Other)), default=0)
        for unit in reversed(ready):
            if isinstance(unit, _Other):
                unit.stage = stages[unit] = min((stages[other] for other in after[unit]), default=last)
        self._stages = stages
        return ready

    def _steps(self, live: list[Any], in_order: list[Any]) -> list[Step]:
        read_in: dict[str, set[int]] = {}  # by what the stages are in which it is read; -1 if not by ONNX Runtime
        for unit in live:
            for name in unit.sources:
                read_in.setdefault(name, set()).add(unit.stage if isinstance(unit, _Other) else -1)
        for name in self._outputs:
            read_in.setdefault(name, set()).add(-1)
        made = {name for unit in live for name in unit.results}
        steps: list[Step] = []
        for stage in range(1 + max(self._stages.values(), default=0)):
            others = [unit for unit in live if isinstance(unit, _Other) and unit.stage == stage]
            if others:
                here = {name for unit in others for name in unit.results}
                read = dict.fromkeys(name for unit in others for name in unit.sources)
                inputs = [name for name in read if name in self._inputs or name in made - here]
                outputs = [name for unit in others for name in unit.results if read_in.get(name, set()) - {stage}]
                steps.append(Piece(self._with_folded(others, read), inputs, outputs, self._proto))
            steps += [unit for unit in in_order if not isinstance(unit, _Other) and self._stages[unit] == stage]
        return steps

    def _with_folded(self, others: list[_Other], read: Iterable[str]) -> list[Any]:
        """Nodes in the graph's order, with those that make the constants that they read."""
        needed: set[int] = {id(unit.node) for unit in others}
        pending = [name for name in read if name in self._folded]
        while pending:
            node = self._made_by[pending.pop()]
            if id(node) not in needed:
                needed.add(id(node))
                pending += [name for name in node.input if name in self._folded]
        return [node for node in self._nodes if id(node) in needed]

    def _needed_constants(self, steps: list[Step]) -> dict[str, NDArray]:
        names = [*self._outputs]
        for step in steps:
            if not isinstance(step, Piece):
                names += step.sources if isinstance(step, Recurrence) else step.data
        needed: dict[str, NDArray] = {}
        for name in names:
            if name and (name in self._initializers or name in self._folded):
                value = self._constants.value(name)
                if isinstance(value, Unknown):
                    raise CannotSplitError(value.reason)
                needed[name] = value
        return needed


# ---- Nodes --------------------------------------------------------------------------------------------------------

ZERO_FROM_FIRST = {
    "Cast", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip
MOVED_BEFORE = {"Gather", "Identity", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
SIZES = ((7, 5), (11, 13))  # T and B, to try moves with


def _key(node: Any) -> str:
    """What a recurrent node is known by: the first output that it has."""
    return next((name for name in node.output if name), "")


def _is_reversed(node: Any) -> bool:
    return any(a.name == "direction" and a.s not in (b"", b"forward") for a in node.attribute)


def _reads(node: Any) -> list[str]:
    """All that a node reads; bodies in it may read what they make themselves, too."""
    names = [name for name in node.input if name]
    for body in bodies(node):
        names += sorted(name for name in names_in(body) - _made_in(body) if name)
    return names


def _made_in(body: Any) -> set[str]:
    """All names that a body and those in it give."""
    made, graphs = set[str](), [body]
    while graphs:
        graph = graphs.pop()
        made |= {value.name for value in itertools.chain(graph.input, graph.initializer)}
        made |= {sparse.values.name for sparse in graph.sparse_initializer}
        for node in graph.node:
            made |= set(node.output)
            graphs += bodies(node)
    return made


def _inside(node: Any, depth: int) -> list[Node]:
    """The recurrent nodes in the bodies of a node."""
    if depth > MOST_NESTED:
        raise ValueError(f"expected graphs nested at most {MOST_NESTED} deep, got more")
    found: list[Node] = []
    for body in bodies(node):
        for inner in body.node:
            if inner.op_type in spec.INPUTS and domain(inner) == spec.domain_of(inner.op_type):
                reason = f"it is in a body of {text(node.op_type)}"
                found.append(Node(name_of(inner), text(inner.op_type), "onnxruntime", reason, True))
            found += _inside(inner, depth + 1)
    return found


def _shapes_of(recurrence: Recurrence) -> dict[str, list[tuple[int, ...]]]:
    """The shapes of what it gives, for each of `SIZES`."""
    stack = recurrence.layer.stack
    D, H, first = len(stack.directions), stack.cells[0].hidden_size, stack.batch_first
    state = [(B, D, H) if first else (D, B, H) for _, B in SIZES]
    shapes: dict[str, list[tuple[int, ...]]] = {
        name: [*state] for name in itertools.chain.from_iterable(recurrence.final) if name
    }
    if recurrence.y:
        shapes[recurrence.y] = [(B, T, D, H) if first else (T, D, B, H) for T, B in SIZES]
    return shapes


def _type_of(dtype: np.dtype, one: NDArray, other: NDArray) -> Any:
    """A TypeProto with the sizes that are the same whatever T and B are."""
    shape = [n if n == m else None for n, m in zip(one.shape, other.shape, strict=True)]
    return onnx.helper.make_tensor_type_proto(onnx.helper.np_dtype_to_tensor_dtype(dtype), shape)


def _join_states(recurrence: Recurrence, live: list[Any]) -> None:
    """Read and give the states of all nodes at once, where moves take them from one value or put them into one."""
    stack, moves = recurrence.layer.stack, [unit for unit in live if isinstance(unit, Moved)]
    made_by = {name: unit for unit in moves for name in unit.results}
    LD, D, H = len(stack.cells), len(stack.directions), stack.cells[0].hidden_size
    initial, together = list(recurrence.initial), list(recurrence.together)
    for role, names in enumerate(recurrence.initial):
        if not any(names):
            initial[role] = ("",)
        root = names[0]
        while root in made_by and len(made_by[root].data) == 1:
            root = made_by[root].data[0]
        if stack.batch_first or len(names) == 1 or not all(names) or root in names:
            continue
        whole = np.arange(LD * 2 * H).reshape(LD, 2, H)
        values = {root: whole}
        try:
            for unit in moves:
                if all(name in values for name in unit.data):
                    values.update(zip(unit.node.output, unit.move([values[name] for name in unit.data]), strict=True))
        except Exception:  # whatever NumPy raises where the value has other axes
            continue
        if all(np.array_equal(values.get(name, 0), whole[k * D : k * D + D]) for k, name in enumerate(names)):
            initial[role] = (root,)
    for role, names in enumerate(recurrence.final):
        for unit in moves:
            axis = next((a.i for a in unit.node.attribute if a.name == "axis"), 0)
            joins = unit.node.op_type == "Concat" and axis in (0, -3) and not stack.batch_first
            if joins and unit.data == list(names) and unit in live:
                together[role] = unit.results[0]
                live.remove(unit)
                break
    recurrence.initial, recurrence.together = tuple(initial), tuple(together)


def _lay_out(recurrence: Recurrence, live: list[Any], outputs: list[str]) -> None:
    """Let Y lie in memory so that what others read of it is contiguous, as far as that can be."""
    moves = [unit for unit in live if isinstance(unit, Moved)]
    read = {name for unit in live if not isinstance(unit, Moved) for name in unit.sources} | set(outputs)
    best = -1
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        y, memory = empty_y(recurrence.layer.stack, order, *SIZES[0], np.int8)
        values = {recurrence.y: y}
        for unit in moves:
            if all(name in values for name in unit.data):
                values.update(zip(unit.node.output, unit.move([values[name] for name in unit.data]), strict=False))
        good = sum(
            a.flags.c_contiguous and np.may_share_memory(a, memory) for name, a in values.items() if name in read
        )
        if good > best:
            best, recurrence.order = good, order
