"""Files that are damaged or made to do harm: one clean error that names the file, and bounded memory."""

import json
import os
import random
import re
import struct
import sys
import zipfile
from io import BytesIO
from textwrap import dedent

import numpy as np
import pytest
from running import output_of

import fastrnn
from fastrnn import nn, optim, serialization
from fastrnn.data import Batch
from fastrnn.train import Trainer

F = np.float32


def refused(path, call=serialization.load, says=""):
    """Assert that a call on the file is a ValueError that names it, and what is wrong, in a few words."""
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        call(path)
    message = str(caught.value)
    assert says in message
    assert len(message) < 1000
    assert "\n" not in message


# ---- Damage ----------------------------------------------------------------------------------------------------------


def flipped(path, bits):
    """Flip each of these bits of a file, one at a time."""
    whole = path.read_bytes()
    with open(path, "r+b", buffering=0) as file:
        for bit in sorted(bits):
            file.seek(bit // 8)
            file.write(bytes([whole[bit // 8] ^ 1 << bit % 8]))
            yield bit
            file.seek(bit // 8)
            file.write(whole[bit // 8 : bit // 8 + 1])


def structure(whole):
    """The bits of an .npz that are not an array's numbers: headers of zip and of .npy, the directory, the end."""
    with zipfile.ZipFile(BytesIO(whole)) as archive:
        data = [(info.header_offset, info.filename, info.compress_size) for info in archive.infolist()]
        end = archive.start_dir
    starts = [offset for offset, _, _ in data] + [end]
    headers = [
        range(start, next_start - size + 64)  # the first 64 bytes of .npy: all of the header but padding
        for start, next_start, (_, _, size) in zip(starts, starts[1:], data, strict=False)
    ]
    return [8 * byte + bit for part in [*headers, range(end, len(whole))] for byte in part for bit in range(8)]


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_flipped_bit_gives_the_same_layer_or_an_error(suffix, tmp_path):
    layer = fastrnn.GRU(1, 2, reset_after=False, update_gate="replace", bias=False, rng=0)
    path = tmp_path / f"layer.{suffix}"
    fastrnn.save(path, layer)
    whole, options = path.read_bytes(), serialization.load(path)[1]["fastrnn.layer:"]
    every = range(8 * len(whole))
    bits = every if suffix == "safetensors" else {*structure(whole), *random.Random(0).sample(every, 500)}
    errors = 0
    for _ in flipped(path, bits):
        try:
            found, words = serialization.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            errors += 1
        else:
            assert found.keys() == layer.params.keys()
            assert all((found[name] == value).all() for name, value in layer.params.items())
            assert words == {"fastrnn.layer:": options}
    assert errors > len(bits) / 3


def trainer(path, seed=0):
    model = nn.ManyToMany(fastrnn.GRU(2, 2, rng=seed), nn.Linear(2, 2, rng=seed), loss="mse")
    x, y = np.random.default_rng(0).standard_normal((2, 4, 3, 2)).astype(F)
    return Trainer(model, optim.Adam(model.params), lambda rng: [Batch(x, y)], [Batch(x, y)], steps=2, checkpoint=path)


def state_of(trained):
    arrays = (
        trained.model.params | trained.optimizer.state_dict() | {f"best {k}": v for k, v in trained.best_params.items()}
    )
    return {name: (value.shape, value.tobytes()) for name, value in arrays.items()} | {"at": repr(trained._at)}


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_flipped_bit_gives_the_same_checkpoint_or_an_error(suffix, tmp_path):
    path = tmp_path / f"run.{suffix}"
    trained = trainer(path)
    trained.fit(progress=False)
    whole, expected = path.read_bytes(), state_of(trainer(path, seed=1))
    rng = random.Random(1)
    bits = set(rng.sample(range(8 * len(whole)), 600))
    if suffix == "npz":
        bits |= set(rng.sample(structure(whole), 600))
    errors = 0
    for _ in flipped(path, bits):
        try:
            found = state_of(trainer(path, seed=1))
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            errors += 1
        else:
            assert found == expected
    assert errors > len(bits) / 3


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_flipped_bit_gives_the_same_frozen_layer_or_an_error(suffix, precision, tmp_path):
    frozen = fastrnn.LSTM(3, 2, num_layers=2, rng=0).freeze(precision)
    path = tmp_path / f"layer.{suffix}"
    fastrnn.save(path, frozen)
    errors = 0
    for _ in flipped(path, random.Random(0).sample(range(8 * path.stat().st_size), 300)):
        try:
            found = fastrnn.load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
            errors += 1
        else:
            assert repr(found) == repr(frozen)
            for name, value in frozen.params.items():
                assert found.params[name].tobytes() == value.tobytes()
    assert errors > 100


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_cut_file_is_an_error(suffix, tmp_path):
    path = tmp_path / f"layer.{suffix}"
    fastrnn.save(path, fastrnn.LSTM(2, 3).freeze("int8"))
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        refused(path, fastrnn.load)


def test_files_of_before_there_were_digests_load(tmp_path):
    layer = fastrnn.GRU(2, 3, reset_after=False)
    options = {"fastrnn.layer:": json.dumps({"kind": "gru", "reset_after": False, "update_gate": "keep"})}
    words = np.frombuffer(json.dumps(options).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", **layer.params, __metadata__=words)
    assert repr(fastrnn.load(tmp_path / "old.npz")) == repr(layer)


def test_another_programs_arrays_with_our_digest_are_refused(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "layer.safetensors"
    fastrnn.save(path, fastrnn.RNN(2, 3))
    header = json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")["__metadata__"]
    theirs.save_file({name: a + 1 for name, a in theirs.load_file(path).items()}, path, header)
    refused(path, says="digest")


# ---- .npz ------------------------------------------------------------------------------------------------------------


def npy(header, data=b"", version=b"\1\0"):
    header = header if isinstance(header, bytes) else header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def zipped(path, entries, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in entries:
            archive.writestr(name, data)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    "header",
    [
        "", "{", "{'descr': ", "(" * 9000, "-" * 9000 + "1", "[" * 60000, "\0", "{'descr': '<f4'}", "'''", "0" * 60000,
        GOOD.replace("(2,)", "(2L"), GOOD.replace("(2,)", f"({'9' * 5000},)"), GOOD.replace("(2,)", "(-1,)"),
        GOOD.replace("(2,)", "(2.0,)"), GOOD.replace("(2,)", "2"), GOOD.replace("False", "0"),
        GOOD.replace("(2,)", f"({'1, ' * 70}2)"), GOOD.replace("'<f4'", "'|O'"), GOOD.replace("'<f4'", "'<f3'"),
        GOOD.replace("'<f4'", "'<U999999999'"), GOOD.replace("'<f4'", "[('a', '<f4')]"), GOOD + GOOD,
        GOOD.replace("'<f4'", "'<f4', 'descr': '<f4'"), GOOD.replace("<f4", "<M8[s]"), GOOD.replace("(2,)", "(0, -1)"),
    ],
)  # fmt: skip
def test_headers_of_arrays(header, tmp_path):
    zipped(tmp_path / "odd.npz", [("a.npy", npy(header, bytes(8)))])
    refused(tmp_path / "odd.npz")


@pytest.mark.parametrize("header", [GOOD, GOOD.replace("'", '"'), GOOD.replace("2,", "2L,"), GOOD.replace(" ", "")])
def test_headers_of_other_writers(header, tmp_path):
    zipped(tmp_path / "good.npz", [("a.npy", npy(header, bytes(8)))])
    assert serialization.load(tmp_path / "good.npz")[0]["a"].tolist() == [0, 0]


def test_arrays_of_numpy_of_every_kind(tmp_path):
    arrays = {"f": np.arange(6.0).reshape(2, 3).T, "text": np.array(["a", "bc"]), "bytes": np.array([b"x"])}
    arrays |= {"none": np.zeros((0, 3)), "big": np.arange(3, dtype=">i4"), "one": np.array(2j)}
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    found, _ = serialization.load(tmp_path / "a.npz")
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)


def test_counts_and_sizes(tmp_path):
    path = tmp_path / "odd.npz"
    for data in (bytes(7), bytes(9), b""):
        zipped(path, [("a.npy", npy(GOOD, data))])
        refused(path, says="expected 8 bytes for float32 (2,)")
    zipped(path, [("a.npy", npy(GOOD, bytes(8))), ("a", npy(GOOD, bytes(8)))])
    refused(path, says="'a' twice")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        zipped(path, [("a.npy", npy(GOOD, bytes(8)))], compression=method)
        refused(path, says="stored or deflated")


def test_what_the_directory_does_not_name_is_refused(tmp_path):
    """One byte of the directory's size swallows its first entry, and with it the metadata or an array."""
    path = tmp_path / "odd.npz"
    zipped(path, [(f"{name}.npy", npy(GOOD, bytes(8))) for name in "abc"])
    whole = path.read_bytes()
    end = whole.rfind(b"PK\5\6")
    first = whole.find(b"PK\1\2")
    entry = whole.find(b"PK\1\2", first + 1) - first
    directory = whole[first + entry : end]
    for size, start in ((len(directory), first), (len(directory), first + entry)):
        tail = whole[end : end + 8] + struct.pack("<HHIIH", 2, 2, size, start, 0)
        path.write_bytes(whole[:first] + directory + tail)
        refused(path)
    path.write_bytes(b"before" + whole)
    refused(path)


def test_words_of_wrong_kinds(tmp_path):
    path = tmp_path / "odd.npz"
    for text in (
        b"[]",
        b"1",
        b"[" * 100000,
        b'{"a": 1}',
        b'{"a": "", "a": ""}',
        b"\xff",
        b'{"a":' * 100000,
        b"",
        b"NaN",
    ):
        np.savez(path, __metadata__=np.frombuffer(text, np.uint8))
        refused(path)
    np.savez_compressed(path, __metadata__=np.frombuffer(b'{"a": "%s"}' % (b" " * (2 << 20)), np.uint8))
    refused(path, says="words")


# ---- .safetensors ----------------------------------------------------------------------------------------------------


def with_header(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(7)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(9)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]}}, bytes(9)),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        ({"a": {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]}}, b""),
        ({"a": {"dtype": "F32", "shape": [1] * 70, "data_offsets": [0, 4]}}, bytes(4)),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "more": 1}}, bytes(8)),
        ({n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)),
        ({"a": 1}, b""), ({"__metadata__": []}, b""), ({"__metadata__": {"a": 1}}, b""), ([], b""), (b"{", b""),
        (b'{"a":' * 100000, b""), (b"\xff\xfe", b""), (b"", b""), (b"1" * 100000, b""),
        (b'{"__metadata__":{},"__metadata__":{}}', b""),
    ],
)  # fmt: skip
def test_headers_of_safetensors(header, data, tmp_path):
    with_header(tmp_path / "odd.safetensors", header, data)
    refused(tmp_path / "odd.safetensors")


