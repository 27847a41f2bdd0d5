"""The admin room: health, metrics, live decisions, and the verbs of people, beside the data plane.

    admin listener ─ Edge ─ AdminApp ─┬─ /healthz /readyz /metrics, styles     here, without FastAPI
                                      └─ pages and /api/v1                     console, loaded at first use
    admin.sock ─ peer's uid ─ AdminApp                                         the same, as the node's owner

No agent's token is accepted here (DESIGN §6b-3), and nothing here is on the way of an agent's request.
Its names are loaded when they are first asked for: who needs `definitions` alone does not pay for the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firewall.admin.definitions import Definitions
    from firewall.admin.operator_socket import OperatorSocket
    from firewall.admin.parts import AdminParts, AdminSettings
    from firewall.admin.serve import build

__all__ = ["AdminParts", "AdminSettings", "Definitions", "OperatorSocket", "build"]

_WHERE = {
    "AdminParts": "parts",
    "AdminSettings": "parts",
    "Definitions": "definitions",
    "OperatorSocket": "operator_socket",
    "build": "serve",
}


def __getattr__(name: str) -> Any:
    """Load a name of the room from its file (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
