"""RFC 8785 against the reference implementation on PyPI and the vectors of the RFC."""

import hashlib
import struct

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.wire import canonical, strict_json

LIMIT = 2**53 - 1
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-LIMIT, LIMIT), st.floats(allow_nan=False, allow_infinity=False), TEXT
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


@given(VALUES)
@example({"\ue000": 1, "\U0001f600": 2})  # UTF-16 order is not code point order
@example({"a": True, "n": None, "f": False, "\uffff": 1, "\U00010000": 1})
@example(
    [
        1e21,
        1e20,
        1e-6,
        1e-7,
        123456789012345680000.0,
        5e-324,
        1.7976931348623157e308,
        -0.0,
        0.1,
        100.0,
        333333333.33333329,
    ]
)
def test_bytes_equal_those_of_the_reference_implementation(value: object) -> None:
    assert canonical.encode(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


@given(st.integers(0, 2**64 - 1))
def test_every_double_is_written_as_ecmascript_writes_it(bits: int) -> None:
    number = struct.unpack("<d", struct.pack("<Q", bits))[0]
    if number == number and abs(number) != float("inf"):
        assert canonical.encode([number]) == rfc8785.dumps([number])


def test_all_control_characters_are_escaped_as_the_rfc_says() -> None:
    text = "".join(map(chr, range(0x80)))
    assert canonical.encode(text) == rfc8785.dumps(text)


def test_order_and_spelling_of_the_input_do_not_change_the_digest() -> None:
    one = strict_json.loads(b'{"b":1,"a":[1.0,"\\u00e9"]}')
    two = strict_json.loads('{ "a": [1, "é"], "b": 1 }'.encode())
    assert (
        canonical.digest(one)
        == canonical.digest(two)
        == "sha256:" + hashlib.sha256('{"a":[1,"é"],"b":1}'.encode()).hexdigest()
    )


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (float("nan"), "json_number"),
        ([float("inf")], "json_number"),
        (2**53, "json_number"),
        ("\ud800", "json_surrogate"),
    ],
)
def test_what_has_no_canonical_form_is_refused(value: object, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        canonical.encode(value)  # type: ignore[arg-type]
    assert caught.value.code == code
