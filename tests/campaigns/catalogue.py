"""The public API as a list of functions with arguments that work: what calls.py spoils.

test_campaigns.py holds that every public name is here, so a new function gets an entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fastrnn
import fastrnn.onnx
from fastrnn import data, distributed, engines, inspect, metrics, nn, optim, serialization, train, weights

__all__ = ["MODULES", "NOT_CALLED", "Entry", "catalogue"]

MODULES = (
    fastrnn,
    fastrnn.onnx,
    data,
    distributed,
    engines,
    inspect,
    metrics,
    nn,
    optim,
    serialization,
    train,
    weights,
)

# Public names that are no functions for users, or that need more than NumPy, SciPy and the process of a caller.
NOT_CALLED = {
    "fastrnn": {
        "Frozen", "Gradients", "RowGradient", "Stream", "Tape", "__version__", "data", "distributed", "engines",
        "get_include", "inspect", "metrics", "nn", "optim", "train", "weights", "show_config",
    },
    "fastrnn.onnx": {"Session", "SessionStream", "load", "ops", "session"},  # fuzz.py has models
    "fastrnn.data": {"BOS", "EOS", "PAD", "SPECIALS", "UNK"},
    "fastrnn.distributed": {"Group", "gloo", "mpi"},  # they find processes that something else has started
    "fastrnn.engines": {"ENGINES", "Engine", "Operations", "available", "current"},
    "fastrnn.inspect": {"PrecisionReport", "PrecisionRow", "plot_gates", "plot_gradient_norms"},  # Matplotlib's errors
    "fastrnn.nn": {
        "FrozenEmbedding", "FrozenLinear", "HasParams", "Loss", "Model", "ModelStream", "Module", "Part", "Steps",
    },
    "fastrnn.optim": {"Optimizer", "Schedule"},
    "fastrnn.train": {"Report", "Source", "Trainable"},
    "fastrnn.weights": {"CONVENTIONS", "convention_table"},
}  # fmt: skip


class KerasModel:
    """As much of a model of Keras as `from_keras` uses."""

    name, layers = "dense", property(lambda self: [self])

    def get_layer(self, name: str) -> KerasModel:
        return self

    def get_weights(self) -> list[Any]:
        return [np.ones((3, 2), np.float32)]

    def get_config(self) -> dict[str, Any]:
        config = {"name": "dense", "units": 2, "activation": "softmax", "use_bias": False}
        return {"layers": [{"class_name": "Dense", "config": config}]}


@dataclass
class Entry:
    """A function and arguments that work.

    Attributes
    ----------
    function : callable
    arguments : dict of str to object
        For arguments that are not here, the function's defaults work.
    state : callable
        What a call that fails may not change: returns arrays, or dicts and lists of arrays.
    documented : tuple of object
        Whose docstrings say which errors there are.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    state: Callable[[], Any]
    documented: tuple[Any, ...]


