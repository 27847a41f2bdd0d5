"""What an endpoint shows of one kind before policy has a say: entries under their exposed names. Pure.

The aggregated endpoint prefixes the names of tools and prompts with their upstream's. A URI stays as it
is while exactly one upstream can answer it, by its list or by a template; otherwise it names its
upstream (`uris.wrapped`). So an upstream that lists another one's URI gains no request of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from firewall.core.errors import Malformed
from mcp_gateway import lists, uris
from mcp_gateway.entries import Catalogue, Entry
from mcp_gateway.kinds import Kind


@dataclass(frozen=True, slots=True)
class Shelf:
    """entries: exposed name → entry. names: in order. serials: of the catalogues that it was made of."""

    kind: Kind
    entries: Mapping[str, Entry]
    names: tuple[str, ...]
    serials: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """An entry that answers a URI, and that URI as its upstream spells it."""

    entry: Entry
    uri: str


@dataclass(frozen=True, slots=True)
class Index:
    """Which upstream answers which URI, over the resources and templates of some upstreams."""

    resources: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)
    templates: Mapping[str, Mapping[str, Entry]] = field(default_factory=dict)

    def owners(self, uri: str) -> set[str]:
        """Return the aliases of the upstreams that list a URI or whose templates match it."""
        found = {alias for alias, listed in self.resources.items() if uri in listed}
        found |= {
            alias
            for alias, listed in self.templates.items()
            if alias not in found and any(_matches(one, uri) for one in listed.values())
        }
        return found

    def exposed(self, alias: str, uri: str) -> str:
        """Return how a URI of an upstream is told: as it is when nobody else answers it."""
        alone = self.owners(uri) == {alias} and not uri.startswith(uris.WRAP)
        return uri if alone else uris.wrapped(alias, uri)

    def exposed_template(self, alias: str, text: str) -> str:
        """Return how a template of an upstream is told."""
        owners = {other for other, listed in self.templates.items() if text in listed}
        alone = owners == {alias} and not text.startswith(uris.WRAP)
        return text if alone else uris.wrapped(alias, text)

    def find(self, uri: str) -> Address | None:
        """Return who answers a URI as the client spells it, or None: nobody, or more than one."""
        told = uris.unwrapped(uri)
        if told is not None:
            alias, own = told
            return self.within(alias, own)
        owners = self.owners(uri)
        return self.within(owners.pop(), uri) if len(owners) == 1 else None

    def within(self, alias: str, uri: str) -> Address | None:
        """Return what answers a URI at one upstream: the listed resource, else the first template that matches.

        A URI that is not in its normal form is answered by nothing (DESIGN §6b-5).
        """
        try:
            uris.check(uri)
        except Malformed:
            return None
        listed = self.resources.get(alias, {}).get(uri)
        if listed is not None:
            return Address(listed, uri)
        templates = self.templates.get(alias, {})
        found = next((templates[text] for text in sorted(templates) if _matches(templates[text], uri)), None)
        return Address(found, uri) if found is not None else None

    def find_template(self, text: str) -> Entry | None:
        """Return the template that a client names by its text, or None."""
        told = uris.unwrapped(text)
        if told is not None:
            return self.templates.get(told[0], {}).get(told[1])
        found = [listed[text] for listed in self.templates.values() if text in listed]
        return found[0] if len(found) == 1 else None


def _matches(one: Entry, uri: str) -> bool:
    template = one.definition.template
    return template is not None and uri.startswith(template.prefix) and template.matches(uri)


def alone(catalogue: Catalogue) -> Shelf:
    """Return the shelf of an endpoint with one upstream: everything under its own name."""
    entries = catalogue.entries
    return Shelf(catalogue.kind, entries, tuple(sorted(entries)), (catalogue.serial,))


def merged(kind: Kind, catalogues: Mapping[str, Catalogue], index: Index) -> Shelf:
    """Return the shelf of an aggregate; catalogues: alias → the kind's catalogue."""
    tell: Callable[[str, str], str] = lists.exposed_name
    if kind in ("resource", "template"):
        tell = index.exposed if kind == "resource" else index.exposed_template
    entries = {
        tell(alias, name): one for alias, catalogue in catalogues.items() for name, one in catalogue.entries.items()
    }
    serials = tuple(catalogues[alias].serial for alias in sorted(catalogues))
    return Shelf(kind, entries, tuple(sorted(entries)), serials)


def index_of(catalogues: Iterable[tuple[str, Catalogue]]) -> Index:
    """Return the index over (alias, catalogue) pairs of resources and templates."""
    resources: dict[str, Mapping[str, Entry]] = {}
    templates: dict[str, Mapping[str, Entry]] = {}
    for alias, catalogue in catalogues:
        (resources if catalogue.kind == "resource" else templates)[alias] = catalogue.entries
    return Index(resources, templates)
