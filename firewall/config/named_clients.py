"""Clients that the file gives something to by name, in another place than their own. Pure, as `rooms` is.

It may be a client of the file, or one that is registered by command (`bartizan clients add`), which is looked for when it
asks for something: until it is there, nobody has what the file gives it, and `config check` says that it is not. A name that
neither could have is refused: it would give nothing for ever.
"""

from __future__ import annotations

from collections.abc import Iterator

from firewall.config.model import Config
from firewall.core.errors import ConfigFault
from firewall.identity.clients.registered import may_be_registered

Place = tuple[str, ...]
_FIX = "name a client of identity.clients of this file, or one that `bartizan clients add` registers"
DOCUMENT = "https://"  # what a client describes itself by (CIMD); see `clients.registry.is_client_url`


def elsewhere(config: Config) -> Iterator[tuple[Place, str]]:
    """Yield each place that names a client which the file does not have, and the name.

    ``identity.clients.NAME.may_act`` may also name a client by its document; ``authzen.enforcers`` also a client of an
    issuer whose tokens are taken as they are (``ISSUER|CLIENT``).
    """
    clients, issuers = config.identity.clients, config.identity.issuers
    for name, given in clients.items():
        if given.may_act and given.may_act not in clients and not given.may_act.startswith(DOCUMENT):
            yield ("identity", "clients", name, "may_act"), given.may_act
    for name in config.authzen.enforcers:
        issuer, bar, client = name.partition("|")
        if name not in clients and not (bar and client and issuer in issuers):
            yield ("authzen", "enforcers", name), name


def unknown(config: Config) -> Iterator[tuple[Place, ConfigFault]]:
    """Yield each place that names a client which can never be there, with its fault: client_unknown."""
    for place, name in elsewhere(config):
        if not may_be_registered(name):
            yield place, ConfigFault("client_unknown", f"{place[-1]}: {name!r}", fix=_FIX)


def check(config: Config) -> None:
    """Raise ConfigFault("client_unknown") for the first of them."""
    for _, fault in unknown(config):
        raise fault
