"""`bartizan pins` with every kind: what changed, approving a whole upstream, the lock file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from firewall.cli import main as command
from firewall.config import load
from firewall.config.rooms import pin_rules
from firewall.core.errors import ConfigFault
from firewall.core.jsonvalue import JSON
from firewall.enforce.lock import Lock, Locked, read
from firewall.enforce.pins import Kind, PinRules
from firewall.guarded import GuardedSettings, build
from firewall.nucleus import Paths
from firewall.wire import canonical
from tests.admin.rig import TENANT
from tests.cli.test_commands import Node, node
from tests.support.mcp import spec
from tests.support.patterns import PATTERNS

__all__ = ["node"]


def observe(
    node: Node, kind: Kind, name: str, value: JSON, *, trust: bool = False, reasons: tuple[str, ...] = ()
) -> str:
    node.room.parts.definitions.note(value)
    digest = canonical.digest(value)
    node.room.parts.pins.observe(TENANT, "time", kind, name, digest, trust=trust, reasons=reasons)
    return digest


def rules(node: Node, given: PinRules) -> None:
    node.room.parts.pins._rules = given


@pytest.fixture
def met(node: Node) -> Node:
    observe(node, "tool", "now", {"name": "now", "title": "Now"}, trust=True)
    observe(node, "prompt", "plan", {"name": "plan", "description": "Plans a day."}, trust=True)
    observe(node, "resource", "time://zones", {"name": "zones", "uri": "time://zones"}, trust=True)
    observe(node, "template", "time://{zone}", {"name": "zone", "uriTemplate": "time://{zone}"}, trust=True)
    observe(
        node, "instructions", "instructions", {"instructions": "Be exact.", "serverInfo": {"name": "t"}}, trust=True
    )
    observe(node, "set", "tool", {"now": "sha256:" + "1" * 64}, trust=True)
    return node


def test_every_kind_is_listed_by_a_name_that_people_say(met: Node) -> None:
    code, out, _ = met.run("pins", "status")
    assert code == 0
    for label in ("tool now", "prompt plan", "resource time://zones", "template time://{zone}", "set of tools"):
        assert label in out
    assert "instructions instructions" not in out
    assert [p["kind"] for p in met.json("pins", "status", "--kind", "prompt")["pins"]] == ["prompt"]


@pytest.mark.parametrize(
    ("kind", "name", "value", "path"),
    [
        ("prompt", "plan", {"name": "plan", "description": "Plans a d\u0430y.\u200b"}, "/description"),
        ("resource", "time://zones", {"name": "zones", "uri": "time://zones", "mimeType": "text/html"}, "/mimeType"),
        ("template", "time://{zone}", {"name": "zone", "uriTemplate": "time://{zone}", "title": "x"}, "/title"),
        ("instructions", "instructions", {"instructions": "Send.", "serverInfo": {"name": "t"}}, "/instructions"),
        ("set", "tool", {"now": "sha256:" + "1" * 64, "more": "sha256:" + "2" * 64}, "/more"),
    ],
)
def test_a_change_of_each_kind_is_shown_at_its_place(met: Node, kind: Kind, name: str, value: JSON, path: str) -> None:
    observe(met, kind, name, value)
    code, out, _ = met.run("pins", "diff", "time")
    assert code == 1
    assert f"\n{path}\n" in out
    assert out.isascii()
    assert met.run("pins", "status", "--waiting")[0] == 1


def test_a_name_is_enough_where_one_kind_has_it_and_a_tool_goes_first(met: Node) -> None:
    assert "time: template time://{zone} is approved" in met.run("pins", "diff", "time", "time://{zone}")[1]
    observe(met, "prompt", "now", {"name": "now"})
    assert "time: tool now" in met.run("pins", "diff", "time", "now")[1]
    assert "time: prompt now" in met.run("pins", "diff", "time", "now", "--kind", "prompt")[1]
    observe(met, "resource", "plan", {"name": "plan"})
    code, _, err = met.run("pins", "diff", "time", "plan")
    assert code == 2
    assert "2 pins named plan" in err
    assert met.run("pins", "diff", "time", "nothing")[0] == 2


def test_an_option_may_stand_between_the_upstream_and_the_name(met: Node) -> None:
    assert "time: prompt plan" in met.run("pins", "diff", "time", "--kind", "prompt", "plan")[1]
    assert "time: prompt plan" in met.run("pins", "diff", "--kind", "prompt", "time", "plan")[1]


def test_without_a_name_all_that_waits_is_shown_and_one_that_is_meant_is_asked_for(met: Node) -> None:
    observe(met, "prompt", "plan", {"name": "plan", "description": "Plans a week."})
    observe(met, "tool", "late", {"name": "late"})
    code, out, _ = met.run("pins", "diff", "time")
    assert code == 1
    assert "time: prompt plan is changed" in out
    assert "time: tool late is new" in out
    assert "now" not in out
    shown = orjson.loads(met.run("pins", "diff", "time", "--json")[1])
    assert {p["name"] for p in shown["pins"]} == {"plan", "late"}
    code, _, err = met.run("pins", "approve", "time")
    assert code == 2
    assert "plan --kind prompt" in err
    assert "or --all" in err


def test_what_hides_is_written_out_and_never_reaches_the_terminal(met: Node) -> None:
    observe(met, "prompt", "plan", {"name": "plan", "description": "Plans a d\u0430y.\u202e\x1b[2J"})
    _, out, _ = met.run("pins", "diff", "time")
    assert "+ Plans a d\\u{430}y.\\u{202e}\\u{1b}[2J" in out
    code, out, _ = met.run("pins", "diff", "time", "--json")
    assert code == 1
    assert "\u202e" not in out
    assert "\\u202e" in out


def test_a_whole_upstream_is_approved_but_for_what_its_review_found(met: Node) -> None:
    observe(met, "prompt", "plan", {"name": "plan", "description": "Plans a week."})
    observe(met, "tool", "late", {"name": "late"})
    observe(met, "tool", "evil", {"name": "evil"}, reasons=("review.poison",))
    assert met.run("pins", "approve", "--all", "time")[0] == 2  # nobody to ask
    assert met.run("pins", "approve", "--all", "time", "late")[0] == 2
    code, out, _ = met.run("pins", "approve", "--all", "--yes", "time")
    assert code == 1
    assert "time: tool evil is left: its review found review.poison." in out
    waiting = met.run("pins", "status", "--waiting", "--json")[1]
    assert '"evil"' in waiting
    assert '"late"' not in waiting


@pytest.mark.parametrize(("said", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_a_person_who_approves_a_whole_upstream_sees_all_of_it_first(
    met: Node, monkeypatch: pytest.MonkeyPatch, said: str, code: int
) -> None:
    digest = observe(met, "prompt", "plan", {"name": "plan", "description": "Plans a week."})

    class Terminal:
        def isatty(self) -> bool:
            return True

        def readline(self, *_: Any) -> str:
            return said

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert command.main(["--state-dir", str(met.state), "pins", "approve", "--all", "time"]) == code
    err = met._capture.readouterr().err
    assert "+ Plans a week." in err
    assert "Approve these 1 definitions of time?" in err
    status = met.room.parts.pins.status(TENANT, "time", "prompt", "plan", digest)
    assert status == ("approved" if code == 0 else "changed")


def test_a_changed_definition_that_asks_stands_first(met: Node) -> None:
    rules(met, PinRules({"time": "ask"}))
    observe(met, "template", "time://{zone}", {"name": "zone", "uriTemplate": "time://{zone}", "title": "x"})
    first = met.run("pins", "status")[1].splitlines()[1]
    assert first.startswith("changed, asks")


def test_the_lock_is_written_compared_and_read_back(met: Node, tmp_path: Path) -> None:
    file = tmp_path / "bartizan.lock"
    assert met.run("pins", "export", "--check", "--output", str(file))[0] == 1
    code, out, _ = met.run("pins", "export", "--output", str(file))
    assert code == 0
    assert "6 definitions" in out
    lock = read(file)
    assert lock.entries["time", "tool", "now"].title == "Now"
    assert lock.entries["time", "tool", "now"].approved_by == "first-contact"
    assert lock.entries["time", "set", "tool"].title == "1 definitions"
    assert met.run("pins", "export", "--check", "--output", str(file))[0] == 0
    digest = observe(met, "tool", "now", {"name": "now", "title": "Later"})
    assert met.run("pins", "export", "--check", "--output", str(file))[0] == 0, "what waits is not in a lock"
    met.run("pins", "approve", "time", "now", "--digest", digest)
    code, out, _ = met.run("pins", "export", "--check", "--output", str(file))
    assert (code, out) == (1, "changed: time tool now\n")
    assert met.run("pins", "export", "--output", "-")[1].startswith('{\n  "lock": 1')


def test_an_approval_under_a_lock_says_that_the_lock_comes_first(met: Node) -> None:
    old = canonical.digest({"name": "now", "title": "Now"})
    rules(met, PinRules(lock=Lock({("time", "tool", "now"): Locked(old)})))
    digest = observe(met, "tool", "now", {"name": "now", "title": "Later"})
    code, out, _ = met.run("pins", "approve", "time", "now", "--digest", digest)
    assert code == 0
    assert "time: tool now is changed." in out
    assert "bartizan pins export" in out


def test_the_configuration_finds_its_lock_beside_itself_and_refuses_to_start_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "bartizan.yaml"
    file.write_text("lock: bartizan.lock\nmcp:\n  time: {url: 'https://t.example/mcp', on_change: ask}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bartizan.lock").write_text("not this one")
    with pytest.raises(ConfigFault, match="lock_missing"):
        pin_rules(load(file))
    (tmp_path / "etc" / "bartizan.lock").write_text('{"lock": 1, "upstreams": {}}')
    assert pin_rules(load(file)) == PinRules({"time": "ask"}, Lock())
    file.write_text("mcp:\n  time: {url: 'https://t.example/mcp'}\n")
    assert pin_rules(load(file)) == PinRules({"time": "block"}), "a lock that nobody named is not read"


def test_a_guarded_server_reads_no_lock_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bartizan.lock").write_text('{"lock": 1, "upstreams": {}}')
    (tmp_path / "bartizan.yaml").write_text("lock: bartizan.lock\n")
    monkeypatch.chdir(tmp_path)
    made = spec("demo", url="http://127.0.0.1:1/mcp")
    guarded = build(GuardedSettings(made, Paths(tmp_path / "state", PATTERNS), "ann"), "t" * 32)
    try:
        pins = guarded.core.pins
        assert pins.observe("default", "demo", "tool", "x", "sha256:" + "1" * 64, trust=True) == "approved"
        assert next(pins.list("default")).locked is None
        before = guarded.core.audit.stats()["appended"]
        assert pins.observe("default", "demo", "tool", "x", "sha256:" + "2" * 64) == "changed"
        assert guarded.core.audit.stats()["appended"] == before + 1, "a change that was seen is in the log"
    finally:
        guarded.core.close()
