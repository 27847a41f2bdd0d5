"""The pages of the front door: plain HTML from autoescaped templates, one stylesheet, one script for one page.

Whatever a client says about itself is hostile until cleaned (UI-04): its host is the identity, its
name only a claim.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path

import jinja2

NAME_CHARS = 64
HERE = Path(__file__).parent

_WORDS = {
    "read": "Read from “{name}”: list what is there and look things up",
    "write": "Act through “{name}”: read there, and change, create, delete or run things",
    "send": "Send messages to the agent “{name}”",
    "invoke": "Use the language models behind “{name}”",
}


class Pages:
    """Renders templates."""

    def __init__(self) -> None:
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.stylesheet = (HERE / "assets" / "front-door.css").read_bytes()
        self.consent_script = (HERE / "assets" / "consent.js").read_bytes()

    def render(self, name: str, **values: object) -> str:
        """Return the page ``templates/<name>.html``."""
        return self._templates.get_template(f"{name}.html").render(**values)


def clean_name(text: str) -> str:
    """Return a stranger's text for display: NFC, no control, format or bidi characters, at most 64 characters."""
    kept = "".join(" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join(unicodedata.normalize("NFC", kept).split())[:NAME_CHARS]


def is_mixed_script(text: str) -> bool:
    """Return whether letters of more than one script stand together, as in a look-alike name (UTS #39, simplified)."""
    scripts = {unicodedata.name(c, "?").partition(" ")[0] for c in text if c.isalpha()}
    return len(scripts & {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}) > 1 or "?" in scripts


def scope_words(scope: str) -> str:
    """Return what a scope means, in a person's words."""
    name, _, verb = scope.rpartition(":")
    return _WORDS[verb].format(name=name) if verb in _WORDS and name else scope
