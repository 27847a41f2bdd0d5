"""Whether a browser sent a request from a page of ours (UI-06; Fetch Metadata, W3C, §2.3; Fetch standard §3.2).

Our pages say ``Referrer-Policy: no-referrer`` (UI-05), and a browser then writes ``Origin: null`` on their forms
(Fetch, "append a request Origin header"). A frame without an origin writes the same, so ``null`` alone says nothing:
it counts beside ``Sec-Fetch-Site: same-origin`` only. No page can set or change that header, for a sandboxed frame it
is ``cross-site``, and a redirect from elsewhere leaves its mark in it. A script of ours (`fetch`) writes our origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

NO_ORIGIN: Final = b"null"
OWN: Final = b"same-origin"


def is_own_page(headers: Mapping[bytes, bytes], origin: bytes) -> bool:
    """Return whether both headers that a browser sets agree that this came from a page of ``origin``.

    headers: lower-case names. origin: ours, ``https://host[:port]``. False for what has neither header: that is no
    browser's form. Browsers send ``Sec-Fetch-Site`` over https and to this machine only: elsewhere no form is taken.
    """
    site, sent = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if sent is None or sent == NO_ORIGIN:
        return site == OWN
    return sent.lower() == origin.lower() and site in (None, OWN)
