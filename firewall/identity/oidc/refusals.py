"""What a person reads when signing in at a provider came to nothing: fixed words, and the provider's title. Pure."""

from __future__ import annotations

from typing import Final

from firewall.core.errors import BartizanError, Conflict, Malformed, UpstreamFault
from firewall.core.jsonvalue import JSONObject
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.people.links import account_digest

SHOWN_CHARS: Final = 200


class NoAccount(Malformed):
    """Somebody whom a provider vouches for has no account here, or none that lets them in (``idp_no_account``).

    issuer, subject: who it is there, shown to that person alone. account: the digest by which records name them
    (`people.links`). known: the subject of an account here that is closed, "" for none.
    """

    def __init__(self, detail: str, *, tenant: str, issuer: str, subject: str, known: str = "") -> None:
        super().__init__("idp_no_account", detail)
        self.subject = subject
        self.about: JSONObject = {"tenant": tenant, "issuer": issuer, "account": account_digest(issuer, subject)}
        if known:
            self.about["sub"] = known

    @property
    def tellable(self) -> bool:
        """Whether what the provider calls them can be read off a page as it is."""
        return len(self.subject) <= SHOWN_CHARS and self.subject.isascii() and self.subject.isprintable()


TEXTS: Final = {
    "down": "{title} cannot be reached now. Nothing has been changed; try again in a minute, or sign in another way.",
    "denied": "You did not sign in at {title}. Start again when you want to.",
    "refused": "{title} could not sign you in. Start again, or sign in another way.",
    "unverified": "What {title} answered could not be verified, so nobody was signed in. Tell your administrator.",
    "stale": "{title} did not ask you to sign in anew, which is needed here. Sign out there, then start again.",
    "no_account": "You are signed in at {title}, but have no access here. Ask your administrator.",
    "elsewhere": "People of your organisation sign in another way. Start again.",
    "busy": "Too many requests, or this sign-in is under way elsewhere. Wait a minute, then start again.",
}


def refusal(error: BartizanError) -> tuple[str, int]:
    """Return a key of `TEXTS` and an HTTP status for what `RelyingParty` raises."""
    if isinstance(error, UpstreamFault):
        return ("down", 503) if error.code in ("unreachable", "timeout") else ("refused", 502)
    if isinstance(error, Conflict):
        return "busy", 429
    if error.code == "idp_error":
        return ("denied" if error.detail == "access_denied" else "refused"), 403
    if error.detail == "auth_time":
        return "stale", 403
    return {"idp_no_account": "no_account", "idp_elsewhere": "elsewhere"}.get(error.code, "unverified"), 403


def about(error: BartizanError) -> JSONObject:
    """Return whose failure it was, for the record; {} where nothing was proved."""
    return error.about if isinstance(error, NoAccount) else {}


def words(reason: str, settings: ProviderSettings, error: BartizanError | None = None) -> str:
    """Return the sentence for a person; whom we do not know is told the name that an administrator needs."""
    text = TEXTS[reason].format(title=settings.title or settings.name)
    if isinstance(error, NoAccount) and error.tellable:
        text += f" They need to know that {settings.issuer} calls you: {error.subject}"
    return text
