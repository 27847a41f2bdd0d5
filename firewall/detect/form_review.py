"""Form review (elicitation): whether the form of a server, or an answer to one, names a secret.

Names, titles and formats of the fields are read: with look-alike letters folded, camelCase and
separators taken apart. So are the message and the descriptions, for a sentence that tells somebody
to enter one: a field may be called anything. Rules read the names of fields by themselves, from a list that an operator
may change (``config/data.yaml``); this is the list that stays, and it sees what they cannot.
Source: MCP 2025-11-25 and 2026-07-28, client/elicitation ("Servers MUST NOT use form mode
elicitation to request sensitive information"); threats reference §2, ASI09.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from firewall.core.bounds import POLICY_FINDINGS
from firewall.core.finding import Finding
from firewall.core.jsonvalue import JSON, Path, pointer
from firewall.core.points import Point
from firewall.detect.views import fold

FORM_CHARS: Final = 32_768  # of all names, titles and formats of a message; what is longer cannot be judged

# Anywhere in a text of which only letters and digits are left.
PARTS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "apikey",
    "accesskey",
    "privatekey",
    "sshkey",
    "credential",
    "accesstoken",
    "authtoken",
    "refreshtoken",
    "bearertoken",
    "creditcard",
    "cardnumber",
    "securitycode",
    "socialsecurity",
    "onetimecode",
    "seedphrase",
    "recoveryphrase",
    "mnemonic",
    "passwort",
    "kennwort",
    "motdepasse",
    "contrasena",
    "contraseña",
    "wachtwoord",
    "пароль",
    "密码",
    "密碼",
    "パスワード",
    "비밀번호",
)
# As a word by itself.
WORDS: Final = frozenset(
    {
        "pin",
        "otp",
        "totp",
        "mfa",
        "2fa",
        "token",
        "tokens",
        "bearer",
        "jwt",
        "cookie",
        "cookies",
        "pwd",
        "pass",
        "card",
        "cvv",
        "cvc",
        "cvv2",
        "ssn",
        "senha",
    }
)


# Of these, the ones that mean a secret in a sentence as well.
STRONG: Final = frozenset({"pin", "otp", "cvv", "cvc", "cvv2", "ssn", "pwd"})
# A sentence asks when a secret follows one of these closely …
VERBS: Final = frozenset(
    {
        "enter",
        "type",
        "paste",
        "provide",
        "give",
        "submit",
        "input",
        "confirm",
        "supply",
        "send",
        "share",
        "tell",
        "fill",
        "reenter",
        "need",
        "verify",
    }
)
# … which is not denied by one of these, whatever of `LINKS` stands between, and no other thing is asked for.
DENIALS: Final = frozenset({"never", "not", "dont", "don", "t", "cannot", "without", "no"})
LINKS: Final = frozenset({"ask", "you", "to", "ever", "please", "asks", "require", "have", "be", "asked"})
OTHERWISE: Final = frozenset(
    {"name", "label", "title", "description", "length", "scope", "scopes", "link", "hint", "id"}
)
NEAR: Final = 8  # words between a verb and what it asks for


def asks_secret(text: str) -> bool:
    """Return whether a sentence tells somebody to enter a secret. Advice: words can be put otherwise."""
    views = {text} if text.isascii() else {text, fold(text)}
    return any(_asks(_words(view)) for view in views)


def _asks(words: list[str]) -> bool:
    for at, word in enumerate(words):
        if word not in VERBS or _denied(words, at):
            continue
        said = ""
        for after in words[at + 1 : at + 1 + NEAR]:
            if after in OTHERWISE:
                break
            said += after
            if after in STRONG or any(part in said for part in PARTS):
                return True
    return False


def _denied(words: list[str], at: int) -> bool:
    """Whether a verb is denied: ``never ask you to enter``, and not ``do not worry, enter``."""
    while at > 0 and words[at - 1] in LINKS:
        at -= 1
    return at > 0 and words[at - 1] in DENIALS


def names_secret(text: str) -> bool:
    """Return whether a field's name, title or format asks for a secret."""
    views = {text} if text.isascii() else {text, fold(text)}
    return any(_says(view) for view in views)


def _says(text: str) -> bool:
    words = _words(text)
    if not WORDS.isdisjoint(words):
        return True
    whole = "".join(words)
    return any(part in whole for part in PARTS)


def _words(text: str) -> list[str]:
    """Return the words of a name, in small letters: ``userPIN code`` is user, pin, code."""
    spaced: list[str] = []
    before = ""
    for i, char in enumerate(text):
        after = text[i + 1 : i + 2]
        if not char.isalnum():
            spaced.append(" ")
        elif char.isupper() and (before.islower() or (before.isupper() and after.islower())):
            spaced.append(" " + char)
        else:
            spaced.append(char)
        before = char
    return "".join(spaced).casefold().split()


def review(body: JSON, point: Point) -> list[Finding]:
    """Return a finding for each field that names a secret; at most `POLICY_FINDINGS`.

    body: a whole message; forms (``requestedSchema``) and answers (``result.content``) are looked
        for where the revisions put them. A form beyond `FORM_CHARS` counts as one that asks.
    """
    found: list[Finding] = []
    left = FORM_CHARS
    for path, text, judge in _texts(body, point):
        left -= len(text)
        if left < 0 or judge(text):
            found.append(Finding("SCAN-04", "review.secret_field", "review", 85, pointer(path), "review"))
        if left < 0 or len(found) >= POLICY_FINDINGS:
            break
    return found


def _texts(body: JSON, point: Point) -> Iterator[tuple[Path, str, Callable[[str], bool]]]:
    if not isinstance(body, dict):
        return
    if point is Point.MCP_ELICITATION_ANSWER:
        for above in ("result", "params"):
            said = body.get(above)
            content = said.get("content") if isinstance(said, dict) else None
            if isinstance(content, dict):
                for name in content:
                    yield (above, "content", name), name, names_secret
        return
    for at, message, schema in _forms(body, ()):
        yield (*at, "message"), message, asks_secret
        at = (*at, "requestedSchema")
        fields = schema.get("properties")
        if not isinstance(fields, dict):
            continue
        for name, field in fields.items():
            yield (*at, "properties", name), name, names_secret
            if isinstance(field, dict):
                for member, judge in (("title", names_secret), ("format", names_secret), ("description", asks_secret)):
                    text = field.get(member)
                    if isinstance(text, str):
                        yield (*at, "properties", name, member), text, judge


def _forms(value: JSON, path: Path) -> Iterator[tuple[Path, str, dict[str, JSON]]]:
    """Yield every form of a message: where, its message, its ``requestedSchema``. The parser bounds the depth."""
    if isinstance(value, dict):
        schema = value.get("requestedSchema")
        if isinstance(schema, dict):
            message = value.get("message")
            yield path, message if isinstance(message, str) else "", schema
            return
        for name, member in value.items():
            yield from _forms(member, (*path, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from _forms(member, (*path, index))
