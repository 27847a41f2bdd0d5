"""Our own proofs towards upstreams and their authorization servers: a key per (tenant, upstream).

Keys are derived from one secret of the node, so that every worker and every later start proves with the
same one, and nothing has to be stored or agreed. A proof is made fresh for each request; the nonce that
a server told last is sent to that server again (RFC 9449 §8.2).
"""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jws
from joserfc.jwk import ECKey

from firewall.core.action import Headers
from firewall.core.errors import Malformed
from firewall.core.jsonvalue import JSONObject
from firewall.core.ports import Clock
from firewall.identity.records import SECOND_US
from firewall.identity.rfc9449.proof import PROOF_TYPE
from firewall.identity.settings import TokenBytes
from firewall.wire import strict_json

ALGORITHM: Final = "ES256"
KEYS: Final = 1024
NONCES: Final = 4096
NONCE_CHARS: Final = 512
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_NONCE_SET: Final = frozenset(chr(c) for c in range(0x21, 0x7F)) - {'"', "\\"}


class DPoPSigner:
    """Makes proofs. One per worker.

    Use: ``headers_for`` on each request; hand every answer to ``heard``; when ``wants_retry`` says so, send
    the request once more with new headers.
    """

    def __init__(self, secret: bytes, clock: Clock, token_bytes: TokenBytes) -> None:
        """secret: at least 32 bytes, of this node and for this purpose alone."""
        if len(secret) < 32:
            raise ValueError("the secret has at least 32 bytes")
        self._secret = secret
        self._clock = clock
        self._token_bytes = token_bytes
        self._keys: OrderedDict[tuple[str, str], ECKey] = OrderedDict()
        self._nonces: OrderedDict[tuple[str, str, str], str] = OrderedDict()

    def thumbprint(self, tenant: str, upstream: str) -> str:
        """Return the thumbprint of the key, for ``dpop_jkt`` and for comparing ``cnf.jkt``."""
        return self._key(tenant, upstream).thumbprint()

    def proof(self, tenant: str, upstream: str, *, method: str, url: str, token: str = "") -> str:
        """Return a new proof for one request. url: as requested; its query and fragment are left out.

        token: the access token that goes with it, "" at a token endpoint.
        """
        key = self._key(tenant, upstream)
        claims: JSONObject = {
            "jti": _b64(self._token_bytes(16)),
            "htm": method,
            "htu": url.partition("#")[0].partition("?")[0],
            "iat": self._clock.now_us() // SECOND_US,
        }
        if token:
            claims["ath"] = _b64(hashlib.sha256(token.encode()).digest())
        nonce = self._nonces.get((tenant, upstream, _origin(url)))
        if nonce:
            claims["nonce"] = nonce
        public = key.as_dict(private=False)
        header = {
            "typ": PROOF_TYPE,
            "alg": ALGORITHM,
            "jwk": {name: str(public[name]) for name in ("kty", "crv", "x", "y")},
        }
        return jws.serialize_compact(header, strict_json.dumps(claims), key, algorithms=[ALGORITHM])

    def headers_for(self, tenant: str, upstream: str, *, method: str, url: str, token: str) -> Headers:
        """Return ``Authorization: DPoP`` and the proof for a request to a resource."""
        made = self.proof(tenant, upstream, method=method, url=url, token=token)
        return ((b"authorization", b"DPoP " + token.encode("ascii")), (b"dpop", made.encode("ascii")))

    def heard(self, tenant: str, upstream: str, url: str, headers: Mapping[str, str]) -> bool:
        """Keep the nonce that an answer tells; return whether it is a new one. headers: lower-case names."""
        nonce = headers.get("dpop-nonce", "")
        if not 0 < len(nonce) <= NONCE_CHARS or not _NONCE_SET.issuperset(nonce):
            return False
        place = (tenant, upstream, _origin(url))
        before = self._nonces.get(place)
        self._nonces[place] = nonce
        self._nonces.move_to_end(place)
        if len(self._nonces) > NONCES:
            self._nonces.popitem(last=False)
        return nonce != before

    def wants_retry(
        self, tenant: str, upstream: str, url: str, status: int, headers: Mapping[str, str], body: bytes = b""
    ) -> bool:
        """Return whether an answer asks for the same request with a nonce, which it told just now.

        A resource says so by 401 and its challenge, a token endpoint by 400 and its JSON error (§8, §9). A
        server that tells the same nonce again gets no second proof: that would never end.
        """
        if not self.heard(tenant, upstream, url, headers):
            return False
        if status == 401:
            return 'error="use_dpop_nonce"' in headers.get("www-authenticate", "")
        if status != 400:
            return False
        try:
            value = strict_json.loads(body, max_depth=4)
        except Malformed:
            return False
        return isinstance(value, dict) and value.get("error") == "use_dpop_nonce"

    def _key(self, tenant: str, upstream: str) -> ECKey:
        place = (tenant, upstream)
        key = self._keys.get(place)
        if key is None:
            info = b"bartizan dpop key\0" + tenant.encode() + b"\0" + upstream.encode()
            # 48 bytes: what is left of the bias by the reduction is below 2**-128 (FIPS 186-5 A.2.1).
            wide = HKDF(algorithm=SHA256(), length=48, salt=None, info=info).derive(self._secret)
            scalar = int.from_bytes(wide) % (_P256_ORDER - 1) + 1
            key = ECKey.import_key(ec.derive_private_key(scalar, ec.SECP256R1()))
            self._keys[place] = key
            if len(self._keys) > KEYS:
                self._keys.popitem(last=False)
        return key


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}".lower()


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
