"""What a stream carries from run to run: states that a model takes as inputs and gives as outputs, and those inside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from fastrnn.onnx import spec
from fastrnn.onnx.models import name_of
from fastrnn.onnx.reading import is_onnx

__all__ = ["Carried", "carried"]

# Operators that give their first input, moved or in part.
PASSING = {
    "Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip

Origin: TypeAlias = "tuple[str, str]"
"""A state: the key of its node, and "h" or "c"."""


class Carried(NamedTuple):
    """What a stream needs to know of a model."""

    pairs: dict[str, str]  # inputs that are the initial states of nodes, and the outputs that are their final ones
    obstacles: list[str]  # states that a stream cannot carry, and why


def carried(
    nodes: Mapping[str, Any], kept: Iterable[str], made_by: Mapping[str, Any], inputs: Iterable[str],
    outputs: Iterable[str],
) -> Carried:  # fmt: skip
    """Find these among the recurrent nodes of a graph.

    `nodes` are by their keys, the first output that each has. `kept` has "KEY.h" and "KEY.c" for initial states
    that are constant, or zeros, of nodes that fastrnn runs: a session keeps these itself.
    """
    starts: dict[str, set[Origin]] = {}
    finals: dict[str, Origin] = {}
    obstacles: list[str] = []
    keeps = set(kept)
    for key, node in nodes.items():
        for role in ("h", "c") if spec.QUANTIZED.get(node.op_type, node.op_type) == "LSTM" else ("h",):
            final = _at(node.output, spec.OUTPUTS[node.op_type].index(f"Y_{role}"))
            if final:
                finals[final] = (key, role)
            initial = _at(node.input, spec.INPUTS[node.op_type].index(f"initial_{role}"))
            origin = _origin(initial, made_by)
            if f"{key}.{role}" in keeps:
                continue
            if origin in inputs:
                starts.setdefault(origin, set()).add((key, role))
            elif initial:
                obstacles.append(f"{name_of(node)} starts from a state that the model computes")
            else:
                obstacles.append(f"{name_of(node)} is run by ONNX Runtime, which keeps no state")
    ends: dict[frozenset[Origin], str] = {}
    for name in outputs:
        found = _origins(name, made_by, finals)
        if found:
            ends.setdefault(frozenset(found), name)
    pairs = {name: ends[frozenset(found)] for name, found in starts.items() if frozenset(found) in ends}
    return Carried(pairs, list(dict.fromkeys(obstacles)))


def _at(names: Any, place: int) -> str:
    return str(names[place]) if place < len(names) else ""


def _origin(name: str, made_by: Mapping[str, Any]) -> str:
    """Where a value comes from, through nodes that only move it."""
    seen: set[str] = set()
    while name in made_by and name not in seen and _passes(made_by[name]):
        seen.add(name)
        name = made_by[name].input[0]
    return name


def _origins(name: str, made_by: Mapping[str, Any], finals: Mapping[str, Origin]) -> set[Origin] | None:
    """The final states that an output consists of; None if there is anything else in it."""
    pending, seen, found = [name], set[str](), set[Origin]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        node = made_by.get(name)
        if name in finals:
            found.add(finals[name])
        elif node is not None and _passes(node):
            pending.append(node.input[0])
        elif node is not None and node.op_type == "Concat" and is_onnx(node.domain):
            pending += node.input
        else:
            return None
    return found


def _passes(node: Any) -> bool:
    return node.op_type in PASSING and is_onnx(node.domain) and len(node.input) > 0
