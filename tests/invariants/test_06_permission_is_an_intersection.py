"""Invariant 6: what may be done is platform ceiling ∧ grant ∧ client; no package opens what another closes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from firewall.decide import bundle
from tests.invariants.conftest import House
from tests.support.composed import ROOT, SERVICE_KEY

pytestmark = pytest.mark.flow


def clients(*scopes: str) -> dict[str, Any]:
    public = dict(SERVICE_KEY.as_dict(private=False))
    one = {"grants": ["client_credentials"], "jwks": {"keys": [public]}}
    return {"clients": {"svc": {**one, "scopes": list(scopes)}, "other": {**one, "scopes": ["*"]}}}


async def test_a_client_gets_no_scope_beyond_its_own_however_it_asks(house: House) -> None:
    async with house(identity=clients("demo:read")) as (wall, upstreams):
        with pytest.raises(AssertionError, match="invalid_scope"):
            await wall.sign_in("/mcp/demo", "demo:write")
        mixed = await wall.sign_in("/mcp/demo", "demo:read", "demo:write", client="other")
        assert (await wall.call("demo", "put", {"text": "x"}, token=mixed)).status == 200
        narrow = await wall.sign_in("/mcp/demo", "demo:read")
        assert (await wall.call("demo", "put", {"text": "x"}, token=narrow)).status == 403
        assert len(upstreams.calls("mcp")) == 1


async def test_a_token_with_every_scope_opens_nothing_that_the_platform_closed(house: House) -> None:
    async with house() as (wall, upstreams):
        token = wall.mint("/mcp/demo", "demo:read", "demo:write", roles=["admin"])
        assert (await wall.call("demo", "put", {"text": "x"}, token=token)).json["result"].get("isError") is None
        wall.worker.registry.suspend("default", "mcp", "demo", by="test")
        assert (await wall.call("demo", "put", {"text": "x"}, token=token)).json["result"]["isError"] is True
        assert len(upstreams.calls("mcp")) == 1


@pytest.mark.parametrize("package", ["identity", "tools"])
def test_one_package_alone_grants_nothing(tmp_path: Path, package: str) -> None:
    """Take all grants of one package away: the other's grants are there, and nothing is permitted."""
    copy = tmp_path / "policies"
    shutil.copytree(ROOT / "policies", copy)
    rules = copy / "firewall" / "rules" / f"{package}.rego"
    closed = re.sub(r'(?m)^(grant contains "[^"]+" if \{)$', r'\1\n\tinput.point == "none"', rules.read_text())
    assert closed != rules.read_text()
    rules.write_text(closed)
    whole, less = bundle.read(ROOT / "policies"), bundle.read(copy)
    assert bundle.failing_cases(whole) == []
    failing = bundle.failing_cases(less)
    assert failing, "the grants of this package do not matter"


async def test_a_chain_is_no_stronger_than_its_weakest_link(house: House) -> None:
    async with house() as (wall, _):
        act: dict[str, Any] = {"sub": "c", "act": {"sub": "b", "act": {"sub": "a"}}}
        long = wall.mint("/mcp/demo", "demo:read", "demo:write", act=act)
        short = wall.mint("/mcp/demo", "demo:read", "demo:write", act={"sub": "a"})
        assert (await wall.call("demo", "put", {"text": "x"}, token=long)).json["result"]["isError"] is True
        assert (await wall.call("demo", "put", {"text": "x"}, token=short)).json["result"].get("isError") is None
