"""DPoP where proofs arrive: at the token endpoint and at every resource.

A proof is used once on the whole node: its ``jti`` is remembered per key by the memory that all workers
share, for longer than any proof is acceptable. A full memory refuses; it never forgets early. Its places are shared
out by who sends proofs, a token's subject or a network, and a proof takes one only when all else about it holds.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from firewall.core.errors import Malformed
from firewall.core.ports import Clock, UsedProofs
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.nonces import Nonces
from firewall.identity.rfc9449.proof import Demand, NonceWanted, ProofKeys, check_proof
from firewall.identity.throttle import wide_network_of
from firewall.wire.oauth import OAuthError

TOKEN_PATH = "/token"  # noqa: S105 - a path


class ProofVerifier:
    """Checks proofs against requests. One per worker and place."""

    def __init__(
        self, public_url: str, nonces: Nonces, used: UsedProofs, clock: Clock, *, nonce_required: bool = False
    ) -> None:
        self.nonces = nonces
        self._public_url = public_url
        self._used = used
        self._clock = clock
        self._nonce_required = nonce_required
        self._keys = ProofKeys()

    def verify(
        self,
        data: bytes,
        *,
        method: str,
        path: str,
        token: bytes = b"",
        bound: str = "",
        owner: str = "",
        seen: bool = False,
    ) -> str:
        """Return the thumbprint of the key that made a proof for this request.

        path: of the request; with the public origin it is the ``htu``. token: what ``ath`` must hash. bound: the
        thumbprint that it must show, "" for any. owner: who answers for the place that the proof takes.
        seen: another worker of the node took the proof already and handed the request over.
        Raises Malformed (codes of `check_proof`, dpop_replayed), NonceWanted, StateUnavailable.
        """
        now_s = self._clock.now_us() // SECOND_US
        demand = Demand(
            method, self._public_url + path, token, now_s, self.nonces.is_good, nonce_required=self._nonce_required
        )
        proof = check_proof(data, demand, self._keys)
        if bound and not hmac.compare_digest(proof.thumbprint.encode(), bound.encode()):
            raise Malformed("dpop_key")
        if not seen:
            said = f"{proof.thumbprint}\0{proof.token_id}".encode()
            # Keyed: whoever could choose where proofs stand in the table could make everybody's look-ups long.
            key = hashlib.blake2b(said, digest_size=16, key=self.nonces.salt).digest()
            if not self._used.first(key, now_s, owner=owner):
                raise Malformed("dpop_replayed")
        return proof.thumbprint


class TokenRequestProofs:
    """The proof of a token request: optional, unless the client registered to be bound (RFC 9449 §5).

    Implements `engine.parts.Proofs`.
    """

    def __init__(self, verifier: ProofVerifier) -> None:
        self._verifier = verifier

    @property
    def nonce(self) -> str:
        """The nonce to tell with ``use_dpop_nonce``."""
        return self._verifier.nonces.issue()

    def thumbprint(
        self, headers: Mapping[bytes, bytes], *, path: str = TOKEN_PATH, required: bool = False, address: str = ""
    ) -> str:
        """Return the thumbprint of the request's proof, "" without one.

        headers: lower-case names, single values. required: ``dpop_bound_access_tokens`` of the client. address: of
        whoever sends it. Raises OAuthError: invalid_dpop_proof, use_dpop_nonce (RFC 9449 §5, §8); StateUnavailable.
        """
        data = headers.get(b"dpop")
        if data is None:
            if required:
                raise OAuthError("invalid_dpop_proof", "dpop_missing")
            return ""
        try:
            return self._verifier.verify(data, method="POST", path=path, owner=f"\0{wide_network_of(address)}")
        except NonceWanted as error:
            raise OAuthError("use_dpop_nonce", error.code) from None
        except Malformed as error:
            raise OAuthError("invalid_dpop_proof", error.code) from None
