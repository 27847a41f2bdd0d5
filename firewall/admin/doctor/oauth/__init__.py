"""The twenty complaints that people have about OAuth in front of agents (oauth reference §13), each a check.

Each looks for the misconfiguration that leads to the complaint in this installation: `face` (what clients
see), `clients`, `providers`, `upstreams` behind us, and `trace` (what the newest records say happened). A
check is named ``oauth-01`` to ``oauth-20``, by the number of the complaint.
"""

from typing import Final

from firewall.admin.doctor.check import Examination
from firewall.admin.doctor.oauth import clients, face, providers, trace, upstreams

EXAMINATIONS: Final[tuple[tuple[str, Examination], ...]] = tuple(
    sorted(
        (
            *face.EXAMINATIONS,
            *clients.EXAMINATIONS,
            *providers.EXAMINATIONS,
            *upstreams.EXAMINATIONS,
            *trace.EXAMINATIONS,
        )
    )
)
