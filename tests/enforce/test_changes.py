"""Differences of two definitions, place by place."""

from __future__ import annotations

from firewall.core.jsonvalue import JSON
from firewall.enforce.changes import CHANGES, Change, changes

TOOL: JSON = {"name": "now", "description": "Tells the time.", "inputSchema": {"type": "object", "required": ["a"]}}


def test_nothing_differs_in_equal_definitions() -> None:
    assert changes(TOOL, dict(TOOL)) == []  # type: ignore[arg-type]


def test_each_place_is_told_with_its_path() -> None:
    new: JSON = {
        "name": "now",
        "title": "Now",
        "inputSchema": {"type": "object", "required": ["a", "b"], "properties": {"b": {"type": "string"}}},
    }
    assert changes(TOOL, new) == [
        Change("removed", "/description", "Tells the time.", ""),
        Change("added", "/inputSchema/properties", "", '{\n  "b": {\n    "type": "string"\n  }\n}'),
        Change("added", "/inputSchema/required/1", "", "b"),
        Change("added", "/title", "", "Now"),
    ]


def test_hidden_and_deceiving_characters_are_written_out_in_texts_and_names() -> None:
    old: JSON = {"description": "Pays alice.", "n\u200bame": 1}
    new: JSON = {"description": "Pays \u0430lice.\u202e", "n\u200bame": 2}
    assert [(c.path, c.after) for c in changes(old, new)] == [
        ("/description", "Pays \\u{430}lice.\\u{202e}"),
        ("/n\\u{200b}ame", "2"),
    ]


def test_types_count_and_truth_is_no_number() -> None:
    assert [c.path for c in changes({"a": 1, "b": 0}, {"a": True, "b": 0.0})] == ["/a", "/b"]


def test_more_changes_than_a_person_reads_are_said_to_be_more() -> None:
    found = changes({}, {f"m{n}": n for n in range(CHANGES + 5)})
    assert len(found) == CHANGES + 1
    assert found[-1].after == "there are more changes than are shown"
