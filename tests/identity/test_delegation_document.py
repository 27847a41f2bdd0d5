"""docs/delegation.md: each exchange on the page is sent as it stands there, in order, and answered as it says."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from joserfc.jwk import ECKey

from firewall import config as configuration
from firewall.config import front_door
from firewall.core.errors import ConfigFault
from firewall.identity.settings import TrustedIssuer
from firewall.wire import jwt
from tests.identity.test_oauth_document import Reader, exchanges
from tests.support.chain import CLIENTS, SECRET, chain_door, confidential, token_of
from tests.support.door import ORIGIN, PASSWORD, TIME, VERIFIER, challenge_of, public_jwks

IDP = "https://idp.acme.example"
IDP_KEY = ECKey.generate_key("P-256", private=True)
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


async def test_every_exchange_of_the_page_is_answered_as_it_says(root: Path) -> None:
    text = (root / "docs" / "delegation.md").read_text(encoding="utf-8")
    issuer = TrustedIssuer(
        IDP, "acme", jwks=public_jwks(IDP_KEY), scopes=("time:*",), create=True, account_scopes=("time:read",)
    )
    others = tuple(client for client in CLIENTS if client.client_id != "desk")
    desk = confidential("desk", grant_types=(GRANT,))
    door = chain_door(trusted_issuers=(issuer,), clients=(*others, desk))
    ada = await door.user(scopes=("*",))
    now_s = door.clock.now_us() // 1_000_000
    claims = {"iss": IDP, "sub": "00u1", "aud": ORIGIN, "client_id": "desk", "jti": "j-1", "iat": now_s}
    claims |= {"exp": now_s + 300, "resource": TIME, "scope": "time:read"}
    known = {
        name: base64.b64encode(f"{name}:{SECRET}".encode()).decode()
        for name in ("planner", "stranger", "conductor", "desk")
    }
    known |= {"challenge": challenge_of(VERIFIER), "verifier": VERIFIER, "password": PASSWORD}
    known["handed_token"] = token_of(door, ada, scope="time:read")
    known["id_jag"] = jwt.sign(claims, IDP_KEY, alg="ES256", typ="oauth-id-jag+jwt", kid="c1")
    done = 0
    async with door.http() as http:
        reader = Reader(http, known, {})
        for one in exchanges(text):
            await reader.send(one)
            done += 1
    assert done == text.count("```http\n") >= 12
    assert jwt.parse_compact(reader.known["persons_run_token"].encode()).claims["run"]
    assert jwt.parse_compact(reader.known["run_token"].encode()).claims["run"]
    assert "run" not in jwt.parse_compact(reader.known["exchanged_token"].encode()).claims


def test_the_settings_of_the_page_are_settings(root: Path) -> None:
    text = (root / "docs" / "delegation.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        made = configuration.build(yaml.safe_load(block))
        resources = front_door.protected_resources(made, (), [(name, "") for name in made.a2a])
        settings = front_door.identity(made, resources)
        assert settings.clients
    assert settings.trusted_issuers[0].issuer == IDP


@pytest.mark.parametrize(
    "wrong",
    [
        {"delegates": ["planner:send"]},
        {"delegates": ["nowhere:read"]},
        {"delegates": ["time:read"], "credential": {"env": "X"}},
        {"delegates": ["time:read"], "auth": {"issuer": "https://as.example"}},
    ],
)
def test_what_cannot_be_given_along_is_no_setting(wrong: dict[str, Any]) -> None:
    card = {"card_url": "https://planner.example/.well-known/agent-card.json"}
    given: dict[str, Any] = {
        "mcp": {"time": {"url": "https://time.example/mcp"}},
        "a2a": {"planner": {**card, **wrong}},
    }
    with pytest.raises(ConfigFault):
        configuration.build(given)
    good = {"delegates": ["time:read"], "credential": {"env": "X", "header": "X-Api-Key", "scheme": ""}}
    assert configuration.build({**given, "a2a": {"planner": {**card, **good}}}).a2a["planner"].delegates == (
        "time:read",
    )
