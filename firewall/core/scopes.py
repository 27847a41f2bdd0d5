"""What a scope opens beside itself.

MCP (authorization, scope challenges): servers honour the hierarchy of their scopes. Ours has one step: whoever may
change things at a server may read there. ``NAME:write`` opens what ``NAME:read`` opens, wherever it is decided;
tokens, consents and records keep saying what was given, and nothing is given on that was not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_WIDER: Final = ":write"
_NARROWER: Final = ":read"


@lru_cache(maxsize=4096)
def opened(scopes: frozenset[str]) -> frozenset[str]:
    """Return the scopes and those that they imply."""
    implied = {scope.removesuffix(_WIDER) + _NARROWER for scope in scopes if scope.endswith(_WIDER)}
    return scopes | implied if implied - scopes else scopes
