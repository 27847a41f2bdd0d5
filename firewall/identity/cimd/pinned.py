"""Documents that stand in configuration, or in a file, instead of being fetched.

For clients whose host does not answer servers (anthropics/claude-ai-mcp issue 650) and for sites without a
way out. What is pinned is checked like what is fetched, once, at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from firewall.core.bounds import METADATA_BYTES
from firewall.core.errors import ConfigFault, Malformed
from firewall.core.jsonvalue import JSON
from firewall.wire import cimd


def load(pinned: Mapping[str, JSON], ports: frozenset[int]) -> dict[str, cimd.ClientDocument]:
    """Return the checked documents by client id URL.

    pinned: URL → the document, or the name of a file that holds it (at most 5 KiB).
    Raises ConfigFault("cimd_pinned").
    """
    documents = {}
    for url, given in pinned.items():
        where = f"identity.cimd.pinned {url!r}"
        try:
            cimd.check_client_url(url, ports=ports)
            if isinstance(given, str):
                with Path(given).expanduser().open("rb") as file:
                    documents[url] = cimd.parse_document(url, file.read(METADATA_BYTES + 1))
            else:
                documents[url] = cimd.check_document(url, given)
        except OSError:
            raise ConfigFault("cimd_pinned", f"{where}: the file cannot be read", fix="name a readable file") from None
        except Malformed as error:
            raise ConfigFault(
                "cimd_pinned", f"{where}: {error.code} ({error.detail})", fix="pin the document as its host serves it"
            ) from None
    return documents
