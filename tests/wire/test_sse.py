"""Server-sent events: WHATWG 9.2 and the promise that cutting the bytes changes nothing."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from firewall.core.errors import Malformed
from firewall.wire import sse
from firewall.wire.sse import Event

MAX = 64


def run(chunks: list[bytes], max_event_bytes: int = MAX) -> tuple[list[Event | str], str | None]:
    parser = sse.Parser(max_event_bytes)
    out = [item for chunk in chunks for item in parser.feed(chunk)]
    end = parser.close()
    return [item.code if isinstance(item, Malformed) else item for item in out], end.code if end else None


UNITS = st.sampled_from(
    [
        b"data: one\n\n",
        b"data: one\r\n\r\n",
        b"data: one\r\r",
        b"data:two\ndata: lines\n\n",
        b"event: message\nid: 7\nretry: 10\ndata: {}\r\n\r\n",
        b"event: message\n",
        b"event: message\ndata: 1\n\n",
        b"event: message\ndata: " + b"u" * (MAX - 20) + b"\n\n",
        b"event: message\ndata: " + b"t" * (MAX - 19) + b"\n\n",
        b"event: message\ndata: \xc3\xa9\n\n",
        b"event: message\ndata: \xff\n\n",
        b"retry: 7\n\n",
        b"data: " + b"w" * (MAX - 20) + b"\nevent: message\n\n",
        b"data: " + b"v" * (MAX - 19) + b"\nevent: message\n\n",
        b"event: other\nevent: message\ndata: 1\n\n",
        b"id: 1\ndata:\n\n",
        b"id: only\n\n",
        b"id: bad\0id\n",
        b": comment\n\n",
        b":" + b"c" * (MAX + 1) + b"\n\n",
        b"data: \xc3\xa9\n\n",
        b"data: \xff\n\n",
        b"data: " + b"x" * MAX + b"\n\n",
        b"data: " + b"y" * (MAX - 6) + b"\n\n",
        b"data: " + b"z" * (MAX - 12) + b"\nid: 34\r\n\n",
        b"\xef\xbb\xbf",
        b"data",
        b"unknown: field\n",
        b"retry: soon\n",
        b"retry: 1234567890\n",
        b"\r",
        b"\n",
        b"\r\n",
    ]
)
STREAMS = st.lists(st.one_of(UNITS, st.binary(max_size=4)), max_size=12).map(b"".join)


@given(STREAMS, st.data())
@example(b"data: good\n\ndata: \xff\n\n", None)
def test_what_comes_out_never_depends_on_how_the_bytes_were_cut(stream: bytes, data: st.DataObject | None) -> None:
    whole = run([stream])
    assert run([stream[i : i + 1] for i in range(len(stream))]) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        assert run([stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]) == whole


def test_events_before_an_error_are_kept_and_the_parser_stays_closed() -> None:
    parser = sse.Parser(MAX)
    first, error = parser.feed(b"data: good\n\ndata: \xff\n\ndata: late\n\n")
    assert first == Event(b"good")
    assert isinstance(error, Malformed)
    assert error.code == "sse_not_utf8"
    assert parser.feed(b"data: later\n\n") == []
    assert parser.close() is None


def test_a_parser_that_raises_would_lose_the_good_event() -> None:
    """Twin: judged as one block, the good event before the bad one is gone."""
    with pytest.raises(UnicodeDecodeError):
        b"data: good\n\ndata: \xff\n\n".decode()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Event(b"YHOO\n+2\n10")]),
        (
            b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
            [Event(b"first event", id="1"), Event(b"second event"), Event(b" third event")],
        ),
        (b"data\n\ndata\ndata\n\ndata:", [Event(b""), Event(b"\n")]),
        (b"data:test\n\ndata: test\n\n", [Event(b"test"), Event(b"test")]),
        (b"event: endpoint\ndata: /messages\n\ndata: x\n\n", [Event(b"/messages", "endpoint"), Event(b"x")]),
        (b"event: lost\n\ndata: x\n\n", [Event(b"x")]),
        (b"retry: 3000\nid: 9\ndata:\n\ndata: x\n\n", [Event(b"", id="9", retry_ms=3000), Event(b"x", id="9")]),
        (b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n", [Event(b"x")]),
    ],
)
def test_the_examples_of_the_standard(stream: bytes, events: list[Event]) -> None:
    assert run([stream])[0] == events


def test_the_bound_is_inclusive_and_drips_meet_it_too() -> None:
    assert run([b"data: " + b"x" * (MAX - 7) + b"\n\n"])[0] == [Event(b"x" * (MAX - 7))]
    assert run([b"data: " + b"x" * (MAX - 6) + b"\n\n"])[0] == [Event(b"x" * (MAX - 6))]
    assert run([b"data: " + b"x" * (MAX - 5) + b"\n\n"])[0] == ["sse_event_too_large"]
    assert run([b"data: "] + [b"x"] * MAX)[0] == ["sse_event_too_large"]
    assert run([b"data: x\n"] * MAX)[0] == ["sse_event_too_large"]
    assert run([b": ping\n\n"] * MAX)[0] == []


def test_an_unfinished_event_is_a_cut_stream() -> None:
    assert run([b"data: a\n\n"]) == ([Event(b"a")], None)
    assert run([b"data: a\n\ndata: b\n"]) == ([Event(b"a")], "sse_cut")
    assert run([b"data: a\n\nda"]) == ([Event(b"a")], "sse_cut")


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["", "message", "task"]),
    st.sampled_from(["", "12", "a-b"]),
)
def test_what_is_written_is_read_back(text: str, event: str, event_id: str) -> None:
    (got,) = sse.Parser().feed(sse.encode(text.encode(), event=event, id=event_id))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    assert got == Event(lines, event or "message", event_id)


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_a_field_that_would_start_another_line_is_refused(bad: str) -> None:
    for make in (lambda: sse.encode(b"", event=bad), lambda: sse.encode(b"", id=bad)):
        with pytest.raises(Malformed) as caught:
            make()
        assert caught.value.code == "sse_field"


def test_the_most_common_event_line_counts_and_means_as_every_other() -> None:
    for name in ("message", "another"):
        line = b"event: %b\n" % name.encode()
        fits = b"data: " + b"x" * (MAX - 6 - len(line) + 1) + b"\n" + line + b"\n"
        assert run([fits])[0] == [Event(b"x" * (MAX - 5 - len(line)), name)]
        assert run([fits.replace(b"data: ", b"data: x")])[0] == ["sse_event_too_large"]
    for size, fits in ((MAX - 20, True), (MAX - 19, False)):
        whole = b"event: message\ndata: " + b"x" * size + b"\n\n"
        for stream in (whole, b":\n\n" + whole):  # the first event of a stream is read line by line
            assert run([stream])[0] == [Event(b"x" * size) if fits else "sse_event_too_large"]
    for data in (b"1", b"a\nb", b"a\r\nb", b""):
        assert sse.encode_message(data) == sse.encode(data, event="message")
    assert sse.encode(b"1", event="message", id="7") == b"event: message\nid: 7\ndata: 1\n\n"
    assert sse.encode(b"1", event="other") == b"event: other\ndata: 1\n\n"