# ---- Layers, models, checkpoints -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"hidden_size": 10**9}, {"num_layers": 10**9}, {"rng": 0}, {"dropout": float("nan")}, {"dropout": "1"},
        {"batch_first": 1}, {"kind": ["lstm"]}, {"kind": "rnn"}, {"proj_size": 10**9}, {"reset_after": True},
        {"coupled": True}, {"dtype": "float64"}, {"dropout": 10**400}, {"peephole": "yes"}, {"a" * 100000: 1},
    ],
)  # fmt: skip
def test_options_of_a_layer(options, tmp_path):
    path = tmp_path / "layer.npz"
    serialization.save(path, fastrnn.LSTM(2, 3).params, {"fastrnn.layer:": json.dumps(options)})
    refused(path, fastrnn.load)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_ih_l0": np.zeros((12, 2), np.int8)}, {"weight_ih_l0": np.zeros((12, 2))}, {"bias_hh_l0": F(0)},
        {"weight_ih_l0": F(0)}, {"weight_hh_l0": np.zeros((0, 0), F)}, {"weight_hr_l0": np.zeros((3, 3), F)},
        {"weight_ih_l1": np.zeros((12, 3), F)}, {"weight_ih_l999999999": np.zeros(1, F)}, {"peephole_l0": F(0)},
        {f"weight_ih_l{'9' * 5000}": np.zeros(1, F)}, {"weight_ih": np.zeros((12, 2), F)},
    ],
    ids=lambda change: str(next(iter(change)))[:30],
)  # fmt: skip
def test_arrays_of_a_layer(change, tmp_path):
    path = tmp_path / "layer.npz"
    serialization.save(path, fastrnn.LSTM(2, 3).params | {name: np.asarray(a) for name, a in change.items()})
    refused(path, fastrnn.load)


