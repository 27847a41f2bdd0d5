"""docs/audit.md names every event of the front door and of the console that the code records, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.door import CIMD_URL, Browser, authorize_query, callback_of, make_door, redeem

EVENT = re.compile(r"(?:identity|admin)(?:\.[a-z_]+)+")


@pytest.fixture
def document(root: Path) -> str:
    return (root / "docs/audit.md").read_text()


def recorded(root: Path) -> Iterator[str]:
    """Yield each event's name: what is given to a ``record`` or ``_note``, or stands as ``event`` in a record."""
    for path in sorted((root / "firewall").rglob("*.py")):
        for found in ast.walk(ast.parse(path.read_text())):
            if isinstance(found, ast.Call):
                name = found.func.attr if isinstance(found.func, ast.Attribute) else getattr(found.func, "id", "")
                if name.strip("_") in ("record", "recorded", "note", "noted", "told") and found.args:
                    yield from texts(found.args[0])
            elif isinstance(found, ast.Dict):
                for key, value in zip(found.keys, found.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "event":
                        yield from texts(value)
            elif isinstance(found, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == "event" for t in found.targets
            ):
                yield from texts(found.value)
            elif isinstance(found, ast.Assign):
                for target in found.targets:
                    names = [getattr(t, "id", "") for t in target.elts] if isinstance(target, ast.Tuple) else []
                    if "event" in names and isinstance(found.value, ast.Tuple):
                        yield from texts(found.value.elts[names.index("event")])


def texts(node: ast.AST) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and EVENT.fullmatch(one.value):
            yield one.value


def test_every_event_that_is_recorded_is_documented_with_its_fields(root: Path, document: str) -> None:
    table = document[document.index("| Event |") :]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    named = {event for first, _ in rows for event in re.findall(r"`([a-z_.]+)`", first)}
    known = set(recorded(root))
    assert len(known) > 40
    assert known - named == set(), "the code records it, docs/audit.md does not say so"
    assert named - known == set(), "docs/audit.md names it, nothing records it"


async def test_every_field_that_real_flows_record_stands_in_the_document(document: str) -> None:
    door = make_door(device_grant=True)
    await door.user()
    async with door.http() as http:
        browser = Browser(http)
        page = await browser.open(authorize_query())
        await browser.sign_in(page, password="wrong")
        door.clock.advance(5)
        sent = callback_of(await browser.approve(await browser.sign_in(page)))
        await redeem(http, sent["code"])
        await redeem(http, sent["code"])
        await browser.open(authorize_query(client_id="https://nobody.example/client.json"))
        await browser.open(authorize_query(scope="nothing:ever"))
        await http.post("/par", data={"client_id": "nobody"})
        await http.post("/device_authorization", data={"client_id": CIMD_URL, "resource": "x"})
    fields = {(event, name) for event, facts in door.events for name in facts}
    assert len({event for event, _ in fields}) >= 10
    assert [f"{event}: {name}" for event, name in sorted(fields) if f"`{name}`" not in document] == []