def catalogue() -> dict[str, Entry]:
    """All entries, of new objects."""
    entries: dict[str, Entry] = {}

    def add(
        function: Callable[..., Any], name: str = "", of: Any = None, state: Any = None, /, **arguments: Any
    ) -> None:
        name = name or (function.__qualname__ if hasattr(function, "__qualname__") else type(function).__name__)
        if state is None:
            subject = getattr(function, "__self__", of)
            state = subject.state_dict if hasattr(subject, "state_dict") and not isinstance(subject, type) else list
        documented = (function,) if of is None else (function, of)
        entries[name] = Entry(function, arguments, state, documented)

    f4 = np.float32
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 2, 3)).astype(f4)
    h, c = (rng.standard_normal((1, 2, 4)).astype(f4) for _ in range(2))
    lengths, resets = np.array([5, 3]), np.zeros((5, 2), bool)

    # Layers
    sizes = {"input_size": 3, "hidden_size": 4}
    more = {
        "num_layers": 2,
        "bias": True,
        "batch_first": False,
        "dropout": 0.5,
        "bidirectional": True,
        "dtype": f4,
        "rng": 0,
    }
    add(fastrnn.SLSTM, **sizes, **more, num_heads=2)
    add(fastrnn.MinGRU, **sizes, **more, nonlinearity="positive")
    add(fastrnn.MinLSTM, **sizes, **more, nonlinearity="linear")
    more |= {"input_dropout": 0.25, "state_dropout": 0.25, "weight_dropout": 0.25, "zoneout": 0.25}
    norm = {"layer_norm": "separate", "layer_norm_eps": 1e-5}
    add(fastrnn.RNN, **sizes, **more, **norm, nonlinearity="relu", clip=None)
    own = {"proj_size": 2, "peephole": True, "coupled": False, "zoneout_cell": 0.25, "candidate_dropout": 0.25}
    add(fastrnn.LSTM, **sizes, **more, **norm, **own, clip=None)
    add(fastrnn.GRU, **sizes, **more, **norm, reset_after=True, update_gate="keep", candidate_dropout=0.25, clip=None)
    lstm = fastrnn.LSTM(3, 4, rng=0)
    gru = fastrnn.GRU(3, 4, num_layers=2, bidirectional=True, dropout=0.5, rng=0)
    y, state, tape = lstm.forward(x, (h, c))
    call = {"x": x, "state": (h, c), "lengths": lengths, "resets": resets}
    add(lstm.__call__, "LSTM()", lstm, **call)
    add(gru.__call__, "GRU()", gru, x=x, lengths=lengths)
    add(lstm.forward, **call, rng=1, keep="states")
    add(gru.forward, x=x, rng=1)
    add(lstm.backward, tape=tape, dy=y, dstate=state, wants_x=True)
    add(tape.gates, layer=0, direction=0)
    add(lstm.load_state_dict, mapping=lstm.state_dict())
    add(lambda value: setattr(lstm, "dropout", value), "LSTM.dropout", lstm, value=0.1)
    for name in ("input_dropout", "state_dropout", "candidate_dropout", "weight_dropout"):
        add(lambda value, name=name: setattr(lstm, name, value), f"LSTM.{name}", lstm, value=0.1)
    add(lambda value: setattr(lstm, "keep", value), "LSTM.keep", lstm, value="all")
    frozen = lstm.freeze()
    add(frozen.__call__, "Frozen()", lstm, **call)
    add(lstm.freeze, precision="int8")
    add(frozen.stream, batch_size=2)
    stream = frozen.stream(2)
    position = lambda: stream.state  # noqa: E731
    add(stream.step, "", None, position, x=x[0].copy(), out=np.empty((2, 4), f4), rows=np.array([1, 0]))
    add(stream.reset, "", None, position, rows=[0])
    add(stream.select, "", None, position, rows=[1, 0])
    add(lambda value: setattr(stream, "state", value), "Stream.state", fastrnn.Stream, position, value=(h, c))

    # The process
    def within(context: Callable[..., Any]) -> Callable[..., Any]:
        def entered(**given: Any) -> None:
            with context(**given):
                lstm(x)

        return entered

    def restored(function: Callable[..., Any], before: Any) -> Callable[..., Any]:
        def called(**given: Any) -> None:
            try:
                function(**given)
                gru(x)
            finally:
                function(before)

        return called

    add(within(fastrnn.num_threads), "num_threads", fastrnn.num_threads, n=2)
    add(within(engines.use), "engines.use", engines.use, name="reference")
    add(restored(fastrnn.set_num_threads, fastrnn.get_num_threads()), "set_num_threads", fastrnn.set_num_threads, n=2)
    if fastrnn.get_threading() != "none":
        add(
            restored(fastrnn.set_threading, fastrnn.get_threading()),
            "set_threading",
            fastrnn.set_threading,
            name="workers",
        )
    add(fastrnn.get_num_threads)
    add(fastrnn.get_threading)
    add(engines.named, "engines.named", source="engine", name="packed")

    # Weights and files
    add(weights.from_torch, state_dict=lstm.state_dict(), prefix="", kind="lstm", dtype=f4, batch_first=True)
    add(
        weights.from_keras,
        weights=weights.to_keras(gru),
        bidirectional=True,
        reset_after=True,
        batch_first=True,
        dtype=f4,
    )
    add(weights.from_onnx, tensors=weights.to_onnx(gru), reset_after=True, dtype=f4, update_gate="keep")
    blocks = {"weight_ih": np.ones((9, 2), f4), "weight_hh": np.ones((9, 3), f4), "bias": np.ones(9, f4)}
    add(
        weights.from_arrays,
        arrays=blocks,
        order="zrn",
        transposed=False,
        forget_bias=0.0,
        bidirectional=False,
        dtype=f4,
        batch_first=True,
    )
    slstm = {"_recurrent_kernel_": np.ones((2, 8, 2), f4), "_bias_": np.ones(16, f4)}
    add(weights.from_xlstm, state_dict=slstm, prefix="", dtype=f4, batch_first=True)
    add(weights.to_xlstm, layer=weights.from_xlstm(slstm), prefix="a.", backend="cuda")
    add(weights.to_torch, layer=lstm, prefix="a.")
    add(weights.to_keras, layer=lstm, sum_biases=True)
    add(weights.to_onnx, layer=lstm, precision="int8")
    fastrnn.save("layer.npz", lstm)
    add(fastrnn.save, "fastrnn.save", path="saved.npz", layer=lstm, prefix="a.", metadata={"a": "b"})
    add(fastrnn.load, "fastrnn.load", path="layer.npz", prefix="", kind="lstm", dtype=f4)
    add(serialization.save, "serialization.save", path="arrays.npz", tensors={"a": x, "b": x.astype(np.uint16)},
        metadata={"a": "b"}, bfloat16=["b"])  # fmt: skip
    add(serialization.load, "serialization.load", path="layer.npz")
    add(serialization.check_path, path="layer.npz")
    inputs = {**weights.to_onnx(lstm)[0], "X": x, "sequence_lens": lengths, "initial_h": h}
    attrs = {
        "hidden_size": 4,
        "direction": "forward",
        "clip": 1.0,
        "activations": ["Sigmoid", "Tanh", "Tanh"],
        "layout": 0,
    }
    add(fastrnn.onnx.run_op, op_type="LSTM", inputs=inputs, attrs=attrs, explain=True, activation_scale="row")
    quantized = weights.to_onnx(lstm, precision="int8")[0]
    add(
        fastrnn.onnx.run_op,
        "run_op of integers",
        op_type="DynamicQuantizeLSTM",
        inputs={**quantized, "X": x, "sequence_lens": lengths, "initial_h": h},
        attrs={"hidden_size": 4, "direction": "forward"},
        activation_scale="onnxruntime",
    )
    grads = {"Y_h": h}
    add(fastrnn.onnx.run_grad, op_type="LSTM", inputs=inputs, attrs={"hidden_size": 4}, out_grads=grads)

    # Parts
    ids, words = rng.integers(0, 6, (5, 2)), rng.integers(0, 6, (5, 2, 4))
    embedding, linear = nn.Embedding(6, 3, word_dropout=0.1, embedding_dropout=0.1, rng=0), nn.Linear(3, 4, rng=0)
    add(nn.Embedding, num_embeddings=6, embedding_dim=3, scale=1.0, columns=2, word_dropout=0.1, embedding_dropout=0.1,
        dtype=f4, rng=0)  # fmt: skip
    add(nn.Linear, in_features=3, out_features=4, bias=True, dtype=f4, rng=0)
    add(nn.Activation, kind="tanh")
    add(nn.Dropout, probability=0.5, locked=True)
    add(nn.Convolution, linear=nn.Linear(4, 2, rng=0), shape=(3, 3, 1), size=2, stride=1)
    add(nn.Attention, query_size=4, memory_size=4, dtype=f4, rng=0)
    add(nn.WordEncoder, characters=embedding, rnn=lstm, words=embedding, dropout=0.1, word_dropout=0.1)
    add(lambda part: nn.Sequential(part, nn.Activation("tanh")), "Sequential", nn.Sequential, part=linear)
    add(nn.Masking, value=0.0)
    add(nn.Recurrence, rnn=lstm, returns="last", reverse=True, merge="sum", masked_output="zero")
    add(nn.from_keras, "nn.from_keras", model=KerasModel(), loss="cross_entropy")
    parts = {
        "Embedding": (embedding, {"ids": ids}), "Linear": (linear, {"x": x}), "Activation": (nn.Activation("tanh"),
        {"x": x}),
        "Dropout": (nn.Dropout(0.5, locked=True), {"x": x}),
        "Sequential": (nn.Sequential(linear, nn.Activation("relu")), {"x": x}),
        "WordEncoder": (nn.WordEncoder(nn.Embedding(6, 3, rng=0), fastrnn.GRU(3, 2, rng=0)), {"ids": words}),
        "Convolution": (nn.Convolution(nn.Linear(4, 2, rng=0), (3, 3, 1), 2), {"x": np.ones((2, 9), f4)}),
    }  # fmt: skip
    for name, (part, given) in parts.items():
        out, kept = part.forward(**given, rng=0)
        add(part.__call__, f"{name}()", part, **given)
        add(part.forward, f"{name}.forward", None, None, **given, rng=0)
        add(partial(part.backward, kept), f"{name}.backward", type(part).backward, None, dy=out)
    for name, (part, given) in list(parts.items())[:2]:
        add(part.freeze, f"{name}.freeze", precision="int8")
        add(part.freeze("int8").__call__, f"Frozen{name}()", type(part).forward, **given)
    attention = nn.Attention(4, 4, rng=0)
    memory = attention.remember(y, lengths)
    add(attention.remember, memory=y, lengths=lengths, grads=True)
    add(lambda queries, lengths: attention.forward(queries, memory, lengths), "Attention.forward", nn.Attention.forward,
        None, queries=y, lengths=lengths)  # fmt: skip
    add(nn.set_forget_bias, layer=fastrnn.LSTM(3, 4, rng=0), value=1.0)
    add(nn.state_size, layer=lstm)
    add(nn.parameters, parts={"a": linear})
    add(nn.load_parameters, parts={"a": linear}, mapping=nn.parameters({"a": linear}))

    # Losses
    logits, targets = x.reshape(10, 3), rng.integers(0, 3, 10)
    add(nn.softmax, logits=logits, axis=-1)
    add(nn.log_softmax, logits=logits, axis=-1)
    add(nn.SoftmaxCrossEntropy, ignore_index=-100)
    for loss, given in ((nn.SoftmaxCrossEntropy(), targets), (nn.MeanSquaredError(), logits)):
        name = type(loss).__name__
        arguments = {
            "logits" if name[0] == "S" else "predictions": logits,
            "targets": given,
            "weights": np.ones(10, f4),
            "per_target": True,
        }
        if name[0] == "M":
            arguments["weights"] = np.ones((10, 3), f4)
        add(loss.__call__, f"{name}()", loss, **arguments)
        kept = loss.forward(**arguments)[1]
        add(loss.forward, f"{name}.forward", None, None, **arguments)
        add(partial(loss.backward, kept), f"{name}.backward", type(loss).backward, None, dy=1.0)
    add(nn.MeanSquaredError)

    # Models
    tagger = nn.ManyToMany(fastrnn.GRU(3, 4, rng=0), nn.Linear(4, 3, rng=0), nn.Embedding(6, 3, rng=0))
    chooser = nn.ManyToOne(fastrnn.LSTM(3, 4, rng=0), nn.Linear(4, 3, rng=0), nn.Embedding(6, 3, rng=0))

    def decoder() -> nn.Decoder:
        return nn.Decoder(
            nn.Embedding(6, 3, rng=0), fastrnn.LSTM(3, 4, rng=0), nn.Linear(4, 6, rng=0), nn.Linear(4, 8, rng=0)
        )

    writer = nn.EncoderDecoder(fastrnn.LSTM(3, 4, rng=0), decoder(), nn.Embedding(6, 3, rng=0))
    dataset = data.Dataset([np.array([1, 2, 3]), np.array([4, 5])], [np.array([0, 1, 2]), np.array([2, 1])])
    batch = dataset.batch(np.array([0, 1]))
    single = data.Dataset([np.array([1, 2, 3]), np.array([4, 5])], [0, 2]).batch(np.array([0, 1]))
    pair = data.Dataset([np.array([1, 2, 3]), np.array([4, 5])], [np.array([4, 5]), np.array([5])]).batch(
        np.array([0, 1])
    )
    reader = {"rnn": fastrnn.GRU(3, 4, rng=0), "output": nn.Linear(4, 3, rng=0), "embedding": nn.Embedding(6, 3, rng=0)}
    add(nn.ManyToOne, **reader, pooling="mean", loss="mse", dropout=0.1, locked=True)
    add(nn.ManyToMany, **reader, loss="mse", dropout=(0.1, 0.2), locked=True, tied=False, ar=1.0, tar=1.0)
    whole = {"hidden": nn.Masking(0), "embedding": nn.Embedding(6, 3, rng=0)}
    whole |= {"rnn": nn.Recurrence(fastrnn.GRU(3, 4, rng=0), returns="last"), "output": nn.Linear(4, 3, rng=0)}
    add(nn.Chain, parts=whole, loss="cross_entropy")
    add(nn.Decoder, embedding=nn.Embedding(6, 3, rng=0), rnn=lstm, output=nn.Linear(4, 6, rng=0), bridge=nn.Linear(4,
    8, rng=0),
        dropout=0.1, feed=False)  # fmt: skip
    add(nn.OneToMany, decoder=decoder(), encoder=nn.Linear(3, 4, rng=0))
    add(nn.EncoderDecoder, encoder=lstm, decoder=decoder(), embedding=embedding, dropout=0.1)
    add(lambda model: nn.Ensemble(model, tagger), "Ensemble", nn.Ensemble, model=tagger)
    add(lambda model: nn.WriterEnsemble(model, writer), "WriterEnsemble", nn.WriterEnsemble, model=writer)

    def on_batch(method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda **given: method(data.Batch(**given))

    for name, model, examples in (("tagger", tagger, batch), ("chooser", chooser, single), ("writer", writer, pair)):
        fields = {"x": examples.x, "y": examples.y, "x_lengths": examples.x_lengths, "y_lengths": examples.y_lengths}
        if name != "writer":
            fields["weights"] = np.array([1.0, 0.5])
        for method in ("loss", "loss_and_grads", "predict_batch"):
            add(
                on_batch(getattr(model, method)),
                f"{name}.{method}",
                getattr(type(model), method),
                model.state_dict,
                **fields,
            )
    add(tagger.__call__, "ManyToMany()", tagger, x=ids, lengths=lengths)
    add(chooser.__call__, "ManyToOne()", chooser, x=ids, lengths=lengths)
    row = nn.Chain(whole, loss="cross_entropy")
    add(row.__call__, "Chain()", row, x=ids, lengths=lengths)
    add(tagger.stream, "ManyToMany.stream", batch_size=2)
    tagging = tagger.stream(2)
    add(tagging.step, x=np.array([1, 2]))
    add(tagging.reset, rows=[1])
    add(writer.generate, "EncoderDecoder.generate", x=ids, lengths=lengths, max_length=4)
    add(lambda **given: nn.sample(writer.steps(ids), **given), "sample", nn.sample, max_length=4, temperature=1.0,
    rng=0,
        banned=(0, 1))  # fmt: skip
    add(lambda **given: nn.beam_search(writer.steps(ids, width=2), **given), "beam_search", nn.beam_search,
    max_length=4,
        length_penalty=1.0, banned=(0, 1))  # fmt: skip
    add(nn.draw, logits=logits, temperature=1.0, rng=0, banned=(0,))
    add(nn.consensus, drawn=[[1, 2], [1, 3]], score=lambda a, b: float(a == b))
    shown = nn.ManyToMany(fastrnn.GRU(6, 4, rng=0), nn.Linear(4, 3, rng=0), nn.Embedding(6, 3, columns=2, rng=0))
    add(lambda **given: nn.fill(shown, **given), "fill", nn.fill, x=words[:, 0, :2], ids=np.array([3, 4, 5]), column=1)
    add(tagger.freeze, "Model.freeze", nn.Module.freeze, tagger.state_dict, precision="int8", keep=["output"])
    tagger.save("model.npz")
    add(tagger.save, "Model.save", nn.Model.save, path="model-saved.npz", metadata={"a": "b"})
    add(nn.load, "nn.load", path="model.npz", classes=())

    # Optimisers and schedules
    params = {"a": np.ones((3, 2), f4), "b": np.ones(4, f4)}
    gradients = {name: value * 2 for name, value in params.items()}
    add(optim.SGD, params=params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    add(optim.Adam, params=params, lr=0.1, betas=(0.9, 0.999), eps=1e-8, lazy=False)
    add(optim.AdamW, params=params, lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    add(optim.Averaged, optimizer=optim.SGD(params, 0.1), decay=0.9)
    optimizers: list[Any] = [make(params, 0.1) for make in (optim.SGD, optim.Adam, optim.AdamW)]
    for optimizer in [*optimizers, optim.Averaged(optim.SGD(params, 0.1))]:
        name = type(optimizer).__name__
        add(optimizer.step, f"{name}.step", optim.Optimizer.step, lambda o=optimizer: [params, o.state_dict()],
            grads=gradients, max_norm=1.0)  # fmt: skip
        add(optimizer.load_state_dict, f"{name}.load_state_dict", mapping=optimizer.state_dict())
    add(optim.clip_grad_norm, grads=gradients, max_norm=1.0)
    for schedule in (optim.constant, optim.warmup_linear, optim.warmup_cosine, optim.step_decay):
        add(schedule)

    # Data
    sequences = [np.array([1, 2, 3]), np.array([4, 5])]
    vocabulary = data.Vocabulary("abc")
    ragged = data.Ragged.of(sequences)
    add(data.Vocabulary, tokens=["a", "b"], specials=("<pad>", "<unk>"))
    add(data.Vocabulary.build, "Vocabulary.build", sequences=["ab", "b"])
    add(vocabulary.id, token="a")
    add(vocabulary.encode, tokens=["a", "b"])
    add(vocabulary.decode, ids=[4, 5])
    add(data.encode_words, words=["ab", "c"], vocabulary=vocabulary, characters=vocabulary, max_characters=4)
    add(data.read_blocks, path="blocks.txt")
    add(data.Ragged, values=np.arange(5), starts=[0, 3], lengths=[3, 2])
    add(data.Ragged.of, "Ragged.of", sequences=sequences, dtype=np.int32)
    add(data.Ragged.windows, "Ragged.windows", values=np.arange(9), length=3, starts=[0, 2])
    add(ragged.take, rows=[1])
    add(ragged.pad, rows=[0, 1])
    add(data.Batch, x=ids, y=ids, x_lengths=lengths, y_lengths=lengths)
    add(data.Dataset, x=sequences, y=[0, 1], weights=[1.0, 0.5])
    add(dataset.take, "Dataset.take", rows=[0])
    add(dataset.batch, "Dataset.batch", rows=np.array([0]))
    add(data.Batches, dataset=dataset, size=2, pool=3)
    add(lambda **given: data.PartlyShown(data.Batches(dataset, 2), **given), "PartlyShown", data.PartlyShown,
        ids=np.array([3, 4, 5]), column=0)  # fmt: skip
    add(data.Batches(dataset, 2).shard, "Batches.shard", data.Batches.shard, index=1, count=2)
    add(data.PartlyShown(data.Batches(dataset, 2), np.arange(3), 0).shard, "PartlyShown.shard", data.Batches.shard,
        index=1, count=2)  # fmt: skip
    add(data.Chunks(np.arange(40), 2, 5).shard, "Chunks.shard", data.Batches.shard, index=1, count=2)
    add(data.Chunks, ids=np.arange(40), columns=2, steps=5)
    add(data.Chunks.to_evaluate, "Chunks.to_evaluate", ids=np.arange(40), columns=2, steps=5)

    # Training, metrics, a look inside
    small = nn.ManyToOne(fastrnn.RNN(2, 2, rng=0), nn.Linear(2, 2, rng=0))
    pictures = data.Batches(data.Dataset([np.ones((3, 2), f4)] * 2, [0, 1]), 2)

    def trained(**given: Any) -> None:
        for _ in train.Trainer(small, optim.SGD(small.params, 0.0), pictures, **given):
            break

    # What batches are is between the source and the model: a wrong one is not looked for.
    add(trained, "Trainer", train.Trainer, steps=1, maximize=False, max_norm=1.0, evaluations=1,
        patience=1, every=1, seed=0, group=None)  # fmt: skip
    add(lambda **given: train.evaluate(batches=pictures, **given), "evaluate", train.evaluate, model=small, group=None)
    add(metrics.accuracy, predictions=sequences, targets=sequences, ignore=-100)
    add(metrics.macro_f1, predictions=sequences, targets=sequences, ignore=-100)
    add(metrics.perplexity, loss=1.0)
    add(metrics.rmse, predictions=[x, x], targets=[x, x])
    add(metrics.token_f1, predictions=[["a"], ["b"]], targets=[["a"], ["a", "b"]])
    add(metrics.chrf, predictions=["ab"], targets=["ac"])
    add(metrics.chrf_matrix, predictions=["ab"], references=["ac", "d"])
    add(metrics.Counts, examples=[(0, [["a"]]), (1, [["b"]])], targets=[0, 1], weight=5.0)
    add(inspect.gates, tape=tape, row=0, layer=0, direction=0)
    add(inspect.gradient_norms, layer=lstm, x=x, dy=y[-1], rng=0)
    exact = nn.ManyToOne(fastrnn.RNN(2, 2, dtype="f8", rng=0), nn.Linear(2, 2, dtype="f8", rng=0))
    doubles = data.Dataset([np.ones((3, 2))], [0]).batch(np.array([0]))
    add(lambda **given: inspect.check_gradients(exact, doubles, **given), "check_gradients",
        inspect.check_gradients, samples=1, step=1e-5, rng=0)  # fmt: skip
    add(inspect.precision, model=lstm, batches=x, precisions=("int8", ("bfloat16",)), rounds=1)
    return entries
