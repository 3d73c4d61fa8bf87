import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofmu_jax.data.vision.arrays_in_pickles import read_pickled_dict
from ofmu_jax.errors import InputError
from tests.data.vision.files import cifar_batch, python2

REFUSED = "batch: .*expected a pickled dict|batch: its instructions do not fit together"
INTEGERS = [np.dtype(code) for code in ("u1", "i1", "<u2", ">i2", "<i4", ">u4", "<i8", "<u8")]


def same(found, expected):
    assert found.keys() == {key.decode() if isinstance(key, bytes) else key for key in expected}
    for key, value in expected.items():
        other = found[key.decode() if isinstance(key, bytes) else key]
        if isinstance(value, np.ndarray):
            assert other.dtype == value.dtype
            np.testing.assert_array_equal(other, value)
        else:
            assert other == value and type(other) is type(value)


def test_reads_what_python_2_wrote():
    batch, _, _ = cifar_batch(300)
    content = python2(batch)
    # The writer of the test is right if Python reads it.
    assert pickle.loads(content, encoding="bytes")[b"labels"] == batch[b"labels"]
    same(read_pickled_dict(content, "batch"), batch)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_python_3_writes(protocol):
    batch, _, _ = cifar_batch(300)
    batch |= {"text": "naïve 🙂", "none": None, "yes": True, "no": False, "large": -(1 << 70)}
    same(read_pickled_dict(pickle.dumps(batch, protocol), "batch"), batch)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("order", ["C", "F"])
def test_reads_arrays_of_whole_numbers(protocol, dtype, order):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    same(read_pickled_dict(pickle.dumps({"a": values}, protocol), "batch"), {"a": values})


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_reads_the_module_names_of_both_generations_of_numpy(core, protocol):
    content = pickle.dumps({"a": np.arange(6)}, protocol)
    module = b"numeric" if protocol == 5 else b"multiarray"
    for have in (b"numpy.core." + module, b"numpy._core." + module):
        want = core + b"." + module
        if protocol == 5:  # texts there begin with their length
            have, want = (bytes([len(name)]) + name for name in (have, want))
        content = content.replace(have, want)
    assert core + b"." + module in content
    same(read_pickled_dict(content, "batch"), {"a": np.arange(6)})


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _malicious(path):
    command = f"touch {path}"
    statement = f"open({str(path)!r}, 'w')"
    yield "system", Calls(os.system, command)
    yield "eval", Calls(eval, statement)
    yield "exec", Calls(exec, statement)
    yield "value", {b"data": Calls(eval, statement)}
    yield "list", {b"labels": [Calls(eval, statement)]}
    yield "nested", Calls(getattr, Calls(__import__, "os"), "system")
    yield "called result", Calls(Calls(getattr, Calls(__import__, "os"), "system"), command)
    yield "import", Calls(__import__, "this")
    yield "objects", {b"data": np.array([Calls(eval, statement)], dtype=object)}
    yield "set", {b"data": {1, 2}}
    yield "class", {b"data": Calls}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", [kind for kind, _ in _malicious("")])
def test_nothing_of_a_malicious_pickle_is_run(tmp_path, protocol, kind):
    sentinel = tmp_path / "sentinel"
    value = dict(_malicious(sentinel))[kind]
    if kind == "called result":
        # As pickle cannot write a call of what a call gives: by hand.
        content = (
            b"\x80\x02cbuiltins\ngetattr\ncbuiltins\n__import__\nX\x02\x00\x00\x00os\x85R"
            b"X\x06\x00\x00\x00system\x86R"
            + b"X" + struct.pack("<I", len(f"touch {sentinel}")) + f"touch {sentinel}".encode()
            + b"\x85R."
        )  # fmt: skip
    else:
        content = pickle.dumps(value, protocol)
    with pytest.raises(InputError, match=REFUSED):
        read_pickled_dict(content, "batch")
    assert not sentinel.exists()
    if kind == "called result":  # it would be run
        pickle.loads(content)
        assert sentinel.exists()


def test_the_name_that_is_refused_is_in_the_message():
    with pytest.raises(InputError, match=r"batch: names 'posix\.system'"):
        read_pickled_dict(pickle.dumps(Calls(os.system, "true"), 4), "batch")
    with pytest.raises(InputError, match=r"batch: names '.*\.eval'"):
        read_pickled_dict(pickle.dumps(Calls(eval, "1"), 2), "batch")


