"""What one client may ask for in a minute, beside what its address may (AS-19); never a lock that a stranger can trigger.

- A client that **proved** who it is has one count, wherever it asks from: nobody adds to it without its credentials.
- The name of a **public** client proves nothing, and everybody knows it. What is counted under a name is counted per network, as
  a share of what the network may: a flood under that name elsewhere is no matter here, and a program that runs wild leaves
  the others behind its address a fifth. What goes beyond the share costs the network nothing of the rest.

`/login` and `/register` have no count of this kind. A sign-in belongs to a request that `/authorize` has counted under its client's
name, and its failures delay by account and address; whoever registers is nobody yet.

Both are kept in the store with the counts of addresses, and so in one place for all workers. Not in the shared memory of
`state.allowances`: its table is bounded for the whole node, and names and networks are a stranger's to choose, who could fill
it until governed calls are refused.
"""

from __future__ import annotations

from typing import Final

from firewall.identity.clients.registry import Client
from firewall.identity.clients.stranger import is_proved
from firewall.identity.settings import Record
from firewall.identity.throttle import Throttle, network_of
from firewall.wire.oauth import Form, OAuthError

SHARE: Final = (4, 5)  # of a network's allowance, for one name: rounded up, so that a small one is not divided


class ClientLimits:
    """Counts by client. per_minute: of a client that proved who it is, from everywhere together."""

    def __init__(self, throttle: Throttle, per_minute: int, record: Record) -> None:
        self._throttle = throttle
        self._per_minute = per_minute
        self._record = record

    def admits(self, what: str, form: Form | None, address: str, *, per_minute: int) -> bool:
        """Count a request of nobody yet; return whether its name and its network have something left.

        form: its parameters, None where they could not be read. per_minute: what the network may.
        """
        name = form.get("client_id") if form else ""
        counted, who = f"{what}.name", f"{name}\0{network_of(address)}"
        share = -(-per_minute * SHARE[0] // SHARE[1])
        if name and self._throttle.spent(counted, who) >= share:
            return False
        # Names are counted behind the network alone: one that makes them up fills no more rows than it has requests.
        if not self._throttle.allow(what, address, per_minute=per_minute):
            return False
        return not name or self._throttle.allow(counted, who, per_minute=share)

    def checked(self, client: Client) -> Client:
        """Return the client that authenticated, after counting it. Raises OAuthError slow_down (`client_busy`).

        The record says so once a minute: a refusal that costs the client nothing must not cost the log.
        """
        if not is_proved(client) or self._throttle.allow("client", client.client_id, per_minute=self._per_minute):
            return client
        if self._throttle.allow("client.busy", client.client_id, per_minute=1):
            self._record("identity.client.busy", {"client_id": client.client_id, "per_minute": self._per_minute})
        raise OAuthError("slow_down", "client_busy")
