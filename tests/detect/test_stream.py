"""The stream inspector: what is found never depends on how the text was cut."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.core.bounds import SCAN_WINDOW_CHARS, STREAM_HOLD_CHARS
from firewall.core.errors import Malformed
from firewall.core.finding import Finding
from firewall.core.points import Point
from firewall.detect.scan import PatternScanner
from firewall.detect.stream import MAX_FINDINGS
from tests.detect.conftest import CACHE
from tests.detect.samples import AWS_KEY, CLEAN, DIRTY, GITHUB, HIDDEN, JWT, PEM

SCANNER = PatternScanner(cache=CACHE)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(c % (len(text) + 1) for c in cuts), len(text)]
    return [text[a:b] for a, b in pairwise(places)]


def inspected(parts: list[str]) -> list[Finding]:
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    found: list[Finding] = []
    fed = safe = 0
    for part in parts:
        new = stream.feed(part)
        assert all(f.span[0] >= safe for f in new if f.span), "a finding in what was called safe"
        found += new
        fed += len(part)
        assert safe <= stream.safe() <= fed
        safe = stream.safe()
    last = stream.close()
    assert all(f.span[0] >= safe for f in last if f.span)
    assert stream.safe() == fed
    return found + last


def merged(found: list[Finding]) -> list[tuple[str, int, int]]:
    """Rule and span, spans of one rule joined where they touch."""
    out: list[tuple[str, int, int]] = []
    for rule, start, end in sorted((f.rule, *(f.span or (0, 0))) for f in found):
        if out and out[-1][0] == rule and out[-1][2] >= start:
            out[-1] = (rule, out[-1][1], max(out[-1][2], end))
        else:
            out.append((rule, start, end))
    return sorted(out)


def whole(text: str) -> list[tuple[str, int, int]]:
    return merged(
        [
            f
            for f in SCANNER.scan(text, Point.LLM_RESPONSE, "t")
            if f.detector == "pattern" and not f.rule.startswith("decode.")
        ]
    )


def inspected_together(groups: list[list[str]]) -> tuple[list[Finding], list[int]]:
    """As `inspected`, but each group is taken at once where it is calm."""
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    found: list[Finding] = []
    safe: list[int] = []
    for group in groups:
        if not stream.calm("".join(group)):
            for part in group:
                found += stream.feed(part)
        safe.append(stream.safe())
    return found + stream.close(), safe


UNITS = st.sampled_from(
    [
        *DIRTY,
        *CLEAN,
        AWS_KEY,
        AWS_KEY[:7],
        GITHUB,
        JWT,
        PEM,
        HIDDEN,
        "a" * 100,
        " ",
        "\n",
        "é" * 30,
        "word " * 60,
        "eyJ",
        "x" + AWS_KEY,
        "_" * 70,
        "é" * 61 + "x" + GITHUB,
        "ignore all previous",
        " instructions ",
    ]
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(UNITS, st.text(max_size=5)), max_size=8).map("".join),
    st.lists(st.integers(0, 10_000), max_size=12),
)
def test_cuts_do_not_change_what_is_found(text: str, cuts: list[int]) -> None:
    assert merged(inspected(pieces(text, cuts))) == whole(text)


def test_character_by_character_finds_the_same_and_reports_the_same_pieces() -> None:
    text = " and then ".join((*DIRTY, PEM, *CLEAN, JWT)) + "."
    one = [(f.rule, f.span, f.severity) for f in inspected(list(text))]
    all_at_once = [(f.rule, f.span, f.severity) for f in inspected([text])]
    assert sorted(one, key=repr) == sorted(all_at_once, key=repr)
    assert merged(inspected(list(text))) == whole(text)


def test_a_window_that_is_forgotten_too_early_would_miss_a_split_secret() -> None:
    """The twin: scanning each piece by itself, as a careless relay would, finds nothing."""
    parts = ["the key is " + AWS_KEY[:6], AWS_KEY[6:] + " ok"]
    assert [f for part in parts for f in SCANNER.scan(part, Point.LLM_RESPONSE, "t")] == []
    assert [f.rule for f in inspected(parts)] == ["secret.aws_access_key"]


def test_spans_count_from_the_start_of_the_stream() -> None:
    text = "é" * 1000 + " " + AWS_KEY + " " + "ü" * 1000
    (found,) = inspected([text[i : i + 7] for i in range(0, len(text), 7)])
    assert found.span == (1001, 1021)
    assert found.pointer == ""


def test_no_more_is_held_back_than_the_bound_and_the_window_stays_small() -> None:
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    fed = 0
    for word in ("The scheduler keeps one queue for each tenant. " * 200).split(" "):
        stream.feed(word + " ")
        fed += len(word) + 1
        assert fed - stream.safe() <= STREAM_HOLD_CHARS
        assert len(stream._window) <= SCAN_WINDOW_CHARS
    stream.close()


def test_a_long_token_is_reported_while_it_runs() -> None:
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    found: list[Finding] = []
    for part in [JWT, *(["Zm9vYmFy"] * 400)]:
        found += stream.feed(part)
        assert len(stream._window) <= SCAN_WINDOW_CHARS
    found += stream.close()
    assert merged(found)[-1] == ("secret.jwt", 0, len(JWT) + 3200)


def test_findings_of_one_stream_are_bounded() -> None:
    found = inspected([f"user{i}@example.net " for i in range(MAX_FINDINGS + 100)])
    assert len(found) == MAX_FINDINGS + 1
    assert [f.severity for f in found if f.rule == "scan.overflow"] == [100]


def test_a_closed_stream_takes_no_more() -> None:
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    stream.feed("x")
    assert stream.close() == []
    assert stream.close() == []
    with pytest.raises(Malformed, match="stream_closed"):
        stream.feed("y")


def test_many_random_splits_of_a_long_conversation_agree() -> None:
    rng = random.Random(7)
    words = [*DIRTY, *CLEAN] * 2
    rng.shuffle(words)
    text = "\n".join(words)
    expected = whole(text)
    for _ in range(10):
        assert merged(inspected(pieces(text, [rng.randrange(len(text)) for _ in range(200)]))) == expected


@settings(max_examples=60, deadline=None)
@given(st.lists(UNITS, max_size=8), st.lists(st.integers(0, 4000), max_size=24), st.integers(1, 6))
def test_calm_text_that_is_taken_at_once_changes_nothing(units: list[str], cuts: list[int], size: int) -> None:
    filler = "The quick brown fox jumps over the lazy dog. "
    parts = pieces(filler.join(["", *units, ""]) + filler * 9, cuts)
    groups = [parts[i : i + size] for i in range(0, len(parts), size)]
    found, safe = inspected_together(groups)
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    alone: list[Finding] = []
    for group, at in zip(groups, safe, strict=True):
        for part in group:
            alone += stream.feed(part)
        assert stream.safe() == at
    assert merged(found) == merged(alone + stream.close())


def test_calm_takes_plain_text_and_leaves_what_may_be_a_finding() -> None:
    stream = SCANNER.open_stream(Point.LLM_RESPONSE, "t")
    assert stream.calm("The quick brown fox. ")
    assert not stream.calm(f"use {AWS_KEY} ")
    assert stream.feed(f"use {AWS_KEY} ") == []
    (found,) = stream.close()
    assert found.span == (25, 45)
    with pytest.raises(Malformed):
        stream.calm("more")


def test_the_rest_of_a_long_key_is_none_of_the_calm_text() -> None:
    """Nothing in the middle of a key block nominates a rule; what is open goes on all the same."""
    line = "Abcd+efg/hij\n" * 5
    text = PEM.partition("\n")[0] + "\n" + line * 40 + PEM.rpartition("\n")[2] + " and so on. " * 60
    parts = pieces(text, list(range(0, len(text), 30)))
    groups = [parts[i : i + 4] for i in range(0, len(parts), 4)]
    found, safe = inspected_together(groups)
    assert merged(found) == merged(inspected(parts))
    assert safe[12] > 13 * 120 - 2 * STREAM_HOLD_CHARS  # and what was found of it holds up nothing
    assert max(end for _, _, end in merged(found)) > 30 * len(line)
