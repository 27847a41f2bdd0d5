"""Validation against pinned schemas: bounded, never fetching, failing closed."""

import pytest

from mcp_gateway.schema import SCHEMA_BYTES, Schema
from tests.conformance.everything_server import SCHEMA_2020_12


@pytest.mark.parametrize(
    ("schema", "value", "verdict"),
    [
        (None, {"a": 1}, "none"),
        ({"type": "object", "required": ["a"]}, {"a": 1}, "ok"),
        ({"type": "object", "required": ["a"]}, {}, "mismatch"),
        ({"type": "object", "additionalProperties": False}, {"extra": 1}, "mismatch"),
        (SCHEMA_2020_12, {"contactMethod": "phone", "phone": "1"}, "ok"),
        (SCHEMA_2020_12, {"contactMethod": "phone", "email": "x"}, "mismatch"),
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 5000 + "b"}, "mismatch"),
        (True, {"a": 1}, "ok"),
        (False, {"a": 1}, "mismatch"),
    ],
)
def test_a_value_fits_or_it_does_not(schema, value, verdict):
    assert Schema(schema).check(value) == verdict


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "https://evil.example/schema.json"},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "#/$defs/missing"},
        {"type": "nonsense"},
        {"pattern": "("},
        {"enum": ["x" * SCHEMA_BYTES]},
        "type: object",
        5,
    ],
)
def test_a_schema_that_cannot_be_used_fits_nothing(schema):
    assert Schema(schema).check({}) == "mismatch"


def test_a_recursive_schema_is_followed_as_deep_as_the_value():
    tree = {"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}
    assert Schema(tree).check({"n": {"n": {"n": {}}}}) == "ok"
    assert Schema(tree).check({"n": {"n": 1}}) == "mismatch"
