"""Whom a provider vouches for becomes somebody of ours; what their groups give is imported at each sign-in.

The link is (issuer, subject) alone (`people.links`). Where the provider's settings map groups, they rule:
what is gone there is taken here at the next sign-in, and everything that the person had given away ends
with it; what is new is added quietly. A provider that maps nothing leaves rights to the administrator.

What a provider said holds for `recheck_s`: whoever was let go there, and never comes back, cannot go on refreshing.
"""

from __future__ import annotations

from firewall.core.errors import Malformed
from firewall.core.ports import Clock
from firewall.identity.oidc.mapping import Imported
from firewall.identity.oidc.refusals import NoAccount
from firewall.identity.oidc.settings import ProviderSettings
from firewall.identity.people.links import Admission, Links
from firewall.identity.people.pages import clean_name
from firewall.identity.people.users import User, Users
from firewall.identity.records import SECOND_US


class ProviderPeople:
    """Finds or makes the account of an imported person and brings its rights up to date."""

    def __init__(self, users: Users, links: Links, clock: Clock) -> None:
        self._users = users
        self._links = links
        self._clock = clock

    def settle(self, who: Imported, settings: ProviderSettings) -> User:
        """Return the account.

        Raises NoAccount: unknown and not to be made, disabled, or in no group that
        counts; Conflict: the same first sign-in is under way elsewhere; StateUnavailable.
        """
        rules = bool(settings.roles or settings.scopes_of)
        create = settings.create == "always" or (settings.create == "mapped" and who.mapped)
        admission = Admission(create, who.roles, who.scopes)
        user = self._links.admit(who.tenant, who.issuer, who.subject, admission)
        if user is None:
            known = self._links.account(who.tenant, who.issuer, who.subject)
            why = "disabled" if known else "unknown, and nothing admits them"
            raise _nobody(who, why, known)
        label = f"{clean_name(who.name)} ({settings.title or settings.name})".strip()
        until_s = self._clock.now_us() // SECOND_US + settings.recheck_s if settings.recheck_s else 0
        try:
            if rules:
                rights = {"roles": who.roles, "scopes": who.scopes}
                user = self._users.vouch(user.tenant, user.subject, label=label, until_s=until_s, **rights)
            else:
                user = self._users.vouch(user.tenant, user.subject, label=label, until_s=until_s)
        except Malformed:
            raise _nobody(who, "disabled meanwhile", user.subject) from None
        if rules and settings.create == "mapped" and not who.mapped:
            raise _nobody(who, "in no group that counts", user.subject)
        return user


def _nobody(who: Imported, why: str, known: str) -> NoAccount:
    return NoAccount(why, tenant=who.tenant, issuer=who.issuer, subject=who.subject, known=known)