def saved_model(path, change):
    """Write a model's file with another description."""
    model = nn.ManyToMany(fastrnn.GRU(4, 3), nn.Linear(3, 2), nn.Embedding(9, 4))
    model.save(path)
    tensors, words = serialization.load(path)
    described = json.loads(words["fastrnn.model"])
    change(described, tensors)
    serialization.save(path, tensors, {**words, "fastrnn.model": json.dumps(described)})


def split_twice(described, tensors):
    """Two parts for the arrays of one: at "a.b", and at "b" of "a"."""
    linear = {"class": "Linear", "options": {}}
    inner = {"class": "Sequential", "options": {}, "parts": {"b": linear}}
    described["model"]["parts"]["output"] = {
        "class": "Sequential", "options": {}, "parts": {"a": inner, "a.b": linear},
    }  # fmt: skip
    tensors["output.a.b.weight"], tensors["output.a.b.bias"] = tensors.pop("output.weight"), tensors.pop("output.bias")


def without_arrays(described, tensors):
    described["model"]["parts"]["embedding"]["options"] = {"num_embeddings": 10**6, "embedding_dim": 4}
    del tensors["embedding.weight"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_arrays, "weight: expected a matrix, got no such array"),
        (split_twice, "in two"),
        (lambda d, t: d["model"].update({"class": ["GRU"]}), "unhashable"),
        (lambda d, t: d["model"].update({"options": None}), "TypeError"),
        (lambda d, t: d["model"]["parts"]["output"].update(options={"out_features": 10**9}), "out_features"),
        (lambda d, t: d["model"]["options"].update(dropout=float("nan")), "probability"),
        (lambda d, t: d.update(vocabularies={"a": {"tokens": [1], "specials": []}}), "tokens"),
        (lambda d, t: d.update(vocabularies={"a": {"tokens": [[]], "specials": []}}), "unhashable"),
        (lambda d, t: d.update(notes=1), "not iterable"),
    ],
)
def test_descriptions_of_models(change, says, tmp_path):
    saved_model(tmp_path / "m.npz", change)
    refused(tmp_path / "m.npz", nn.load, says)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "1"), ("step", -1), ("step", 1.5), ("step", True), ("epoch", None), ("position", 10**30),
        ("mean_loss", float("nan")), ("seconds", float("inf")), ("carried", "x"), ("carried", "hc"), ("finished", 1),
        ("best_score", "0"), ("more", 1), ("best_score", None),
    ],
)  # fmt: skip
def test_progress_of_checkpoints(key, value, tmp_path):
    path = tmp_path / "run.npz"
    trainer(path).fit(progress=False)
    tensors, words = serialization.load(path)
    progress = json.dumps(json.loads(words["progress"]) | {key: value})
    serialization.save(path, tensors, words | {"progress": progress})
    refused(path, trainer)


