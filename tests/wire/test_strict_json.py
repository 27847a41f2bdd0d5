"""Strict JSON against a slow parser that is obviously right, and against what peers disagree about."""

import json
import math

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firewall.core.errors import FAULTS, Malformed
from firewall.wire import strict_json

LIMIT = 2**53 - 1


class Refused(Exception):
    pass


def slow(data: bytes, max_depth: int = 64) -> object:
    """The rules again, in the plainest way: the standard parser with a hook for every rule."""
    text = data.decode("utf-8")
    if text.startswith("\ufeff"):
        raise Refused("bom")

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        made = dict(items)
        if len(made) != len(items):
            raise Refused("duplicate")
        return made

    def integer(digits: str) -> int:
        if len(digits) > 20 or abs(int(digits)) > LIMIT:
            raise Refused("number")
        return int(digits)

    def fraction(digits: str) -> float:
        if not math.isfinite(float(digits)):
            raise Refused("number")
        return float(digits)

    def constant(name: str) -> object:
        raise Refused(name)

    value = json.loads(text, object_pairs_hook=pairs, parse_int=integer, parse_float=fraction, parse_constant=constant)
    json.dumps(value, ensure_ascii=False).encode("utf-8")  # raises for a lone surrogate

    def depth(item: object) -> int:
        if isinstance(item, dict):
            return 1 + max((depth(v) for v in item.values()), default=0)
        return 1 + max((depth(v) for v in item), default=0) if isinstance(item, list) else 0

    if depth(value) > max_depth:
        raise Refused("depth")
    return value


