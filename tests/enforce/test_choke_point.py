"""The choke point is held by types: who may make, and who must take, cleared bytes (ADR 0004)."""

import ast
from pathlib import Path

import pytest

from firewall.core.permit import Cleared, Permit, take_mint
from firewall.core.points import INFO, Point

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")


def sources():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def users_of(name: str) -> set[str]:
    found = set()
    for path, tree in sources():
        for node in ast.walk(tree):
            if (isinstance(node, ast.Name) and node.id == name) or (
                isinstance(node, ast.Attribute) and node.attr == name
            ):
                found.add(path)
            elif isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
                found.add(path)
    return found


def test_a_permit_or_cleared_cannot_be_made_without_the_mint():
    with pytest.raises(TypeError):
        Permit(object(), None, None, b"", None, "", ())
    with pytest.raises(TypeError):
        Cleared(object(), None, b"", (), "", "")


def test_the_mint_is_taken_already():
    import firewall.enforce.guard  # noqa: F401

    with pytest.raises(RuntimeError):
        take_mint()


def test_only_the_guard_names_the_mint_and_only_the_stream_guard_relays():
    assert users_of("take_mint") == {"firewall/enforce/guard.py"}
    assert users_of("_SEAL") == {"firewall/core/permit.py"}
    assert users_of("_MINT") == {"firewall/enforce/guard.py"}
    assert users_of("_clear_piece") == {"firewall/enforce/stream_guard.py"}


def test_no_gateway_writes_to_the_wire_but_through_the_writers():
    """`http.response.body` is written in net, identity and admin; a gateway holding it would be a second way out."""
    for path, tree in sources():
        if path.startswith(("mcp_gateway", "a2a_gateway", "llm_router")):
            texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert "http.response.body" not in texts, path
            assert "http.response.start" not in texts, path


def test_every_point_is_used_by_a_gateway():
    used = set()
    for path, tree in sources():
        if path.startswith(("mcp_gateway", "a2a_gateway", "llm_router", "firewall/app", "firewall/enforce/egress")):
            used |= {
                n.attr
                for n in ast.walk(tree)
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "Point"
            }
    assert {p.name for p in Point} - used == set()


def test_every_point_has_its_facts():
    assert set(INFO) == set(Point)
