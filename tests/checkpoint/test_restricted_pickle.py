"""The reader of .pkl files reads what numpy and Python write, and nothing else."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from panoptic_fusion.checkpoint import restricted_pickle
from panoptic_fusion.checkpoint.restricted_pickle import RefusedError

TYPES = ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", ">f4", ">i8"]


def load(data: bytes):
    return restricted_pickle.load(io.BytesIO(data))


def same(found, expected) -> bool:
    """Equal in type, shape, bytes and memory order, containers in depth."""
    if isinstance(expected, np.ndarray):
        orders = [(x.flags.c_contiguous, x.flags.f_contiguous) for x in (found, expected)]
        return found.dtype == expected.dtype and np.array_equal(found, expected) and orders[0] == orders[1]
    if isinstance(expected, dict):
        items = zip(found.values(), expected.values(), strict=True)
        return isinstance(found, dict) and list(found) == list(expected) and all(same(*pair) for pair in items)
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, np.generic):
        return type(found) is type(expected.item()) and found == expected.item()
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_everything_that_a_file_of_weights_holds(protocol):
    random = np.random.default_rng(protocol)
    arrays = {}
    for shape in [(), (0,), (1,), (7,), (3, 4), (2, 0, 5), (2, 3, 4, 5)]:
        for kind in TYPES:
            for order in "CF":
                values = np.asarray(random.integers(0, 2, shape) * random.integers(0, 100, shape))
                arrays[f"{shape} {kind} {order}"] = np.array(values.astype(kind), order=order)
    arrays["permuted"] = np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(1, 2, 0)
    arrays["strided"] = np.arange(24, dtype="f4").reshape(4, 6)[::2, ::3]
    content = {
        "model": OrderedDict(arrays),
        "__author__": "Detectron2 Model Zoo",
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), 1, -(2**70), 2.5, True, None],
        "texts": ["ä\n", b"\x00\xff", b""],
        "nested": ({"a": [1, (2, 3)]}, {4, 5}, frozenset({6})),
    }
    data = pickle.dumps(content, protocol=protocol)
    found, expected = load(data), pickle.loads(data)
    assert same(found, expected)
    assert all(np.array_equal(found["model"][name], array) for name, array in arrays.items())


def test_attributes_of_a_state_dict_are_dropped():
    state = OrderedDict(weight=np.ones(2, "f4"))
    state._metadata = {"": {"version": 1}}
    assert same(load(pickle.dumps({"model": state})), {"model": dict(state)})


def test_files_of_python_2():
    """R-50.pkl: names and the bytes of arrays are its `str`, written as Latin 1."""
    raw = np.array([-1.5, 3e-8], "<f4").tobytes()  # with bytes above 127
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tb"
    )
    data = b"\x80\x02}(U\x07conv1_w" + array + b"U\x04name" + b"U\x03R\xe4du."
    expected = pickle.loads(data, encoding="latin1")  # this one is known to hold no code
    assert same(load(data), expected) and expected["name"] == "R\xe4d"


OBJECTS = [
    np.array([1, "text", None], object),
    np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]),
    np.array(["a", "bc"]),
    np.array(["2020-01-01"], "M8[D]"),
    np.array([1 + 2j]),
    np.float128(1),
    np.ma.masked_array([1, 2]),
    np.zeros((1, 1)).view(np.matrix),
    np.random.default_rng(0),
    range(3),
    slice(1),
    complex(1, 2),
    bytearray(b"ab"),
    int,
    print,
    OrderedDict,
    pytest,
]


@pytest.mark.parametrize("value", OBJECTS[:-1], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_other_objects_are_refused(value, protocol):
    data = pickle.dumps({"model": value}, protocol=protocol)
    if value is OrderedDict:  # a name alone: it stands for nothing that could be used
        assert not isinstance(load(data)["model"], type)
        return
    with pytest.raises(RefusedError):
        load(data)


NDARRAY, DTYPE = b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"
F4 = DTYPE + b"(S'f4'\nI0\nI1\ntR"
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n" + NDARRAY + b"(I0\ntS'b'\n\x87R"
ATTACKS = {
    # names that are allowed, used in other ways than numpy does
    "attribute of a function": b"c_codecs\nencode\n(N}S'_function'\nc_codecs\nencode\nstb.",
    "state of a function": DTYPE + b"}S'code'\nS'f8'\nsb.",
    "any encoding": b"c_codecs\nencode\n(S'import os'\nS'rot13'\ntR.",
    "dtype of objects": DTYPE + b"(S'O8'\nI0\nI1\ntR.",
    "dtype of a number": DTYPE + b"(I5\ntR.",
    "record dtype by its state": F4 + b"(I3\nS'<'\nN(S'a'\nt}I-1\nI-1\nI63\ntb.",
    "dtype with subtype": F4 + b"(I3\nS'<'\n(I1\nt N N N tb.".replace(b" ", b""),
    "array class called": NDARRAY + b"(I9\ntR.",
    "array of another class": b"cnumpy.core.multiarray\n_reconstruct\n" + DTYPE + b"(I0\ntS'b'\n\x87R.",
    "too few bytes": EMPTY + b"(I1\n(I9\nt" + F4 + b"I00\nS'abcd'\ntb.",
    "negative shape": EMPTY + b"(I1\n(I-1\nt" + F4 + b"I00\nS''\ntb.",
    "list of objects as bytes": EMPTY + b"(I1\n(I1\nt" + F4 + b"I00\n(I1\nltb.",
    "numpy dtype missing": EMPTY + b"(I1\n(I1\ntS'f4'\nI00\nS'abcd'\ntb.",
    "short state": EMPTY + b"(I1\ntb.",
    "scalar of objects": b"cnumpy.core.multiarray\nscalar\n" + DTYPE + b"(S'O'\ntRI1\n\x86R.",
    "bytes of a size": b"cbuiltins\nbytes\n(I9999999\ntR.",
    # opcodes
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"Pname\n.",
    "new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_allowed_names_serve_nothing_else(attack):
    before = {key: value._function for key, value in restricted_pickle.NAMES.items()}
    with pytest.raises(Exception):  # noqa: B017  (of which kind does not matter: the caller takes any)
        load(attack)
    assert {key: value._function for key, value in restricted_pickle.NAMES.items()} == before
    assert same(load(pickle.dumps(np.ones(3, "f4"))), np.ones(3, "f4"))


def test_the_message_shows_no_control_characters():
    with pytest.raises(RefusedError) as error:
        load("cevil\x1b[2J\r\u202e\nname\n.".encode())
    assert str(error.value).isascii() and str(error.value).isprintable()
