"""fastrnn.serialization: what is saved comes back, files are whole or untouched, damage and code are refused."""

import os
import pickle
import random
import stat
import sys
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastrnn import serialization

TENSORS = {
    "embedding.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "file": np.array(True),  # a keyword of np.savez
    "a/b": np.zeros((0, 4)),
    "../c": np.arange(3, dtype=np.int16)[::-1],
}
METADATA = {"cell": "lstm", "characters": "aé\n\0한"}


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    return tmp_path / f"model{request.param}"


def assert_same(loaded, tensors):
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype
        np.testing.assert_array_equal(loaded[name], value)


@pytest.mark.parametrize("metadata", [METADATA, {}, None])
def test_what_is_saved_comes_back(path, metadata):
    serialization.save(path, TENSORS, metadata)
    tensors, words = serialization.load(str(path))
    assert_same(tensors, TENSORS)
    assert words == (metadata or {})


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)


@given(st.dictionaries(NAMES, hnp.arrays(st.sampled_from(["f4", "f8", "i8", "?"]), (2,)), max_size=3))
def test_any_names_come_back_from_npz(tmp_path_factory, tensors):
    path = tmp_path_factory.getbasetemp() / "names.npz"
    serialization.save(path, tensors)
    assert_same(serialization.load(path)[0], tensors)


def test_npz_is_numpys(tmp_path):
    np.savez_compressed(tmp_path / "theirs.npz", a=np.arange(3))
    assert_same(serialization.load(tmp_path / "theirs.npz")[0], {"a": np.arange(3)})
    serialization.save(tmp_path / "ours.npz", {"a": np.arange(3)})
    with np.load(tmp_path / "ours.npz", allow_pickle=False) as theirs:
        assert_same(dict(theirs), {"a": np.arange(3)})


def test_a_failed_save_leaves_the_old_file_and_no_other(path, monkeypatch):
    serialization.save(path, TENSORS)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        serialization.save(path, {"a": np.zeros(3)})
    assert_same(serialization.load(path)[0], TENSORS)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="no symbolic links and modes as here")
def test_links_stay_links_and_modes_follow_the_umask(path, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    path.symlink_to(target / path.name)
    serialization.save(path, TENSORS)
    assert path.is_symlink()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((target / path.name).stat().st_mode) == 0o666 & ~umask


def test_damaged_files_are_value_errors_that_name_the_path(path):
    serialization.save(path, TENSORS, METADATA)
    whole = path.read_bytes()
    rng = random.Random(0)
    messages = []
    for trial in range(400):
        broken = bytearray(whole[: rng.randrange(len(whole))] if trial % 4 == 0 else whole)
        for _ in range(trial % 4):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            serialization.load(path)
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert all(str(path) in message for message in messages)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("name", ["model.npz", "model.safetensors"])
def test_code_is_never_executed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").with_name(name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=name):
        serialization.load(name)
    np.savez("objects.npz", a=np.array([Bomb()], object))
    with pytest.raises(ValueError, match=r"objects\.npz"):
        serialization.load("objects.npz")
    assert not os.path.exists("exploded")


def test_a_header_beyond_the_file_is_damage(tmp_path):
    path = tmp_path / "huge.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.npy", "w") as entry:
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f8", "fortran_order": False, "shape": (1 << 58,)})
    with pytest.raises(ValueError, match=r"huge\.npz"):
        serialization.load(path)


@pytest.mark.parametrize(
    ("path", "tensors", "metadata", "error", "message"),
    [
        ("model.pt", {}, None, ValueError, r"path: .*\.npz or \.safetensors, got .*model\.pt"),
        ("model.npz", {"a": [1]}, None, TypeError, r"tensors\['a'\]: expected a NumPy array, got list"),
        ("model.npz", {"a": np.array([None])}, None, TypeError, r"tensors\['a'\]: .* got object"),
        ("model.npz", {"a": np.array(["text"])}, None, TypeError, r"tensors\['a'\]: .* got <U4"),
        ("model.npz", {1: np.zeros(1)}, None, TypeError, "tensors: expected str, got int"),
        ("model.npz", {"__metadata__": np.zeros(1)}, None, ValueError, "tensors: .*'__metadata__'"),
        ("model.npz", {"a\0b": np.zeros(1)}, None, ValueError, "tensors: .*null"),
        ("model.npz", [], None, TypeError, "tensors: expected names and arrays, got list"),
        ("model.npz", {}, ["epochs"], TypeError, "metadata: expected names and arrays, got list"),
        ("model.npz", {}, {"epochs": 3}, TypeError, r"metadata\['epochs'\]: expected str, got int"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_writing(tmp_path, path, tensors, metadata, error, message):
    with pytest.raises(error, match=message):
        serialization.save(tmp_path / path, tensors, metadata)
    assert os.listdir(tmp_path) == []


def test_what_safetensors_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="can hold"):
        serialization.save(tmp_path / "model.safetensors", {"a": np.zeros(2, np.complex128)})
    assert os.listdir(tmp_path) == []


DTYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")


def test_safetensors_is_that_of_the_safetensors_package(tmp_path):
    theirs = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    rng = np.random.default_rng(0)
    tensors = {f"{dtype} é": (rng.standard_normal((3, 2)) * 3 + 5).astype(dtype) for dtype in DTYPES}
    tensors |= {"none": np.zeros((0, 4)), "one": np.array(3.0)}
    ours, path = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    serialization.save(ours, tensors, METADATA)
    assert_same(theirs.load(ours.read_bytes()), tensors)
    assert theirs.load_file(ours)["one"].shape == ()
    theirs.save_file(tensors, path, METADATA)
    found, words = serialization.load(path)
    assert_same(found, tensors)
    assert words == METADATA


def test_a_word_for_the_digest_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"metadata: expected keys other than 'fastrnn.sha256'"):
        serialization.save(tmp_path / "m.npz", {}, {"fastrnn.sha256": "0"})


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        serialization.load(tmp_path / "none.npz")


def with_header(path, header, data):
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, np.inf, 2.0**-130], np.float32)
    upper = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = tmp_path / "half.safetensors"
    with_header(path, b'{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}', upper)
    assert_same(serialization.load(path)[0], {"a": values.reshape(2, 2)})


def test_dtypes_that_numpy_does_not_have(tmp_path):
    path = tmp_path / "quarter.safetensors"
    with_header(path, b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}', b"\0\0")
    with pytest.raises(ValueError, match=r"quarter\.safetensors: not a .* got 'F8_E4M3', which NumPy lacks"):
        serialization.load(path)
