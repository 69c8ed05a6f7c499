"""Tests that pickles that would run code are read as data, and nothing in them is called."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import os
import pathlib
import pickle
import pickletools
import zipfile

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import inception_jax as ij
from inception_jax.weights import files, pickles
from inception_jax.weights.stored import DATA
from tests.helpers.networks import WIDTH, skeleton

torch = pytest.importorskip("torch")
import reference_torch

NAME = "inception_v1"


@pytest.fixture(scope="module")
def state():
    """Returns a complete state dict with random tensors."""
    twin = reference_torch.create_model(NAME, num_classes=10, width_multiplier=WIDTH)
    rng = np.random.default_rng(0)
    return {
        name: torch.from_numpy(rng.uniform(0.1, 1, tensor.shape).astype(np.float32))
        for name, tensor in twin.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def fresh():
    return skeleton(NAME, num_classes=10, width_multiplier=WIDTH)


class Calls:
    """An object whose pickle calls a function when Python loads it."""

    def __init__(self, function, *args, state=None):
        self.made = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.made


class Plain:
    pass


class SetsState:
    def __init__(self, state):
        self.state = state

    def __getstate__(self):
        return self.state


def attacks(canary: pathlib.Path):
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    yield "os.system", Calls(os.system, touch)
    yield "eval", Calls(eval, code)
    yield "exec", Calls(exec, code)
    yield "getattr", Calls(getattr, Calls(__import__, "os"), "system")
    yield "open", Calls(open, str(canary), "w")
    yield "path", Calls(pathlib.Path.touch, canary)
    yield "popen", Calls(__import__("subprocess").Popen, ["touch", str(canary)])
    yield "build", Calls(Plain, state={"__class__": Calls(os.system, touch)})
    yield "setstate", SetsState({"x": Calls(os.system, touch)})
    yield "slots", Calls(Plain, state=(None, {"f": Calls(os.system, touch)}))
    yield "in arguments", Calls(collections.OrderedDict, [("x", Calls(os.system, touch))])
    yield "torch.hub", Calls(torch.hub.load, str(canary.parent), "x")
    yield "torch.load", Calls(torch.load, io.BytesIO())
    yield "a file of NumPy's", Calls(np.load, str(canary))
    yield "numpy.fromfile", Calls(np.fromfile, str(canary))
    yield "memmap", Calls(np.memmap, str(canary), "float32", "w+", 0, (3,))
    yield "NumPy's code", Calls(np.testing.__dict__["measure"], code)
    yield "dtype", Calls(np.dtype, code)
    yield "by eval in torch", Calls(torch.utils.collect_env.run, touch)


NAMES = [name for name, _ in attacks(pathlib.Path("x"))]
CONTAINERS = {
    "beside": lambda state, evil: {"state_dict": state, "args": evil},
    "as a key's value, inside": lambda state, evil: {"model": {**state, "x": evil}},
    "alone": lambda state, evil: evil,
    "deep": lambda state, evil: {"model": state, "a": [{"b": ({"c": evil},)}]},
}


@pytest.mark.parametrize("attack", NAMES)
def test_nothing_is_called(attack, state, tmp_path):
    canary = tmp_path / "ran"
    evil = dict(attacks(canary))[attack]
    for where, container in CONTAINERS.items():
        for legacy in (False, True):
            path = tmp_path / "evil.pt"
            torch.save(container(state, evil), path, _use_new_zipfile_serialization=not legacy)
            model = fresh()
            if where == "alone":
                with pytest.raises(ij.WeightsError):
                    ij.load_weights(model, path)
            else:
                ij.load_weights(model, path)
                np.testing.assert_array_equal(model.fc.bias[...], state["fc.bias"])
        path.write_bytes(pickle.dumps({"x": evil}, protocol=2))
        with pytest.raises(ij.WeightsError):
            ij.load_weights(fresh(), path)
    assert not canary.exists()


def op(name: str) -> bytes:
    codes = {opcode.name: opcode.code for opcode in pickletools.opcodes}
    return codes[name].encode("latin1")


def by_hand(canary: pathlib.Path) -> dict[str, bytes]:
    """Returns malicious and malformed pickles that Python's own pickler does not write.

    The keys say what is special about each. The malicious ones would create the file `canary`.
    """
    text = f"V{canary}\n".encode()
    system = b"cos\nsystem\n"
    args = b"(V touch " + str(canary).encode() + b"\nt"
    return {
        "INST": b"(V touch " + str(canary).encode() + b"\nios\nsystem\n.",
        "OBJ": b"(" + system + b"V touch " + str(canary).encode() + b"\no.",
        "NEWOBJ": b"\x80\x02cos\nsystem\n" + args + op("NEWOBJ") + b".",
        "NEWOBJ_EX": b"\x80\x04cos\nsystem\n" + args + b"}" + op("NEWOBJ_EX") + b".",
        "EXT1": b"\x80\x02" + op("EXT1") + b"\x01(tR.",
        "PERSID": op("PERSID") + b"os.system\n.",
        "BINPERSID": text + op("BINPERSID") + b".",
        "a global as a list": system + text + b"a.",
        "a global as a dict": system + text + text + b"s.",
        "BUILD on a global": system + b"}" + text + text + b"sb.",
        "REDUCE of a result": system + args + b"R" + args + b"R.",
        "REDUCE of data": b"ccollections\nOrderedDict\n(tR" + args + b"R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + args + b"R.",
        "the restricted tables": b"ctorch._utils\n_rebuild_tensor_v2\n(I1\nI2\nI3\nI4\ntR.",
        "a memo that is far": b"\x80\x02}" + b"r\xff\xff\xff\xff" + b".",
        "a long that is not there": b"\x80\x04" + op("BINBYTES8") + b"\xff" * 7 + b"\x0f.",
        "a tuple in a tuple": b"}" + b")" + b"\x85" * 100_000 + b"I1\ns.",
        "no stack": b"\x80\x020000.",
        "no end": b"\x80\x02}",
    }


@pytest.mark.parametrize("program", by_hand(pathlib.Path("x")))
def test_programs_by_hand(program, tmp_path):
    canary = tmp_path / "ran"
    content = by_hand(canary)[program]
    path = tmp_path / "x.pkl"
    path.write_bytes(content if content[:1] == b"\x80" else b"\x80\x02" + content)
    with pytest.raises(ij.WeightsError) as error:
        ij.load_weights(fresh(), path)
    assert str(path) in str(error.value)
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", path.read_bytes())
    with pytest.raises(ij.WeightsError):
        ij.load_weights(fresh(), tmp_path / "x.pt")
    assert not canary.exists()


def test_unknown_objects_are_their_names(tmp_path):
    args = argparse.Namespace(lr=0.1, out=pathlib.Path("/data"))
    found = pickles.load(pickle.dumps({"args": args, "best": np.float64(3)}), DATA)
    assert found["args"].name == "argparse.Namespace"
    assert found["args"].attributes()["lr"] == 0.1
    assert found["args"].attributes()["out"].args == ("/", "data")
    assert found["best"].name.endswith("multiarray.scalar")


@hypothesis.given(st.binary(max_size=200), st.integers(0, 400), st.data())
@hypothesis.settings(max_examples=60)
def test_damage_is_an_error_or_data(noise, at, data):
    whole = pickle.dumps(
        {"a": np.arange(6.0).reshape(2, 3), "b": [1, "x", argparse.Namespace(x=2)], 3: (None, 2.5)}
    )
    broken = whole[:at] + noise + whole[at + data.draw(st.integers(0, 20)) :]
    with contextlib.suppress(pickles.PickleError):
        pickles.load(broken, DATA)


TENSORS = {
    "float16": torch.arange(6).reshape(2, 3).half(),
    "bfloat16": torch.arange(6).reshape(2, 3).bfloat16(),
    "float64": torch.rand(2, 3, dtype=torch.float64),
    "int64": torch.arange(6),
    "bool": torch.tensor([True, False]),
    "complex": torch.rand(3, dtype=torch.complex64),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "a part": torch.arange(20.0)[4:11],
    "turned": torch.rand(3, 4).T,
    "every other": torch.rand(10, 3)[::2, 1:],
    "expanded": torch.rand(3, 1).expand(3, 5),
    "parameter": torch.nn.Parameter(torch.rand(2, 2)),
    "channels last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_of_every_kind(legacy, tmp_path):
    """Tensors of every dtype are read as in PyTorch, including two that share a storage."""
    shared = torch.arange(12.0)
    tensors = {**TENSORS, "first": shared[:6], "second": shared[3:].reshape(3, 3)}
    torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    found = files.read(tmp_path / "x.pt").content
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach()
        array = found[name].read()
        assert str(array.dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(np.complex128), expected.to(torch.complex128))


def test_what_is_no_row_of_numbers_is_named(tmp_path):
    tensors = {
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.empty(2, device="meta"),
        "float8": torch.zeros(3).to(torch.float8_e4m3fn),
        "negative": torch.rand(3, dtype=torch.complex64).conj().imag,
    }
    torch.save(tensors, tmp_path / "x.pt")
    found = files.read(tmp_path / "x.pt").content
    for name in tensors:
        with pytest.raises(pickles.PickleError):
            found[name].read()


def test_changed_numbers_are_noticed(state, tmp_path):
    torch.save(state, tmp_path / "x.pt")
    content = bytearray((tmp_path / "x.pt").read_bytes())
    at = content.find(state["fc.weight"].numpy().tobytes())
    content[at + 5] ^= 1
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(ij.WeightsError, match="checksum"):
        ij.load_weights(fresh(), tmp_path / "x.pt")


def test_a_tensor_beyond_its_storage(tmp_path):
    torch.save({"x": torch.arange(6.0)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:8] if name.endswith("data/0") else content)
    with pytest.raises(pickles.PickleError, match="beyond"):
        files.read(tmp_path / "y.pt").content["x"].read()