TEXT = b"X\x01\x00\x00\x00"
DTYPE = (
    b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
)
EMPTY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def array(shape=b"K\x02\x85", dtype=DTYPE, data=b"U\x02ab", version=b"K\x01"):
    return EMPTY + b"(" + version + shape + dtype + b"\x89" + data + b"tb"


def in_dict(value):
    return b"\x80\x02}" + TEXT + b"a" + value + b"s."


def test_the_array_of_the_next_tests_is_read():
    assert read_pickled_dict(in_dict(array()), "batch")["a"].tolist() == [97, 98]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (array(data=b"U\x03abc"), r"shape \(2,\) of 3 bytes instead of 2"),
        (array(data=b"U\x01a"), r"shape \(2,\) of 1 bytes"),
        (array(shape=b"K\x02K\x02\x86"), r"shape \(2, 2\) of 2 bytes instead of 4"),
        (array(shape=b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86"), "shape"),
        (array(shape=b"K\x00\x85", data=b"U\x00"), "shape"),
        (array(shape=b"J\xff\xff\xff\x7f\x85"), r"shape \(2147483647,\) of 2 bytes"),
        (array(shape=b"(" + b"K\x01" * 9 + b"t", data=b"U\x01a"), "without a shape"),
        (array(shape=b"K\x02"), "without a shape"),
        (array(shape=b"U\x01a\x85"), "shape"),
        (array(data=b"]"), "without bytes"),
        (array(data=b"X\x02\x00\x00\x00ab"), "without bytes"),
        (array(version=b"K\x02"), "fills in"),
        (array(dtype=b"N"), "fills in"),
        (array(dtype=DTYPE.replace(b"u1", b"O8")), "calls dtype"),
        (array(dtype=DTYPE.replace(b"u1", b"f4")), "calls dtype"),
        (array(dtype=DTYPE.replace(b"u1", b"u2")), r"array of u2 in byte order '\|'"),
        (array(dtype=DTYPE.replace(b"U\x01|", b"U\x01<")), "array of u1 in byte order '<'"),
        (array(dtype=DTYPE.replace(b"U\x01|", b"U\x01?")), "byte order"),
        (array() + array()[len(EMPTY) :], "fills in"),
        (EMPTY, "whole array"),
        (EMPTY.replace(b"K\x00", b"K\x01"), "calls _reconstruct"),
        (EMPTY.replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n"), "calls _reconstruct"),
        (DTYPE, "whole array"),
        (b"cnumpy\nndarray\n", "whole array"),
        (b"cnumpy\nndarray\n)R", "calls ndarray"),
        (b"cnumpy\nndarray\n)\x81", "instruction NEWOBJ"),
        (b"cnumpy\nndarray\n}b", "fills in"),
        (b"}}b", "fills in"),
        (b"](" + array() + b"e", "a list of other"),
        (b"]]a", "a list of other"),
        (b"})a", "appends to what is no list"),
        (b"]" + TEXT + b"bNs", "puts into what is no dict"),
        (b"})Ns", "keys are no texts"),
        (b"}K\x01Ns", "keys are no texts"),
        (b"}(" + TEXT + b"bu", "keys are no texts"),
        (b"U\x01a)R", "calls what is no function"),
        (b"c_codecs\nencode\n" + TEXT + b"aX\x03\x00\x00\x00hex\x86R", "calls encode"),
        (b"c_codecs\nencode\nX\x03\x00\x00\x00\xe4\xbd\xa0X\x06\x00\x00\x00latin1\x86R", "Latin-1"),
        (b"(iposix\nsystem\n", "instruction INST"),
        (b"(cposix\nsystem\no", "names 'posix.system'"),
        (b"\x82\x01", "instruction EXT1"),
        (b"Psomething\n", "instruction PERSID"),
        (b"NQ", "instruction BINPERSID"),
        (b"\x8b\xff\xff\xff\x7f", "instruction LONG4"),
        (b"\x8f", "instruction EMPTY_SET"),
        (b"N\x92", "instruction NEWOBJ_EX"),
        (b"\x97", "instruction NEXT_BUFFER"),
        (b"\xff", r"instruction b'\\xff'"),
        (b"c" + b"x" * 300 + b"\nname\n", "a name without an end"),
        (b"c\xff\nname\n", "not UTF-8"),
        (b"NN\x93", "a function without a name"),
        (b"T\xff\xff\xff\x7fabc", "ends after"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc", "ends after"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\xff", "ends after"),
        (b"h\x05", "do not fit together"),
        (b"t", "do not fit together"),
        (b"\x87", "lacks its values"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_whole_numbers_is_refused(value, message):
    with pytest.raises(InputError, match=message) as caught:
        read_pickled_dict(in_dict(value), "batch")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0 bytes"),
        (b".", "values left over, or none"),
        (b"NN.", "values left over"),
        (b"N(N.", "values left over"),
        (b"\x80\x06}.", "pickle protocol 6"),
        (b"\x80\x02].", "a pickled list; expected a dict"),
        (b"\x80\x02" + array() + b".", "a pickled Array; expected a dict"),
        (b"}", "ends after 1 bytes"),
        (b"]q\x00h\x00a.", "a list of other"),
    ],
)
def test_what_is_no_dict_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        read_pickled_dict(content, "batch")


def shared_tuples(depth):
    """A key of tuples each of which has the one before twice."""
    steps = b"".join(b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(depth))
    return b"\x80\x02}K\x01q\x00" + steps + b"Ns."


def test_a_key_that_takes_for_ever_to_hash_is_refused():

    with pytest.raises(InputError, match="keys are no texts"):
        read_pickled_dict(shared_tuples(200), "batch")


BOMBS = {
    "number of a memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "bytes": in_dict(b"B\xff\xff\xff\xff" + b"x" * 1000),
    "length of a frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}.",
    "encoded": b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x08\x00" + b"x" * (1 << 19)
    + b"X\x06\x00\x00\x00latin1\x86q\x02R" + b"h\x00h\x02R" * 10_000 + b".",
    "long shape": in_dict(array(shape=b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 2000 + b"t")),
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_no_more_memory_is_taken_than_the_file_fills(kind):
    tracemalloc.start()
    try:
        read_pickled_dict(BOMBS[kind], "batch")
    except InputError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 * len(BOMBS[kind]) + 200_000


def test_too_many_instructions_are_refused():
    with pytest.raises(InputError, match="more than 1048576 instructions"):
        read_pickled_dict(b"(" * ((1 << 20) + 1), "batch")


def read_or_refuse(content):
    """Any other error fails the test; what is read has plain values alone."""
    try:
        found = read_pickled_dict(content, "batch")
    except InputError as error:
        assert "\n" not in str(error)
        return
    plain = (type(None), bool, int, str, bytes)
    for key, value in found.items():
        assert type(key) is str
        if isinstance(value, np.ndarray):
            assert value.dtype.kind in "iu"
        elif type(value) is list:
            assert all(type(item) in plain for item in value)
        else:
            assert type(value) in plain


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes(content):
    read_or_refuse(content)


SMALL = {b"labels": [3, 1], "b": b"\xff", b"data": np.arange(6, dtype=np.uint8).reshape(2, 3)}
VALID = [python2({k: v for k, v in SMALL.items() if isinstance(k, bytes)})]
VALID += [pickle.dumps(SMALL, protocol) for protocol in (2, 3, 4, 5)]


@settings(max_examples=300)
@given(
    st.sampled_from(VALID),
    st.lists(
        st.tuples(st.integers(0, 400), st.sampled_from("rid"), st.binary(min_size=1, max_size=4)),
        max_size=4,
    ),
)
def test_changed_pickles(content, changes):
    for place, kind, piece in changes:
        place %= len(content) + 1
        end = place if kind == "i" else place + len(piece)
        content = content[:place] + (b"" if kind == "d" else piece) + content[end:]
    read_or_refuse(content)


PIECES = [
    *(bytes([code]) for code in b"()]}tauesbRNQ012oFIL."),
    *(bytes([code]) for code in b"\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94"),
    b"K\x00", b"K\x01", b"M\x01\x02", b"J\xff\xff\xff\xff", b"\x8a\x01\x05", b"U\x01b", b"U\x02u1",
    b"U\x01|", b"X\x06\x00\x00\x00latin1", b"\x8c\x05numpy", b"\x8c\x05dtype", b"q\x00", b"h\x00",
    b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"c_codecs\nencode\n", b"cnumpy._core.numeric\n_frombuffer\n", b"cos\nsystem\n", DTYPE, EMPTY,
    array(),
]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_instructions(pieces):
    read_or_refuse(b"\x80\x02" + b"".join(pieces) + b".")
    read_or_refuse(in_dict(b"".join(pieces)))
