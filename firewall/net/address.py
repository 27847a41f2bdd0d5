"""What an address is: pure tables and one function. Python's ``is_global`` lets several ranges through.

`classify` judges the text of a host; `classify_ip` one address. IPv4 inside IPv6 (mapped, NAT64) is
unwrapped and judged as the IPv4 that packets would reach. Source: IANA special-purpose registries
(RFC 6890), operations reference 6.2 (each row below was seen to pass ``ipaddress`` 3.11 or 3.13).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, Literal, TypeAlias

from firewall.core.errors import Malformed
from firewall.wire.http import check_host

AddressClass: TypeAlias = Literal["public", "private", "loopback", "link_local", "metadata", "reserved", "invalid"]
Network: TypeAlias = Literal["public", "private", "loopback"]
IP: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"


def _v4(*nets: str) -> tuple[ipaddress.IPv4Network, ...]:
    return tuple(ipaddress.IPv4Network(net) for net in nets)


def _v6(*nets: str) -> tuple[ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.IPv6Network(net) for net in nets)


# Cloud metadata and host services: never reachable, whatever a configuration says.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, GCP, Azure, OpenStack, DigitalOcean
        "169.254.170.2",  # ECS task credentials
        "169.254.170.23",  # EKS pod identity
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure host
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # EKS pod identity over IPv6
        "fd20:ce::254",  # GCP over IPv6
    )
)

_RULES_4: Final[tuple[tuple[AddressClass, tuple[ipaddress.IPv4Network, ...]], ...]] = (
    ("loopback", _v4("127.0.0.0/8")),
    ("link_local", _v4("169.254.0.0/16")),
    ("private", _v4("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    (
        "reserved",
        _v4(
            "0.0.0.0/8",  # this network; Linux connects 0.0.0.0 to itself
            "192.0.0.0/24",  # protocol assignments; 192.0.0.8 is "global" for Python
            "192.0.2.0/24",
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays, deprecated
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarking
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # class E and broadcast
        ),
    ),
)
_RULES_6: Final[tuple[tuple[AddressClass, tuple[ipaddress.IPv6Network, ...]], ...]] = (
    ("loopback", _v6("::1/128")),
    ("link_local", _v6("fe80::/10")),
    ("private", _v6("fc00::/7")),
    (
        "reserved",
        _v6(
            "::/96",  # unspecified and IPv4-compatible
            "64:ff9b:1::/48",  # local NAT64: where it leads is not known
            "100::/64",
            "100:0:0:1::/64",
            "2001::/23",  # protocol assignments, Teredo, ORCHID
            "2001:db8::/32",
            "2002::/16",  # 6to4 carries any IPv4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",
            "5f00::/16",  # SRv6
            "fec0::/10",  # site-local, deprecated
            "ff00::/8",  # multicast
        ),
    ),
)
_GLOBAL_6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

# Names that never mean a public host (RFC 6761, RFC 6762, RFC 8375, RFC 9476) or are metadata services.
_METADATA_NAMES: Final = frozenset({"metadata.google.internal", "metadata.goog", "instance-data.ec2.internal"})
_LOCAL_ENDS: Final = (".local", ".internal", ".intranet", ".lan", ".home.arpa", ".corp", ".private")


def unwrap(address: IP) -> IP:
    """Return the IPv4 address that an IPv4-mapped or NAT64 (64:ff9b::/96) address leads to, else itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def classify_ip(address: IP) -> AddressClass:
    """Return the class of one address; what no rule knows and IANA has not made global is ``reserved``."""
    address = unwrap(address)
    if address in _METADATA:
        return "metadata"
    if isinstance(address, ipaddress.IPv4Address):
        for name, nets4 in _RULES_4:
            if any(address in net for net in nets4):
                return name
        return "public"
    if address.scope_id is not None:
        return "invalid"
    for name, nets6 in _RULES_6:
        if any(address in net for net in nets6):
            return name
    return "public" if address in _GLOBAL_6 else "reserved"


@lru_cache(maxsize=4096)
def classify(host_or_ip: str) -> AddressClass:
    """Return the class of a host as it is written: an address by its range, a name by its form only.

    A name that resolves publicly may still lead inside: the dialler judges what it resolves to.
    ``invalid``: not a canonical address and not a DNS name (zone ids and numeric spellings included).
    """
    text = host_or_ip.lower()
    try:
        host = check_host(f"[{text}]" if ":" in text and not text.startswith("[") else text)
    except Malformed:
        return "invalid"
    try:
        return classify_ip(ipaddress.ip_address(host))
    except ValueError:
        pass
    if host == "localhost" or host.endswith(".localhost"):
        return "loopback"
    if host in _METADATA_NAMES:
        return "metadata"
    return "private" if "." not in host or host.endswith(_LOCAL_ENDS) else "public"


def permits(network: Network, address: str) -> bool:
    """Return whether a permission for one network covers an address. A permission covers its own class only:

    an upstream written down as ``private`` that suddenly resolves to a public address is as wrong as
    the reverse. Link-local, metadata and reserved addresses have no permission.
    """
    return classify(address) == network
