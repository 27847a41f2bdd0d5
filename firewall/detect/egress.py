"""Egress rules (EGR-01, EGR-02, SCAN-06): where a string points to, and whether it says so plainly.

A URL in a tool's arguments is judged by its host as a client would read it: decimal, octal, hex and
short IPv4 forms, IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4), percent-encoded hosts, user
information, backslashes. Names are not resolved here; the dialler does that and judges again.
Sources: WHATWG URL §4.4 host parsing, RFC 6890 registries, RFC 6052 §2.1, RFC 3056.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal
from urllib.parse import unquote

from firewall.core.protected_paths import PATH_ARGUMENTS, PROTECTED_NAMES, PROTECTED_PREFIXES
from firewall.detect.rule import Rule, Seen, Verdict
from firewall.detect.values import entropy

AddressClass = Literal["public", "private", "metadata"]

METADATA_HOSTS: Final = frozenset(
    {
        "metadata.google.internal",
        "metadata.goog",
        "metadata",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.packet.net",
        "metadata.platformequinix.com",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    }
)
METADATA_ADDRESSES: Final = frozenset(
    {
        IPv4Address("169.254.169.254"),  # AWS, GCP, Azure, DigitalOcean, OCI
        IPv4Address("169.254.170.2"),  # ECS task credentials
        IPv4Address("169.254.170.23"),  # EKS pod identity
        IPv4Address("169.254.169.123"),
        IPv4Address("169.254.0.23"),  # Tencent
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("192.0.0.192"),  # OCI classic
        IPv4Address("168.63.129.16"),  # Azure wire server
        IPv6Address("fd00:ec2::254"),
        IPv6Address("fd00:ec2::23"),
        IPv6Address("fd20:ce::254"),
    }
)
PRIVATE_SUFFIXES: Final = (
    ".localhost",
    ".local",
    ".internal",
    ".intranet",
    ".corp",
    ".home",
    ".lan",
    ".home.arpa",
    ".localdomain",
    ".svc",
)
# Public names that resolve to any address written in them: rebinding services.
REBINDING_SUFFIXES: Final = (
    ".nip.io",
    ".sslip.io",
    ".xip.io",
    ".localtest.me",
    ".lvh.me",
    ".vcap.me",
    ".rbndr.us",
    ".lacolhost.com",
)
REBINDING_HOSTS: Final = frozenset({"localtest.me", "lvh.me", "vcap.me", "lacolhost.com"})
TARGET_KEYS: Final = (
    "url",
    "uri",
    "host",
    "endpoint",
    "webhook",
    "callback",
    "server",
    "address",
    "target",
    "link",
    "href",
    "origin",
    "site",
    "addr",
    "ip",
    "domain",
)


@dataclass(frozen=True, slots=True)
class Target:
    """A URL's parts as a lenient client reads them, and what is not in normal form."""

    scheme: str
    host: str
    odd: tuple[str, ...]


def ipv4_number(text: str) -> IPv4Address | None:
    """Return the address of 1–4 decimal, octal or hexadecimal parts; None when it is a name.

    Source: WHATWG URL, IPv4 parser (the last part fills what is left).
    """
    parts = text.split(".")
    if parts and parts[-1] == "" and len(parts) > 1:
        parts.pop()
    if not 1 <= len(parts) <= 4:
        return None
    numbers: list[int] = []
    for part in parts:
        low = part.lower()
        try:
            if low.startswith("0x"):
                numbers.append(int(low[2:] or "0", 16) if low[2:].isalnum() or not low[2:] else -1)
            elif len(low) > 1 and low.startswith("0") and low.isdigit() and low.isascii():
                numbers.append(int(low, 8))
            elif low.isdigit() and low.isascii() and len(low) <= 10:
                numbers.append(int(low))
            else:
                return None
        except ValueError:
            return None
    last = numbers.pop()
    if any(not 0 <= n <= 255 for n in numbers) or not 0 <= last < 256 ** (4 - len(numbers)):
        return None
    value = last
    for i, n in enumerate(numbers):
        value += n << (8 * (3 - i))
    return IPv4Address(value)


def embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address carries: mapped, compatible, NAT64, 6to4."""
    value = int(address)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if value >> 32 == 0 and value > 0xFFFF:
        return IPv4Address(value & 0xFFFFFFFF)
    if value >> 96 == 0x0064FF9B or value >> 80 == 0x0064FF9B0001:
        return IPv4Address(value & 0xFFFFFFFF)
    return address.sixtofour


def address_class(host: str) -> AddressClass:
    """Return what a host literal or name is, without resolving: public, private or metadata.

    private: every literal that is not global unicast (loopback, private, link-local, shared, multicast,
    reserved, unspecified), and names that are local by convention or by a rebinding service.
    """
    name = host.lower().rstrip(".")
    if name in METADATA_HOSTS:
        return "metadata"
    address: IPv4Address | IPv6Address | None
    if name.startswith("[") or ":" in name:
        try:
            address = IPv6Address(name.strip("[]").partition("%")[0])
        except ValueError:
            return "private"  # a bracketed host that is no address: nobody knows where it leads
        if address in METADATA_ADDRESSES:
            return "metadata"
        inner = embedded_ipv4(address)
        if inner is None:
            return "public" if address.is_global and not address.is_multicast else "private"
        address = inner
    else:
        address = ipv4_number(name)
    if address is not None:
        if address in METADATA_ADDRESSES:
            return "metadata"
        return "public" if address.is_global and not address.is_multicast else "private"
    if (
        name == "localhost"
        or name.endswith(PRIVATE_SUFFIXES)
        or name in REBINDING_HOSTS
        or name.endswith(REBINDING_SUFFIXES)
    ):
        return "private"
    return "public"


# Spellings in which two readers of a URL find two places; the others are only unusual.
RISKY: Final = frozenset({"userinfo", "backslash", "characters", "number", "percent", "dots", "case", "default_port"})
DEFAULT_PORTS: Final = {"http": "80", "https": "443", "ws": "80", "wss": "443", "ftp": "21"}


def read_url(text: str) -> Target | None:
    """Return scheme and host of a URL as the most lenient client would find them.

    text: one URL, whatever follows the host is ignored. None when there is no authority.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        return None
    odd: list[str] = []
    slashes = len(rest) - len(rest.lstrip("/\\"))
    if "\\" in rest.partition("?")[0]:
        odd.append("backslash")
    if slashes != 2:
        odd.append("slashes")
    authority = rest[slashes:]
    for i, char in enumerate(authority):
        if char in "/\\?#":
            authority = authority[:i]
            break
    if any(ord(c) <= 0x20 or ord(c) > 0x7E for c in authority):
        odd.append("characters")
    authority = "".join(c for c in authority if ord(c) > 0x20)
    userinfo, at, hostport = authority.rpartition("@")
    if at:
        odd.append("userinfo")
    del userinfo
    if hostport.startswith("["):
        host, _, after = hostport.partition("]")
        host += "]"
        port = after.removeprefix(":")
    else:
        host, _, port = hostport.partition(":")
    if scheme != scheme.lower() or (host.isascii() and host != host.lower()):
        odd.append("case")
    if (port and DEFAULT_PORTS.get(scheme.lower()) == port) or hostport.endswith(":"):
        odd.append("default_port")
    if _climbs(rest):
        odd.append("dots")
    if "%" in host and not host.startswith("["):
        odd.append("percent")
        host = unquote(host)
    if host.endswith(".") and len(host) > 1:
        odd.append("trailing_dot")
    if not host:
        return None if not at else Target(scheme.lower(), "", tuple(odd))
    folded = host if host.isascii() else _fold_host(host)
    if folded != host:
        host = folded
    number = None if host.startswith("[") else ipv4_number(host)
    if number is not None and str(number) != host:
        odd.append("number")
    if host.startswith("["):
        try:
            literal = IPv6Address(host.strip("[]"))
            if embedded_ipv4(literal) is not None or literal.compressed != host.strip("[]").lower():
                odd.append("number")
        except ValueError:
            odd.append("number")
    return Target(scheme.lower(), host, tuple(dict.fromkeys(odd)))


def _climbs(rest: str) -> bool:
    """Return whether a path has a part that every reader takes away: ``.`` or ``..``, encoded or not (RFC 3986 §6.2.2.3)."""
    if "." not in rest and "%" not in rest:
        return False
    path = rest.replace("\\", "/").partition("#")[0].partition("?")[0]
    return any(part.lower().replace("%2e", ".") in (".", "..") for part in path.split("/"))


def _fold_host(host: str) -> str:
    from unicodedata import normalize

    return normalize("NFKC", host).replace("。", ".").lower()


def _label(host: str) -> bool:
    """Return whether a name carries data: a long or random label left of the registered domain (EGR-02)."""
    labels = host.split(".")[:-2]
    return any(
        len(label) > 50 or (len(label) >= 28 and entropy(label) >= 3.6 and any(c.isdigit() for c in label))
        for label in labels
    )


