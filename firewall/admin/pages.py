"""The console's pages: autoescaped templates, one stylesheet, one script, nothing inline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import jinja2
import orjson

from firewall.detect.visible import visible

HERE = Path(__file__).parent

# What a person is told, by code. Fixed words: nothing that was typed comes back but the user name.
TEXTS: Final[dict[str, str]] = {
    "sign_in_failed": "User name, password and code do not fit, or this user has no role here.",
    "sign_in_busy": "Too many tries. Wait a while.",
    "first_contact_code": "The code is not right, or is no longer valid. `bartizan users code` gives a new one.",
    "first_contact_busy": "Too many tries. Wait a minute.",
    "user_name": "Use letters, digits and . _ - + @ for the user name, at most 64.",
    "password_weak": "Choose a longer password, of more than a few different characters.",
    "csrf": "This form was not sent from our own page, or its session has ended. Open the page again.",
    "role": "Your role does not allow this.",
    "second_self": "You asked for this yourself: another person with the role approver must decide.",
    "second_script": "A person must do this, in a session of their own.",
    "second_stale": "Policy wants more now than was agreed to. Ask again.",
    "policy_unavailable": "Policy gave no decision, so nothing was done.",
    "approval_unknown": "There is no such request here.",
    "user_unknown": "There is nobody of that name here.",
    "user_sure": "The name was not typed as it stands there, so nothing was done.",
    "stop_unknown": "There is no such stop.",
    "record_unknown": "There is no such decision here.",
    "pin_unknown": "There is no such pin here.",
    "state_conflict": "It changed meanwhile. Look again before you decide.",
    "audit_unavailable": "No record could be written, so nothing was done.",
    "bundle_torn": "The audit log is damaged: run `bartizan audit verify`.",
}


class Pages:
    """Renders templates. Names and texts in them were chosen by strangers: everything is escaped."""

    def __init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters["when"] = when
        self._templates.filters["pretty"] = pretty
        self._templates.filters["visible"] = visible

    def render(self, name: str, **values: object) -> str:
        """Return the page ``templates/<name>.html``."""
        return self._templates.get_template(f"{name}.html").render(**values)


def when(time_us: int) -> str:
    """Return a time as people read it, UTC to the millisecond."""
    return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def pretty(value: object) -> str:
    """Return JSON over several lines, for a <pre>; invisible characters are shown as escapes."""
    return visible(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode(), keep="\n")
