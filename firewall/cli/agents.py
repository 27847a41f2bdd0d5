"""``bartizan agents``: register, approve, suspend, revoke and list A2A agents."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from firewall.cli.registering import add_verbs, given_only, read_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    add_verbs(parser, "a2a", "A2A agent", _options, _spec)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--card-url", help="where its agent card stands")
    parser.add_argument("--keys", type=Path, metavar="FILE", help="JWK Set of public keys, one of which signs the card")
    parser.add_argument("--network", choices=("public", "private", "loopback"), help="the one class it may resolve to")
    parser.add_argument("--trust", choices=("trusted", "untrusted"), help="whether its texts are vouched for")
    parser.add_argument("--origin", action="append", default=[], help="a further origin that it may be called at")
    parser.add_argument("--extension", action="append", default=[], help="URI of an A2A extension that may pass")
    parser.add_argument("--public-card", action="store_true", help="show our card of it without sign-in")


def _spec(given: argparse.Namespace) -> dict[str, Any]:
    return given_only(
        card_url=given.card_url,
        keys=read_spec(given.keys) if given.keys is not None else None,
        network=given.network,
        trust=given.trust,
        origins=given.origin,
        extensions=given.extension,
        public_card=given.public_card,
    )
