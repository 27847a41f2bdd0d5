"""The choke point is held by types: who may make, and who must take, cleared bytes (ADR 0004)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from firewall.core.errors import Malformed
from firewall.core.permit import Border, Cleared, Mint, Permit, take_mint
from firewall.core.points import INFO, Point
from tests.support.kit import call, kit, principal

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("firewall", "mcp_gateway", "a2a_gateway", "llm_router")


@cache
def sources() -> dict[str, list[ast.AST]]:
    """Return the nodes of every file, by its path."""
    return {
        path.relative_to(ROOT).as_posix(): list(ast.walk(ast.parse(path.read_text())))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@pytest.fixture(scope="module", autouse=True)
def _forget() -> Iterator[None]:
    """Half a million nodes are not kept beyond this file."""
    yield
    sources.cache_clear()


def users_of(name: str) -> set[str]:
    found = set()
    for path, nodes in sources().items():
        for node in nodes:
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


def test_nobody_makes_a_second_mint_and_one_made_past_its_constructor_is_worth_nothing():
    with pytest.raises(TypeError, match="one mint"):
        Mint(None)
    forged = object.__new__(Mint)
    with pytest.raises(TypeError, match="comes from"):
        Permit(forged, None, None, b"", None, "", (), None)
    with pytest.raises(TypeError, match="comes from"):
        Cleared(forged, None, b"", (), "", "")


def test_the_mint_is_taken_already():
    import firewall.enforce.guard  # noqa: F401

    with pytest.raises(RuntimeError):
        take_mint()


def test_only_the_guard_names_the_mint_and_only_the_stream_guard_relays():
    assert users_of("take_mint") == {"firewall/enforce/guard.py"}
    assert users_of("_ONLY") == {"firewall/core/permit.py"}
    assert users_of("_MINT") == {"firewall/enforce/guard.py"}
    # `core.permit` defines it; the two ends of a stdio link use it.
    assert users_of("Border") == {"mcp_gateway/owner.py", "mcp_gateway/remote.py"}
    assert users_of("_clear_piece") == {"firewall/enforce/stream_guard.py"}


async def test_what_another_worker_cleared_is_admitted_for_its_purpose_and_nothing_else_is():
    k = kit()
    cleared = await k.guard.clear(call({"a": 1}), k.guard.new_exchange(principal(), "mcp"))
    border = Border(b"k" * 32)
    proof = border.seal(cleared, "default/demo")
    told = {"purpose": "default/demo", "decision_id": cleared.decision_id, "record_uid": cleared.record_uid}
    again = Border(b"k" * 32).admit(proof, cleared.payload, cleared.body, **told)
    assert (again.payload, again.decision_id, again.record_uid) == (
        cleared.payload,
        cleared.decision_id,
        cleared.record_uid,
    )
    for key, payload, changes in (
        (b"x" * 32, cleared.payload, {}),
        (b"k" * 32, cleared.payload + b" ", {}),
        (b"k" * 32, cleared.payload, {"purpose": "default/other"}),
        (b"k" * 32, cleared.payload, {"decision_id": "d_other"}),
        (b"k" * 32, cleared.payload, {"record_uid": "r_other"}),
    ):
        with pytest.raises(Malformed):
            Border(key).admit(proof, payload, cleared.body, **{**told, **changes})
    with pytest.raises(TypeError):
        border.seal(b"bytes that nobody cleared", "default/demo")


def test_no_gateway_writes_to_the_wire_but_through_the_writers():
    """`http.response.body` is written in net, identity and admin; a gateway holding it would be a second way out."""
    for path, nodes in sources().items():
        if path.startswith(("mcp_gateway", "a2a_gateway", "llm_router")):
            texts = {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
            assert "http.response.body" not in texts, path
            assert "http.response.start" not in texts, path


def test_every_point_is_used_by_a_gateway():
    used = set()
    for path, nodes in sources().items():
        if path.startswith(
            (
                "mcp_gateway",
                "a2a_gateway",
                "llm_router",
                "firewall/app",
                "firewall/enforce/egress",
                "firewall/enforce/client_gate",
                "firewall/enforce/admin_gate",
            )
        ):
            used |= {
                n.attr
                for n in nodes
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "Point"
            }
    assert {p.name for p in Point} - used == set()


def test_every_point_has_its_facts():
    assert set(INFO) == set(Point)