@pytest.mark.parametrize(
    "change",
    [
        {"extra": F(0)}, {"params.extra": F(0)}, {"state.1": F(0)}, {"optimizer.step": np.array(-1)},
        {"optimizer.lr": np.array(np.nan)}, {"optimizer.lr": np.array([1.0])}, {"best.rnn.weight_ih_l0": F(0)},
    ],
    ids=lambda change: str(next(iter(change))),
)  # fmt: skip
def test_arrays_of_checkpoints(change, tmp_path):
    path = tmp_path / "run.npz"
    trainer(path).fit(progress=False)
    tensors, words = serialization.load(path)
    serialization.save(path, tensors | {name: np.asarray(a) for name, a in change.items()}, words)
    refused(path, trainer)


# ---- Memory ----------------------------------------------------------------------------------------------------------

BOUNDED = """
    import json, resource, time, zipfile, numpy as np
    import fastrnn
    from fastrnn import nn, serialization

    def megabytes():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize() / 2**20

    def refused(call, says):
        start = time.monotonic()
        try:
            call()
        except ValueError as error:
            assert says in str(error), error
        else:
            raise AssertionError("loaded")
        assert time.monotonic() - start < 20

    np.savez_compressed("zeros.npz", a=np.zeros(1 << 28, np.uint8))
    np.savez_compressed("model.npz", **{"embedding.weight": np.zeros((1 << 20, 64), np.float32)})
    layers = {"weight_ih_l0": np.zeros((4000, 1), np.float32), "weight_hh_l0": np.zeros((4000, 1000), np.float32)}
    layers |= {f"weight_{k}_l{l}": np.zeros(0, np.float32) for l in range(1, 200) for k in ("ih", "hh")}
    np.savez("names.npz", **layers)
    np.savez("number.npz", weight_ih_l999999999=np.zeros((4, 1), np.float32), weight_hh_l0=np.zeros((4, 1)))
    embedding = {"class": "Embedding", "options": {"num_embeddings": 10**9, "embedding_dim": 64}}
    model = {"model": embedding, "vocabularies": {}, "notes": {}}
    serialization.save("options.npz", {}, {"fastrnn.model": json.dumps(model)})
    with open("long.safetensors", "wb") as file:
        file.write((1 << 40).to_bytes(8, "little") + b"{}")
    with open("wide.safetensors", "wb") as file:
        header = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
        file.write(len(header).to_bytes(8, "little") + header)
    del layers

    limit = int((megabytes() + 192) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    refused(lambda: serialization.load("zeros.npz"), "max_bytes")
    refused(lambda: fastrnn.load("zeros.npz"), "max_bytes")
    refused(lambda: nn.load("model.npz"), "max_bytes")
    refused(lambda: serialization.load("zeros.npz", max_bytes=1 << 40), "Unable to allocate")
    refused(lambda: fastrnn.load("names.npz"), "weight_ih_l1: expected (4000, 1000), got (0,)")
    refused(lambda: fastrnn.load("number.npz"), "missing")
    refused(lambda: nn.load("options.npz"), "no such array")
    refused(lambda: serialization.load("long.safetensors"), "header")
    refused(lambda: serialization.load("wide.safetensors"), "expected")
    refused(lambda: fastrnn.LSTM(3, 4, num_layers=10**8), "num_layers: expected an integer of at most 10000")
    refused(lambda: fastrnn.LSTM(10, 10000, num_layers=10**4), "hold")
    print("bounded")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are Linux's")
def test_memory_is_bounded_by_what_a_file_holds(tmp_path):
    assert output_of(f"import os\nos.chdir({str(tmp_path)!r})\n" + dedent(BOUNDED)) == "bounded\n"


def test_who_wants_more_says_so(tmp_path):
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(1 << 27, np.uint8))
    refused(tmp_path / "zeros.npz", says="max_bytes=")
    assert serialization.load(tmp_path / "zeros.npz", max_bytes=1 << 28)[0]["a"].nbytes == 1 << 27
    refused(tmp_path / "zeros.npz", lambda path: serialization.load(path, max_bytes=100))
    with pytest.raises(TypeError, match="max_bytes: expected an integer"):
        serialization.load(tmp_path / "zeros.npz", max_bytes="1")


# ---- The file system -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_what_is_no_regular_file_is_an_os_error(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkdir(tmp_path / "folder.npz")
    for name in ("pipe.npz", "folder.npz", "none.npz"):
        for call in (serialization.load, fastrnn.load, nn.load):
            with pytest.raises(OSError, match=name):
                call(tmp_path / name)
