"""The wall clock is set back: nothing that was believed for a moment is believed for longer."""

from __future__ import annotations

import pytest

from firewall.core.errors import Unauthenticated
from firewall.identity.rfc6750 import resource_server
from firewall.identity.rfc6750.known import Entry
from tests.identity.test_issuers import NEXT_KEY, Direct, key_set, opaque
from tests.identity.test_resource_server import mint
from tests.support.door import TIME, make_door

BACK_S = -3_600


@pytest.mark.parametrize("bounded", [True, False])
def test_a_cached_token_is_not_believed_longer_than_it_was_to_be(
    bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not bounded:  # the twin: the wall clock alone
        monkeypatch.setattr(
            resource_server,
            "Entry",
            lambda principal, epoch, until_us, _until_ns, verified: Entry(principal, epoch, until_us, 2**62, verified),
        )
    door = make_door()
    token = mint(door, exp=door.clock.now_us() // 1_000_000 + 50)
    principal = door.verified(token)
    headers = {b"authorization": f"Bearer {token}".encode()}
    door.clock.step(BACK_S)
    door.clock.advance(49)
    assert door.verified(token).subject == "u_1"
    door.clock.advance(1)
    if not bounded:
        assert door.verified(token).subject == "u_1"
        return
    # Its life is over; and what says that it was issued in an hour is judged as any such token is.
    with pytest.raises(Unauthenticated) as caught:
        door.verified(token)
    assert caught.value.detail.startswith("jwt_claims")
    assert not door.identity.resource_server.still(headers, TIME, principal)


async def test_an_answer_of_an_issuer_counts_thirty_seconds_by_either_clock() -> None:
    direct = opaque()
    assert (await direct.admit("good")).subject
    direct.door.clock.step(-20)
    direct.door.clock.advance(29)
    assert (await direct.admit("good")).subject
    assert len(direct.provider.forms) == 1
    direct.door.clock.advance(1)
    direct.provider.tokens.clear()
    assert await direct.refused("good") == "jwt_claims inactive"


async def test_rs_06_a_key_that_its_issuer_took_away_is_gone_in_time() -> None:
    direct = Direct()
    assert (await direct.admit(direct.token())).subject
    direct.provider.keys = key_set(("k2", NEXT_KEY))
    direct.door.clock.step(-20)
    direct.door.clock.advance(600)
    assert await direct.refused(direct.token()) == "jwt_key kid"
