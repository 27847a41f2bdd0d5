"""Clients that the file gives something to by name, in another place than their own. Pure, as `rooms` is.

A name that nobody has here is refused: a slip of the pen would give nothing, and whoever registered that name by
command later would have what the file gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from firewall.config.model import Config
from firewall.core.errors import ConfigFault

Place = tuple[str, ...]
DOCUMENT = "https://"  # what a client describes itself by (CIMD); see `clients.registry.is_client_url`


def unknown(config: Config) -> Iterator[tuple[Place, ConfigFault]]:
    """Yield each place that names a client which is not there, with its fault: client_unknown.

    ``identity.clients.NAME.may_act`` may also name a client by its document; ``authzen.enforcers`` also a client of an
    issuer whose tokens are taken as they are (``ISSUER|CLIENT``).
    """
    clients, issuers = config.identity.clients, config.identity.issuers
    for name, given in clients.items():
        if given.may_act and given.may_act not in clients and not given.may_act.startswith(DOCUMENT):
            yield ("identity", "clients", name, "may_act"), _fault(f"client {name!r}: may_act {given.may_act!r}")
    for name in config.authzen.enforcers:
        issuer, bar, client = name.partition("|")
        if name not in clients and not (bar and client and issuer in issuers):
            yield ("authzen", "enforcers", name), _fault(f"enforcer {name!r}")


def check(config: Config) -> None:
    """Raise ConfigFault("client_unknown") for the first of them."""
    for _, fault in unknown(config):
        raise fault


def _fault(where: str) -> ConfigFault:
    return ConfigFault("client_unknown", where, fix="name a client of identity.clients of this file")
