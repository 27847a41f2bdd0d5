"""A whole node of four workers: after an event, a token that each of them has cached is dead within a second."""

import asyncio
import time
from pathlib import Path

import pytest
from joserfc.jwk import ECKey

from firewall.wire import jwt
from tests.invariants.conftest import house_config
from tests.support.composed import Composed, composed, modern
from tests.support.door import public_jwks
from tests.support.ending import in_time, watch
from tests.support.world import world

pytestmark = pytest.mark.flow

ISSUER = "https://idp.acme.example"
SECRET = "the-secret-of-the-stream"
KEY = ECKey.generate_key("P-256", private=True)
AT_ONCE = 40  # connections of their own: the kernel spreads them over the workers


async def status_of(wall: Composed, token: str) -> int:
    body, headers = modern("tools/list")
    return (await wall.post("/mcp/demo", body, token=token, headers=headers)).status


async def statuses(wall: Composed, token: str) -> set[int]:
    return set(await asyncio.gather(*(status_of(wall, token) for _ in range(AT_ONCE))))


async def test_a_cached_token_dies_on_every_worker_within_a_second_of_the_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDP_PUSH", SECRET)
    async with world() as upstreams:
        config = house_config(upstreams, tmp_path / "state")
        config["identity"]["signals"] = {
            "idp": {"issuer": ISSUER, "jwks": public_jwks(KEY), "push_secret": "env:IDP_PUSH"}
        }
        async with composed(config, workers=4) as wall:
            identity = wall.worker.identity
            tenant = wall.worker.config.tenant
            people = []
            for name in ("ada", "bob"):
                user = await identity.users.create(name, "correct horse battery staple", tenant=tenant)
                identity.links.link(tenant, ISSUER, f"00-{name}", user.subject)
                people.append(wall.mint("/mcp/demo", "demo:read", sub=user.subject))
            ada, bob = people
            for _ in range(2):  # every worker has verified and cached both
                assert await statuses(wall, ada) == await statuses(wall, bob) == {200}
            now = int(time.time())
            claims = {
                "iss": ISSUER,
                "aud": wall.url,
                "jti": "one",
                "iat": now,
                "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "00-ada"},
                "events": {
                    "https://schemas.openid.net/secevent/caep/event-type/session-revoked": {"event_timestamp": now}
                },
            }
            event = jwt.sign(claims, KEY, alg="ES256", typ="secevent+jwt", kid="c1").encode()
            headers = {"content-type": "application/secevent+jwt", "authorization": f"Bearer {SECRET}"}

            async def tell() -> None:
                answer = await wall.post("/ssf/events", event, headers=headers)
                assert answer.status == 202, answer.text

            seen = await watch(lambda: status_of(wall, ada), tell)
            assert seen.after == {401}  # whoever sent the event may rely on its answer
            assert in_time([seen.late_s], 1.0, pace_s=seen.pace_s), seen
            assert await statuses(wall, ada) == {401}
            assert await statuses(wall, bob) == {200}  # the twin: the event is what ended it
            (told,) = [r for r in wall.records() if r.get("event") == "identity.signal.received"]
            assert told["effect"] == "end"
