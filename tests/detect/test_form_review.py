"""Forms that ask for secrets: names, titles and formats, disguised ones too (ASI09)."""

from __future__ import annotations

import pytest

from firewall.core.jsonvalue import JSON
from firewall.core.points import Point
from firewall.detect.form_review import FORM_CHARS, asks_secret, names_secret, review
from firewall.detect.scan import PatternScanner

ASK, ANSWER = Point.MCP_ELICITATION_ASK, Point.MCP_ELICITATION_ANSWER


def form(name: str, **field: JSON) -> JSON:
    schema: JSON = {"type": "object", "properties": {name: {"type": "string", **field}}}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "elicitation/create",
        "params": {"mode": "form", "message": "Please fill in", "requestedSchema": schema},
    }


@pytest.mark.parametrize(
    "text",
    [
        "password", "userPassword", "PASSWORD", "new-password", "api key", "apiKey", "X-API-KEY", "client_secret", "userPIN",
        "login pin", "2FA", "CVV", "card", "creditCard", "ssn", "sshKey", "accessToken", "pa\u200bssword", "p\u0430ssword",
        "ｐａｓｓｗｏｒｄ", "Contraseña", "пароль", "密码", "パスワード",
    ],
)  # fmt: skip
def test_these_ask_for_a_secret(text: str) -> None:
    assert names_secret(text)


@pytest.mark.parametrize(
    "text", ["branch", "opinion", "tokenizer", "discard", "postcode", "keyboard", "spinner", "key"]
)
def test_these_do_not(text: str) -> None:
    assert not names_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "Please enter your password.", "Type your GitHub account password below", "Paste the API key here",
        "To go on, provide us with the 3-digit CVV", "We need your one-time code", "confirm your new passphrase", "Do not worry, enter your password",
        "Ent\u0435r y\u043eur p\u0430ssword", "Enter your pass\u200bword",
    ],
)  # fmt: skip
def test_these_sentences_ask_for_a_secret(text: str) -> None:
    assert asks_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "We will never ask you to enter your password.", "Do not type your password here.", "Enter a name for the API key",
        "Which branch?", "Enter the label of the secret", "Your password expires in 3 days; shall I open the page?",
        "Confirm that the release may go out",
    ],
)  # fmt: skip
def test_these_sentences_do_not(text: str) -> None:
    assert not asks_secret(text)


def test_a_message_that_asks_counts_whatever_the_field_is_called() -> None:
    body = form("answer")
    assert review(body, ASK) == []
    body["params"]["message"] = 'The server "x" asks: Please enter your account password'  # type: ignore[index,call-overload]
    assert [f.pointer for f in review(body, ASK)] == ["/params/message"]
    assert [f.pointer for f in review(form("a", description="Type your password"), ASK)] == [
        "/params/requestedSchema/properties/a/description"
    ]


def test_names_titles_and_formats_are_read() -> None:
    assert [f.pointer for f in review(form("password"), ASK)] == ["/params/requestedSchema/properties/password"]
    assert [f.pointer for f in review(form("a", title="Your API key"), ASK)] == [
        "/params/requestedSchema/properties/a/title"
    ]
    assert len(review(form("a", format="password"), ASK)) == 1
    assert review(form("a", title="Branch", description="never your password"), ASK) == []


def test_a_form_inside_an_input_request_is_read() -> None:
    inner = form("otp")
    body: JSON = {"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", "inputRequests": {"a": inner}}}
    assert [f.rule for f in review(body, ASK)] == ["review.secret_field"]


def test_the_names_in_an_answer_are_read() -> None:
    body: JSON = {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"action": "accept", "content": {"branch": "a", "password": "b"}},
    }
    assert [f.pointer for f in review(body, ANSWER)] == ["/result/content/password"]


def test_a_form_that_is_too_long_to_judge_counts_as_one_that_asks() -> None:
    assert len(review(form("a", title="x" * (FORM_CHARS + 1)), ASK)) == 1
    assert review(form("a", title="x" * (FORM_CHARS - 100)), ASK) == []


def test_the_scanner_reviews_forms_although_no_pattern_matches(scanner: PatternScanner) -> None:
    assert [f.rule for f in scanner.scan(form("a", title="Passcode"), ASK, "t")] == ["review.secret_field"]
    assert scanner.scan(form("a", title="Passcode"), Point.MCP_TOOL_RESULT, "t") == []