def judge_url(seen: Seen) -> Sequence[Verdict]:
    """Judge a URL in arguments: its address class, its form, its labels."""
    target = read_url(seen.text)
    if target is None:
        return ()
    meant = seen.whole or any(word in seen.key for word in TARGET_KEYS)
    if (
        seen.key in ("text", "content", "body", "message", "description", "query", "q", "prompt", "comment", "title")
        and not seen.whole
    ):
        meant = False
    out: list[Verdict] = []
    kind = address_class(target.host) if target.host else "private"
    if kind == "metadata":
        out.append(Verdict("egress.metadata_address", 95 if meant else 70))
    elif kind == "private":
        out.append(Verdict("egress.private_address", 90 if meant else 30))
    if target.odd and (meant or kind != "public" or target.odd != ("userinfo",)):
        risky = kind != "public" or not RISKY.isdisjoint(target.odd)
        out.append(Verdict("egress.not_normal_form", (80 if meant else 30) if risky else 40, "normal_form"))
    if kind == "public" and not target.host.startswith("[") and _label(target.host):
        out.append(Verdict("egress.data_in_host", 60 if meant else 40, None, "EGR-02"))
    return out


def judge_host(seen: Seen) -> Sequence[Verdict]:
    """Judge a bare host: only a whole string under a key that names a target."""
    if not seen.whole or seen.is_key or not any(word in seen.key for word in TARGET_KEYS):
        return ()
    host = seen.text.strip()
    if host.count(":") == 1:
        host = host.partition(":")[0]
    kind = address_class(host)
    if kind == "public":
        return ()
    return (Verdict("egress.metadata_address", 95) if kind == "metadata" else Verdict("egress.private_address", 85),)


PATH_KEYS: Final = (
    "path",
    "file",
    "dir",
    "folder",
    "filename",
    "root",
    "cwd",
    "dest",
    "src",
    "source",
    "location",
    "uri",
)


PATH_BYTES: Final = 4096
# Names that stand for a path and nothing else; under the others of `PATH_KEYS` there may be a whole text.
SURE_PATH_KEYS: Final = frozenset(
    {"path", "paths", "file_path", "filepath", "filename", "directory", "dir", "cwd", "repo_path", "root"}
)


def judge_path(seen: Seen) -> Sequence[Verdict]:
    """Judge a climbing or encoded path: under a key that names one, or a string that is one."""
    if seen.high - seen.low > PATH_BYTES:  # more than a path can be, unless the tool shortens it first
        return (Verdict("path.traversal", 80, "normal_form", "POL-02"),) if seen.key in SURE_PATH_KEYS else ()
    text = seen.data[seen.low : seen.high]
    if b"\n" in text and seen.key in SURE_PATH_KEYS and not seen.is_key:
        return (Verdict("path.traversal", 80, "normal_form", "POL-02"),)
    named = any(word in seen.key for word in PATH_KEYS)
    looks = text.startswith((b"/", b"./", b"../", b"~", b"..\\", b"file:", b"\\")) or text[1:3] in (b":\\", b":/")
    if seen.is_key or b"\n" in text or not (named or (looks and b" " not in text)):
        return ()
    encoded = b"%" in seen.value
    return (Verdict("path.traversal", 80 if encoded or named else 60, "normal_form", "POL-02"),)


_NAMED: Final = "|".join(
    name.strip("/").replace(".", r"\.").replace("/", r"(?:[/\\]|%2f)(?:\.?(?:[/\\]|%2f)){0,8}")
    for name in PROTECTED_NAMES
)
# One separator, however often and with whatever ``.`` between: ``/etc//shadow`` opens the same file.
_SEPARATOR: Final = r"(?:/|%2f)(?:\.?(?:/|%2f)){0,8}"
_PREFIXED: Final = "|".join(prefix[1:].replace("/", _SEPARATOR) for prefix in PROTECTED_PREFIXES)
# Where a path begins: a plain one, a file's, or one of a server's own scheme, whose host is no part of it; each
# also behind the name of an upstream (`mcp_gateway.uris.wrapped`). A drive's letter is no scheme.
_BEGINS: Final = (
    rf"(?:(?:[a-z][a-z0-9+._-]{{1,63}}:)?file:(?://[^/\s]{{0,63}})?)?{_SEPARATOR}"
    rf"|(?:[a-z][a-z0-9+._-]{{1,63}}:){{1,2}}(?://{_SEPARATOR}|/|%2f)"
)


def judge_protected(seen: Seen) -> Sequence[Verdict]:
    """Judge a path to keys or start-up files, at any depth: only under a key that names a path."""
    if seen.is_key or seen.key not in PATH_ARGUMENTS:
        return ()
    if seen.start != seen.low and not seen.value.lower().removeprefix(b"%2f").lstrip(b"/\\").startswith(b"."):
        return ()  # a place counts where the path begins, a name anywhere
    # Below the threshold of what is no normal form: whether it matters is for the rule of protected paths.
    return (Verdict("path.protected", 50, "normal_form", "POL-02"),)


