"""The language models in JAX: a compiled training step, with a scan over time and AdamW written out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp

__all__ = ["MODELS", "load"]


def lstm(params: dict[str, Any], k: int, x: Any, state: Any) -> tuple[Any, Any]:
    """Run layer k over time. The inputs of all steps are projected before, in one product."""
    weight, bias = params[f"rnn.weight_hh_l{k}"].T, params[f"rnn.bias_ih_l{k}"] + params[f"rnn.bias_hh_l{k}"]

    def step(state: Any, a: Any) -> tuple[Any, Any]:
        h, c = state
        i, f, g, o = jnp.split(a + h @ weight, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return jax.lax.scan(step, state, x @ params[f"rnn.weight_ih_l{k}"].T + bias)


def dropped(x: Any, probability: float, key: Any) -> Any:
    if key is None or not probability:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - probability, x.shape), x / (1 - probability), 0)


def language_model(s: Any, params: dict[str, Any], batch: Any, states: Any, key: Any) -> tuple[Any, Any]:
    """Return the loss and the final states; without dropout if the key is None."""
    keys = [None] * (s.L + 1) if key is None else jax.random.split(key, s.L + 1)
    x, y = batch
    h, after = dropped(params["embedding.weight"][x], s.dropout, keys[0]), []
    for k in range(s.L):
        state, h = lstm(params, k, h, states[k])
        after.append(state)
        h = dropped(h, s.dropout, keys[k + 1])
    logits = h @ params["output.weight"].T + params["output.bias"]
    chances = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(chances, y[..., None], -1).mean(), jax.lax.stop_gradient(after)


MODELS: dict[str, Callable[..., Any]] = {"LanguageModel": language_model}


def clip_and_step(params: Any, grads: Any, moments: Any, count: Any) -> tuple[Any, Any]:
    """Clip gradients to norm 1, and take a step of AdamW with the defaults of PyTorch."""
    norm = jnp.sqrt(sum((g * g).sum() for g in jax.tree.leaves(grads)))
    grads = jax.tree.map(lambda g: g * jnp.minimum(1, 1 / (norm + 1e-6)), grads)
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, moments[0], grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, moments[1], grads)

    def moved(p: Any, m: Any, v: Any) -> Any:
        return p * (1 - 1e-5) - 1e-3 * (m / (1 - 0.9**count)) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)

    return jax.tree.map(moved, params, m, v), (m, v)


def load(problem: Any) -> tuple[Callable[[], Any], Callable[[], dict[str, Any]]]:
    """Prepare a model; see `kit.load`."""
    s, model = problem.sizes, MODELS[problem.model]
    params = {name: jnp.array(value) for name, value in problem.params.items()}
    batches, valid = ([(jnp.array(b.x), jnp.array(b.y)) for b in given] for given in (problem.batches, problem.valid))
    follows = [bool(b.follows) for b in problem.batches]
    count = problem.steps
    rest = [(jnp.zeros((s.B, s.H)), jnp.zeros((s.B, s.H)))] * s.L
    differentiate = jax.value_and_grad(partial(model, s), has_aux=True)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, moments: Any, count: Any, batch: Any, states: Any) -> tuple[Any, Any, Any]:
        (_, after), grads = differentiate(params, batch, states, jax.random.key(count))
        return *clip_and_step(params, grads, moments, count + 1.0), after

    moments, states, done = tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(2)), rest, 0
    order = itertools.cycle(zip(batches, follows, strict=True))

    def train() -> None:
        nonlocal params, moments, states, done
        for batch, goes_on in itertools.islice(order, count):
            params, moments, states = step(params, moments, done, batch, states if goes_on else rest)
            done += 1
        jax.block_until_ready(params)

    def collect() -> dict[str, Any]:
        losses, states, total = [], rest, jax.tree.map(jnp.zeros_like, params)
        compiled = jax.jit(partial(model, s) if valid else differentiate)
        for batch in valid or batches:
            if valid:
                loss, states = compiled(params, batch, states, None)
            else:
                (loss, states), grads = compiled(params, batch, states, None)
                total = jax.tree.map(jnp.add, total, grads)
            losses.append(float(loss))
        if valid:
            return {"loss": np.mean(losses)}
        return {"loss": np.array(losses), **{f"grad {name}": value for name, value in total.items()}}

    return train, collect