# Whole units that people and attackers write, glued with noise: random text alone would never parse.
KEYS = st.sampled_from(
    ['"a"', '"b"', '"\\u0061"', '"a:b"', '":"', '"\\""', '"\\\\"', '"\\\\\\""', '"é"', '"\\u00e9"', '"{"', '""']
)
SCALARS = st.one_of(
    KEYS,
    st.sampled_from(
        [
            "true",
            "false",
            "null",
            "0",
            "-0",
            "1.0",
            "1e2",
            "1E+400",
            "1e-999",
            "NaN",
            "Infinity",
            "-1",
            "01",
            ".5",
            '"\\ud800"',
            '"\\ud83d\\ude00"',
            '"\\udc00"',
        ]
    ),
    st.sampled_from(
        [
            str(n)
            for n in (LIMIT, LIMIT + 1, -LIMIT, -LIMIT - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30)
        ]
    ),
    st.sampled_from(
        ["0.1234567890123456789012345", "12345678901234567890.5", "9007199254740993.0", "1234567890123456789e0"]
    ),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.text(max_size=6).map(lambda t: json.dumps(t)),
    st.text(max_size=6).map(lambda t: json.dumps(t, ensure_ascii=False)),
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\t", "\r\n ", "\v"])


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    member = st.tuples(KEYS, SPACE, SPACE, inner).map(lambda t: f"{t[0]}{t[1]}:{t[2]}{t[3]}")
    return st.one_of(
        st.tuples(st.lists(member, max_size=4), SPACE).map(lambda t: "{" + f",{t[1]}".join(t[0]) + "}"),
        st.tuples(st.lists(inner, max_size=4), SPACE).map(lambda t: "[" + f"{t[1]},".join(t[0]) + "]"),
    )


DOCUMENTS = st.recursive(SCALARS, containers, max_leaves=12)


@given(DOCUMENTS.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'{"a":1,"a":1}')
@example(b'{"a":{"b":"\\":"},"a":1}')
@example(b'{"k":":","\\\\":1,"\\\\":2}')
@example(b'{"a":-9223372036854775809}')
@example(b'{"a":123456789012345678901,"b":1.0e0}')
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":1}{"a":1}')
def test_the_same_texts_are_accepted_with_the_same_values_as_by_the_slow_parser(data: bytes) -> None:
    try:
        expected = slow(data)
    except (Refused, ValueError, RecursionError):
        with pytest.raises(Malformed) as caught:
            strict_json.loads(data)
        assert caught.value.code in FAULTS
        return
    got = strict_json.loads(data)
    assert got == expected
    assert json.dumps(got) == json.dumps(expected)  # tells 1 from 1.0 and -0.0 from 0.0


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_a_listed_code(data: bytes) -> None:
    code = "json_invalid"
    try:
        strict_json.loads(data)
    except Malformed as error:
        code = error.code
    assert code in FAULTS


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "json_invalid"),
        (b"{", "json_invalid"),
        (b"[1,]", "json_invalid"),
        (b"{'a':1}", "json_invalid"),
        (b"[] []", "json_invalid"),
        (b"NaN", "json_invalid"),
        (b"-Infinity", "json_invalid"),
        (b"/**/1", "json_invalid"),
        (b"\xef\xbb\xbf1", "json_invalid"),
        ('"a"'.encode("utf-16"), "json_not_utf8"),
        (b'"\xff"', "json_not_utf8"),
        (b'"\xed\xa0\x80"', "json_not_utf8"),
        (b'"\xc0\x80"', "json_not_utf8"),
        (b'{"a":1,"a":2}', "json_duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "json_duplicate_key"),
        (b'[{"x":{"a":1, "b":2, "a":1}}]', "json_duplicate_key"),
        (b'{"a":1,"a":12345678901234567890123}', "json_duplicate_key"),
        (b'"\\ud800"', "json_surrogate"),
        (b'{"\\udfff":1}', "json_surrogate"),
        (b'"\\ud800\\ud800"', "json_surrogate"),
        (b"9007199254740992", "json_number"),
        (b"-9007199254740992", "json_number"),
        (b"[1, 123456789012345678901234567890]", "json_number"),
        (b"1e999", "json_number"),
        (b"[" * 65 + b"]" * 65, "json_too_deep"),
        (b"[" * 300 + b"]" * 300, "json_too_deep"),
        (b"[" * 100_000 + b"]" * 100_000, "json_too_deep"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "json_too_deep"),
    ],
)
def test_each_rule_has_its_code(data: bytes, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        strict_json.loads(data)
    assert caught.value.code == code


def test_the_bounds_are_inclusive() -> None:
    assert strict_json.loads(b"9007199254740991") == LIMIT
    assert strict_json.loads(b"-9007199254740991") == -LIMIT
    strict_json.loads(b"[" * 63 + b"]" * 63)
    strict_json.loads(b"[" * 64 + b"]" * 64)
    assert strict_json.loads(b'"[[[["', max_depth=0) == "[[[["


def test_brackets_side_by_side_or_in_strings_are_not_depth() -> None:
    wide = b"[" + b"[]," * 200 + b"{}]"
    assert len(strict_json.loads(wide)) == 201  # type: ignore[arg-type]
    strict_json.loads(b'{"a":"' + b"[{" * 200 + b'"}')


def test_without_the_member_count_a_duplicate_passes() -> None:
    """Twin: the bare parser keeps the last value, so the check is what refuses."""
    assert orjson.loads(b'{"name":"safe","name":"evil"}') == {"name": "evil"}


@given(DOCUMENTS)
def test_what_is_written_is_read_back_as_it_was(text: str) -> None:
    try:
        value = strict_json.loads(text.encode("utf-8", "surrogatepass"))
    except Malformed:
        return
    assert json.dumps(strict_json.loads(strict_json.dumps(value))) == json.dumps(value)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (2**53, "json_number"),
        ("\ud800", "json_surrogate"),
        ({1: 1}, "json_invalid"),
        (object(), "json_invalid"),
        (b"x", "json_invalid"),
    ],
)
def test_what_is_no_json_value_is_not_written(value: object, code: str) -> None:
    with pytest.raises(Malformed) as caught:
        strict_json.dumps(value)  # type: ignore[arg-type]
    assert caught.value.code == code
