"""ID-JAG in both roles at once: our node obtains one and a second node's front door, a real server, accepts it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from firewall.core.errors import UpstreamFault
from firewall.identity.settings import ClientSettings, TrustedIssuer
from firewall.identity.upstream.settings import Secret
from tests.support.door import public_jwks
from tests.support.issuer import JWT_BEARER, issuer
from tests.support.kit import principal
from tests.support.upstreams import NAME, OURS, SECRET, _sha256, make_node, sign_in_to, upstream_server

OUR_CLIENT = ClientSettings(
    "bartizan",
    "Our node",
    auth_method="client_secret_basic",
    grant_types=(JWT_BEARER,),
    secret_sha256=_sha256(SECRET),
    tenant="saas",
)


async def test_a_persons_provider_decides_and_no_browser_is_needed(tmp_path: Path):
    """Its provider stands inside, behind an authority of the organisation's own."""
    async with issuer(tmp_path) as idp:
        trusted = TrustedIssuer(
            idp.origin,
            "saas",
            jwks=public_jwks(idp.key),
            create=True,
            account_scopes=("files:*",),
        )
        async with upstream_server(trusted_issuers=(trusted,), clients=(OUR_CLIENT,)) as upstream:
            node = make_node(
                files=sign_in_to(
                    upstream,
                    ways=("id_jag",),
                    secret=Secret(env="CLIENT_SECRET"),
                    method="",
                    issuer=upstream.origin,
                    scopes=("files:read",),
                    ca_file=idp.ca_file,
                    idp=idp.origin,
                    idp_client_id="at-idp",
                    idp_secret=Secret(env="CLIENT_SECRET"),
                )
            )
            ada = principal(tenant="acme", subject="u_ada", issuer=OURS)
            subjects = node.identity.upstreams.subjects  # type: ignore[union-attr]
            subjects.keep("acme", "u_ada", idp.origin, "id_token", "her.id.token", lives_s=300)
            ((_, value),) = await node.broker.headers_for(ada, NAME)
            seen = upstream.identity.resource_server.authenticate(
                {b"authorization": value}, upstream.url, default_scope="files:read"
            )
            assert seen.client_id == "bartizan"
            assert seen.scopes == {"files:read"}
            account = upstream.identity.links.account("saas", idp.origin, "user-42")
            assert seen.subject == account != ""
            assert upstream.calls("/authorize") == 0
            node.clock.advance(241)  # another one, of the same provider, for the same account there
            ((_, again),) = await node.broker.headers_for(ada, NAME)
            assert again != value
            subjects.drop("acme", "u_ada")
            node.clock.advance(241)
            with pytest.raises(UpstreamFault, match="credentials"):
                await node.broker.headers_for(ada, NAME)
            with pytest.raises(UpstreamFault, match="credentials"):
                await node.broker.headers_for(replace(ada, subject="u_bob"), NAME)
        await node.dialler.close()
