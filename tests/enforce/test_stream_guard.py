"""Streams: what leaves never depends on how the text was cut, and a finding never leaves in part."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firewall.core.action import Action, Protocol, Resource
from firewall.core.permit import Refusal
from firewall.core.points import Point
from firewall.detect.scan import PatternScanner
from firewall.enforce.stream_guard import open_stream
from tests.support.kit import ALLOW, ScriptedEngine, kit, principal
from tests.support.patterns import PATTERNS

SCANNER = PatternScanner(cache=PATTERNS)
KEY = "AKIA" + "Z7QXRW3KPLM4TVOB"
TEXT = f"Here is what you asked for: {KEY} and some more words after it."


def decide(effect: str):
    """Answer findings with one effect; everything without findings is allowed."""

    def script(asked: dict) -> dict:
        found = asked["context"]["findings"]
        if not found:
            return ALLOW
        reason = {"rule": "t.secret", "effect": effect, "code": "secret", "owasp": [], "severity": 90}
        duties = [{"type": "redact", "pointer": f["pointer"]} for f in found] if effect == "transform" else []
        return {
            **ALLOW,
            "effect": effect,
            "decision": effect != "deny",
            "risk": 90,
            "reasons": [reason],
            "obligations": duties,
        }

    return script


def opening() -> Action:
    resource = Resource(
        "llm_model",
        "p/m",
        "p",
        {"server": "p", "provider": "p", "model": "m", "scope": "llm:invoke", "state": "approved"},
    )
    return Action(Point.LLM_RESPONSE, principal(), "chat", resource, Protocol("llm", "v1", "sse"), {})


def event(text: str) -> dict:
    return {"id": "c1", "choices": [{"index": 0, "delta": {"content": text}}]}


AT = ("choices", 0, "delta", "content")


async def stream(pieces: list[str], effect: str) -> tuple[str, Refusal | None]:
    """Return the text that left, and the refusal that ended the stream if there was one."""
    k = kit(engine=ScriptedEngine(decide(effect)), scanner=SCANNER)
    exchange = k.guard.new_exchange(principal(), "llm")
    guard = await open_stream(k.guard, opening(), exchange)
    assert not isinstance(guard, Refusal)
    left = ""
    for piece in pieces:
        out = await guard.feed(event(piece), AT, piece)
        if isinstance(out, Refusal):
            return left, out
        left += "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in out)
    out = await guard.finish()
    if isinstance(out, Refusal):
        return left, out
    left += "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in out)
    return left, None


def cut(text: str, at: list[int]) -> list[str]:
    points = sorted({p % (len(text) + 1) for p in at} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(points)]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 500), max_size=30))
async def test_a_redacted_stream_is_the_same_however_it_was_cut(at):
    whole, _ = await stream([TEXT], "transform")
    pieces, refusal = await stream(cut(TEXT, at), "transform")
    assert refusal is None
    assert pieces == whole
    assert KEY not in whole
    assert "[redacted:" in whole
    assert whole.startswith("Here is what you asked for: ")
    assert whole.endswith(" and some more words after it.")


@settings(max_examples=30)
@given(st.lists(st.integers(0, 500), max_size=30))
async def test_no_part_of_a_denied_finding_ever_leaves(at):
    left, refusal = await stream(cut(TEXT, at), "deny")
    assert refusal is not None
    assert refusal.rules == ("t.secret",)
    assert "AKIA" not in left


async def test_with_the_inspector_blind_the_same_text_passes():
    """The twin: without a scanner that sees, the key leaves."""
    from tests.support.kit import NoScanner

    class Blind(NoScanner):
        def open_stream(self, point, tenant):
            class Nothing:
                fed = 0

                def feed(self, text):
                    self.fed += len(text)
                    return []

                def safe(self):
                    return self.fed

                def close(self):
                    return []

            return Nothing()

    k = kit(engine=ScriptedEngine(decide("deny")), scanner=Blind())
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    out = await guard.feed(event(TEXT), AT, TEXT)
    assert not isinstance(out, Refusal)
    assert KEY.encode() in out[0].payload


async def test_a_secret_beside_the_text_is_seen_too():
    k = kit(engine=ScriptedEngine(decide("deny")), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    body = event("hello")
    body["system_fingerprint"] = f"x {KEY} y"
    assert isinstance(await guard.feed(body, AT, "hello"), Refusal)


async def test_after_a_refusal_nothing_more_leaves():
    k = kit(engine=ScriptedEngine(decide("deny")), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    first = await guard.feed(event(TEXT + " " * 600), AT, TEXT + " " * 600)
    assert isinstance(first, Refusal)
    assert await guard.feed(event("more"), AT, "more") is first
    assert await guard.finish() is first


@pytest.mark.parametrize("word", ["deny", "approve"])
async def test_a_stream_that_may_not_begin_does_not(word):
    reason = {"rule": "t.no", "effect": word, "code": "no", "owasp": [], "severity": 1}
    answer = {**ALLOW, "effect": word, "decision": False, "risk": 1, "reasons": [reason]}
    k = kit(engine=ScriptedEngine(lambda _i: answer), scanner=SCANNER)
    assert isinstance(await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm")), Refusal)


def clean_only(asked: dict) -> dict:
    found = asked["context"]["findings"]
    if not found:
        return ALLOW
    reason = {"rule": "t.hidden", "effect": "transform", "code": "hidden", "owasp": [], "severity": 40}
    duties = [{"type": "clean", "pointer": f["pointer"]} for f in found]
    return {**ALLOW, "effect": "transform", "risk": 40, "reasons": [reason], "obligations": duties}


@settings(max_examples=30)
@given(st.lists(st.integers(0, 500), max_size=30), st.sampled_from(["\u200b", "\x1c" * 61, "\u200b\x1c\u200b"]))
async def test_a_hidden_character_in_the_middle_of_a_key_does_not_put_the_key_together(at, hidden):
    k = kit(engine=ScriptedEngine(clean_only), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    text = f"take\u200b {KEY[:4]}{hidden}{KEY[4:]} now\u200b"
    left = ""
    for piece in cut(text, at):
        left += "".join(
            orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in await guard.feed(event(piece), AT, piece)
        )
    left += "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in await guard.finish())
    assert KEY not in left
    assert left.replace("\ufffd\ufffd", "\ufffd").replace("\ufffd\ufffd", "\ufffd") == (
        f"take {KEY[:4]}\ufffd{KEY[4:]} now"
    )  # one that holds nothing apart goes without a trace


@pytest.mark.parametrize("piece", ["a\u200b. " * 100, f"x {KEY} " * 100])
async def test_a_stream_with_more_findings_than_are_inspected_ends(piece):
    """Past its bound the inspector reports nothing more: what follows must not leave."""

    def script(asked: dict) -> dict:
        found = asked["context"]["findings"]
        if not found:
            return ALLOW
        reason = {"rule": "t.found", "effect": "transform", "code": "found", "owasp": [], "severity": 90}
        duties = [{"type": "clean" if f["category"] == "hygiene" else "redact", "pointer": "/text"} for f in found]
        return {**ALLOW, "effect": "transform", "risk": 90, "reasons": [reason], "obligations": duties[:1]}

    k = kit(engine=ScriptedEngine(script), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    left: list[bytes] = []
    for text in [*[piece] * 6, f"now {KEY} " + "and more " * 80]:
        out = await guard.feed(event(text), AT, text)
        if isinstance(out, Refusal):
            assert out.rules == ("core.obligation_failed",)
            break
        left += [c.payload for c in out]
    else:
        pytest.fail("the stream went on uninspected")
    assert KEY.encode() not in b"".join(left)


async def test_the_kill_switch_ends_a_stream_that_is_open():
    k = kit(scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    assert not isinstance(await guard.feed(event("on it goes"), AT, "on it goes"), Refusal)
    k.kill_switch.pull("default", "upstream", "p", by="test")
    refusal = await guard.feed(event("and on"), AT, "and on")
    assert isinstance(refusal, Refusal)
    assert refusal.fault.code == "killed"
    assert k.audit.records[-1]["fault"] == "killed"


@pytest.mark.parametrize("follows", [True, False])
async def test_a_text_that_follows_is_not_read_as_one_with_the_text_before(follows):
    """Glued to the last word of the first text the key would be none: nothing is read across the joint."""
    k = kit(engine=ScriptedEngine(decide("transform")), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    out = await guard.feed(event("thought"), AT, "thought")
    if follows:
        out += await guard.finish()
        guard = guard.follow()
    out += await guard.feed(event(KEY + " so"), AT, KEY + " so")
    out += await guard.finish()
    left = "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in out)
    assert left.startswith("thought")
    assert (KEY in left) is not follows


async def test_a_stream_that_was_stopped_stays_stopped_in_what_follows():
    k = kit(engine=ScriptedEngine(decide("deny")), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    await guard.feed(event(TEXT), AT, TEXT)
    assert isinstance(await guard.finish(), Refusal)
    assert isinstance(await guard.follow().feed(event("x"), AT, "x"), Refusal)


async def left_of(groups: list[list[str]], effect: str, *, together: bool) -> tuple[str, bool, list[object]]:
    """Return what left of a stream, whether it was refused, and what was decided on the way."""
    k = kit(engine=ScriptedEngine(decide(effect)), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    assert not isinstance(guard, Refusal)
    left, refused = "", False
    for group in groups:
        pieces = [(event(piece), AT, piece) for piece in group]
        calm = guard.feed_calm(pieces) if together else None
        batches = [calm] if calm is not None else [await guard.feed(*piece) for piece in pieces]
        for out in batches:
            if isinstance(out, Refusal):
                refused = True
            else:
                left += "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in out)
    out = await guard.finish()
    if isinstance(out, Refusal):
        refused = True
    else:
        left += "".join(orjson.loads(c.payload)["choices"][0]["delta"]["content"] for c in out)
    return left, refused, [(p, e, r) for p, e, r in k.telemetry.decisions]


CALM = "The quick brown fox jumps over the lazy dog, twice. " * 3


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.sampled_from([CALM, "a ", "", KEY[:9], KEY[9:], f" {KEY} ", "gr\u00fcn ", "\u200b"]), max_size=6),
        max_size=8,
    ),
    st.sampled_from(["transform", "deny"]),
)
async def test_together_or_one_by_one_the_same_leaves_and_the_same_is_decided(groups, effect):
    assert await left_of(groups, effect, together=True) == await left_of(groups, effect, together=False)


async def test_calm_text_is_taken_together_once_what_stands_around_it_is_known():
    k = kit(scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    pieces = [(event("calm words "), AT, "calm words ")] * 40
    assert guard.feed_calm(pieces) is None  # nobody has looked at what stands around the text
    assert await guard.feed(*pieces[0]) == []
    out = guard.feed_calm(pieces)
    assert out is not None
    assert 0 < len(out) < 40  # the last of it is held back
    assert len(out) + len(await guard.finish()) == 41
    stranger = {**event("calm "), "note": f"use {KEY}"}
    assert guard.feed_calm([(stranger, AT, "calm "), (event("x"), AT, "x")]) is None


async def test_a_stopped_stream_takes_nothing_together():
    k = kit(scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    pieces = [(event("words "), AT, "words ")] * 2
    await guard.feed(*pieces[0])
    assert guard.feed_calm(pieces) is not None
    k.kill_switch.pull("default", "upstream", "p", by="test")
    assert guard.feed_calm(pieces) is None
    refusal = await guard.feed(*pieces[0])
    assert refusal.fault.code == "killed"
    assert sum(r["fault"] == "killed" for r in k.audit.records) == 1


async def test_what_stands_around_a_text_is_inspected_wherever_it_differs():
    k = kit(engine=ScriptedEngine(decide("deny")), scanner=SCANNER)
    guard = await open_stream(k.guard, opening(), k.guard.new_exchange(principal(), "llm"))
    for _ in range(3):
        assert await guard.feed(event("calm "), AT, "calm ") == []
    assert isinstance(await guard.feed({**event("calm "), "id": f"use {KEY} now"}, AT, "calm "), Refusal)