def judge_markup(seen: Seen) -> Sequence[Verdict]:
    """Judge an image or link that a renderer would fetch: does its address carry data?"""
    text = seen.text
    low = text.lower()
    if "javascript:" in low or "data:text/html" in low or "vbscript:" in low:
        return (Verdict("markup.script_uri", 70),)
    image = low.startswith(("![", "<img", "url(", "<link", "<iframe", "<video", "<audio", "<object", "<embed"))
    _, mark, query = text.partition("?")
    values = [part.partition("=")[2] for part in query.replace("&amp;", "&").split("&")] if mark else []
    carries = (
        any(len(v) >= 24 and entropy(v) >= 3.2 for v in values)
        or any(c in v for v in values for c in "{<[")
        or "%7b" in low
    )
    if carries:
        return (Verdict("markup.data_in_url", 70 if image else 50),)
    return (Verdict("markup.remote_image", 35 if values else 20),) if image else ()


def _e(name: str, family: str, pattern: str, judge: object, control: str, category: str) -> Rule:
    return Rule(name, control, category, 50, family, pattern.encode(), judge=judge)  # type: ignore[arg-type]


RULES: Final = (
    _e(
        "egress.url",
        "egress",
        r"(?i)(?:\b|^)((?:https?|ftp|ftps|sftp|gopher|dict|ldaps?|tftp|wss?|ssh|telnet|smb|nfs|redis|jar:https?):[/\\]{1,4}[^\s\"<>\x60]{1,180})",
        judge_url,
        "EGR-01",
        "egress",
    ),
    _e(
        "egress.url",
        "egress",
        r"(?i)((?:file|netdoc|php|expect|phar)://[^\s\"<>\x60]{0,100})",
        lambda seen: (Verdict("egress.local_scheme", 85 if seen.whole else 40),),
        "EGR-01",
        "egress",
    ),
    _e(
        "egress.host",
        "egress",
        r"(?i)((?:\b(?:10|127|0|169\.254|192\.168|172\.(?:1[6-9]|2[0-9]|3[01])|100\.100\.100|168\.63\.129|100\.(?:6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7]))(?:\.[0-9]{1,3}){1,3}|\[?(?:::1|::ffff:[0-9a-f.:]{3,20}|f[cd][0-9a-f]{2}:[0-9a-f:]{2,40}|fe[89ab][0-9a-f]:[0-9a-f:]{2,40}|64:ff9b::[0-9a-f.:]{2,20})\]?|\blocalhost|\b(?:[a-z0-9-]{1,40}\.){0,4}(?:internal|localhost|local|nip\.io|sslip\.io|localtest\.me)|\bmetadata|\binstance-data)\.?(?::[0-9]{1,5})?)",
        judge_host,
        "EGR-01",
        "egress",
    ),
    _e(
        "path.traversal",
        "path",
        r"(?i)((?:(?m:^)|[/\\]|%2f|%5c|%252f)(?:\.|%2e|%252e){2}(?:(?m:$)|[/\\]|%2f|%5c|%252f|%c0%af)|%c0%ae|%252e%252e|\x00|%00)",
        judge_path,
        "POL-02",
        "normal_form",
    ),
    _e(
        "path.protected",
        "path",
        rf"(?i)((?:(?m:^)|[/\\]|%2f)(?:{_NAMED})(?:(?m:$)|[/\\]|%2f)|(?m:^)(?:{_BEGINS})(?:{_PREFIXED}))",
        judge_protected,
        "POL-02",
        "normal_form",
    ),
    _e(
        "markup.fetch",
        "markup",
        r"(?i)(!\[[^\]\n]{0,60}\]\(\s{0,2}<?(?:https?:)?//[^\s)>]{1,150}|<(?:img|iframe|video|audio|embed|object|link)\b[^>\n]{0,40}\s(?:src|href|data|srcset)\s?=\s?['\"]?(?:https?:)?//[^\s'\">]{1,120}|\burl\(\s?['\"]?(?:https?:)?//[^\s'\")]{1,150})",
        judge_markup,
        "SCAN-06",
        "markup",
    ),
    _e(
        "markup.link",
        "markup",
        r"(?i)(\[[^\]\n]{0,60}\]\(\s{0,2}<?(?:(?:https?:)?//[^\s)>?]{1,60}\?[^\s)>]{1,110}|javascript:[^\s)]{0,60}|data:text/html[^\s)]{0,60}))",
        judge_markup,
        "SCAN-06",
        "markup",
    ),
)
