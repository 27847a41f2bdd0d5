"""The admin room: health, metrics, live decisions, and the verbs of people, beside the data plane.

    admin listener ─ Edge ─ AdminApp ─┬─ /healthz /readyz /metrics, styles     here, without FastAPI
                                      └─ pages and /api/v1                     console, loaded at first use
    admin.sock ─ peer's uid ─ AdminApp                                         the same, as the node's owner

No agent's token is accepted here (DESIGN §6b-3), and nothing here is on the way of an agent's request.
"""

from firewall.admin.definitions import Definitions
from firewall.admin.operator_socket import OperatorSocket
from firewall.admin.parts import AdminParts, AdminSettings
from firewall.admin.serve import build

__all__ = ["AdminParts", "AdminSettings", "Definitions", "OperatorSocket", "build"]
