"""Header values, parameter headers and x-mcp-header annotations, compared with the official codec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared import inbound as sdk

from firewall.core.errors import Malformed
from mcp_gateway import headers as h
from mcp_gateway.incoming import split
from mcp_gateway.message import Rejected, parse

REGION = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


@given(st.text())
def test_the_codec_round_trips_every_text_and_equals_the_official_one(text: str):
    raw = h.encode(text)
    assert raw == sdk.encode_header_value(text).encode()
    assert h.decode(raw) == text


@given(st.binary(max_size=60))
def test_decoding_never_raises(raw: bytes):
    assert h.decode(raw) is None or isinstance(h.decode(raw), str)


@pytest.mark.parametrize(
    "raw", [b"=?base64?ZWNobw?=", b"=?base64?ZW Nobw==?=", b"=?base64?ZWNobx==?=", b"=?base64?/w==?=", b"\xc3\xa9"]
)
def test_a_value_with_a_second_spelling_is_refused(raw: bytes):
    assert h.decode(raw) is None


def test_a_short_sentinel_is_plain_text():
    assert h.decode(b"=?base64?=") == "=?base64?="


def test_any_repeated_mcp_header_is_a_mismatch():
    twice = [(b"mcp-param-region", b"a"), (b"accept", b"*/*"), (b"mcp-param-region", b"a")]
    assert split(twice)[1] is None
    with pytest.raises(Rejected, match="header_mismatch"):
        parse({"jsonrpc": "2.0", "id": 1, "method": "ping"}, split(twice)[1])


def test_mcp_headers_stand_apart_from_all_others_and_values_are_trimmed():
    plain, routing = split([(b"authorization", b"Bearer x"), (b"mcp-name", b" echo\t"), (b"accept", b" a")])
    assert plain == {b"authorization": b"Bearer x", b"accept": b"a"}
    assert routing == {b"mcp-name": b"echo"}


def test_a_repeated_list_is_joined_and_a_repeated_credential_is_refused():
    plain, routing = split([(b"accept", b"a"), (b"mcp-name", b"echo"), (b"accept", b"b")])
    assert plain == {b"accept": b"a, b"}
    assert routing == {b"mcp-name": b"echo"}
    with pytest.raises(Malformed, match="http_desync"):
        split([(b"authorization", b"Bearer x"), (b"authorization", b"Bearer y")])


@pytest.mark.parametrize(
    ("raw", "text"),
    [(b"echo", "echo"), (b"=?base64?ZWNobw==?=", "echo"), (b"=?base64?w6k=?=", "é"), (b"=?base64?=", "=?base64?=")],
)
def test_a_header_says_a_text_in_its_one_spelling(raw, text):
    assert h.says(raw, text)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xc3\xa9", "é"),
        (b"=?base64?ZWNobw==?=", "=?base64?ZWNobw==?="),
        (b"=?base64?ZWNobx==?=", "echo"),
        (b"Echo", "echo"),
        (b"", "echo"),
    ],
)
def test_a_header_in_another_spelling_says_something_else(raw, text):
    assert not h.says(raw, text)


@pytest.mark.parametrize(
    ("schema", "good"),
    [
        (REGION, True),
        (
            {
                "properties": {
                    "a": {"type": "integer", "x-mcp-header": "A"},
                    "b": {"type": "boolean", "x-mcp-header": "B"},
                }
            },
            True,
        ),
        ({"properties": {"o": {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "R"}}}}}, True),
        ({"properties": {"a": {"type": "number", "x-mcp-header": "A"}}}, False),
        ({"properties": {"a": {"type": ["string", "null"], "x-mcp-header": "A"}}}, False),
        ({"properties": {"a": {"type": "string", "x-mcp-header": "A b"}}}, False),
        ({"properties": {"a": {"type": "string", "x-mcp-header": ""}}}, False),
        ({"properties": {"a": {"type": "string", "x-mcp-header": 3}}}, False),
        (
            {
                "properties": {
                    "a": {"type": "string", "x-mcp-header": "X"},
                    "b": {"type": "string", "x-mcp-header": "x"},
                }
            },
            False,
        ),
        ({"x-mcp-header": "Root", "type": "string"}, False),
        ({"properties": {"l": {"type": "array", "items": {"type": "string", "x-mcp-header": "L"}}}}, False),
        ({"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]}, False),
        ({"properties": {"a": {"enum": [{"x-mcp-header": "data, not a schema"}]}}}, True),
    ],
)
def test_an_annotation_is_valid_exactly_where_the_official_rules_say_so(schema, good: bool):
    assert (sdk.find_invalid_x_mcp_header(schema) is None) is good
    if good:
        h.param_map(schema)
    else:
        with pytest.raises(Malformed, match="x_mcp_header"):
            h.param_map(schema)


INTEGER = {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}}
BOOLEAN = {"properties": {"b": {"type": "boolean", "x-mcp-header": "B"}}}


@pytest.mark.parametrize(
    ("schema", "arguments", "headers", "good"),
    [
        (REGION, {"region": "eu"}, {b"mcp-param-region": b"eu"}, True),
        (REGION, {"region": "eu"}, {b"mcp-param-region": b"us"}, False),
        (REGION, {"region": "eu"}, {}, False),
        (REGION, {}, {b"mcp-param-region": b"eu"}, False),
        (REGION, {"region": None}, {}, True),
        (REGION, {"region": "é"}, {b"mcp-param-region": h.encode("é")}, True),
        (REGION, {"region": "eu"}, {b"mcp-param-region": b"eu", b"mcp-param-other": b"x"}, True),
        (REGION, {"region": ["eu"]}, {b"mcp-param-region": b"eu"}, False),
        (INTEGER, {"n": 42}, {b"mcp-param-n": b"42.0"}, True),
        (INTEGER, {"n": 42}, {b"mcp-param-n": b"42.5"}, False),
        (INTEGER, {"n": -3}, {b"mcp-param-n": b"-3"}, True),
        (BOOLEAN, {"b": True}, {b"mcp-param-b": b"true"}, True),
        (BOOLEAN, {"b": True}, {b"mcp-param-b": b"True"}, False),
    ],
)
def test_a_parameter_header_equals_its_argument_or_is_refused(schema, arguments, headers, good: bool):
    shown = {k.decode(): v.decode() for k, v in headers.items()}
    assert (sdk.validate_mcp_param_headers(schema, arguments, shown) is None) is good
    if good:
        h.check_params(h.param_map(schema), arguments, headers)
    else:
        with pytest.raises(Malformed, match="header_mismatch"):
            h.check_params(h.param_map(schema), arguments, headers)


def test_parameter_headers_are_made_anew_from_the_arguments():
    made = h.param_headers(h.param_map(REGION), {"region": "é", "other": "x"})
    assert made == ((b"mcp-param-region", h.encode("é")),)
