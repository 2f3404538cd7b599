"""What only one of the text framings has: lines, events, the end of a body."""

import pytest

from flui.framing.base import Message, MessageLimits
from flui.framing.document import DocumentFraming
from flui.framing.ndjson import NdjsonFraming
from flui.framing.sse import SseFraming
from flui.model.fault import Fault


def read(framing, octets):
    reader = framing(MessageLimits(message_octets=1000)).reader([], Fault.MALFORMED)
    for at in range(len(octets)):
        reader.receive(octets[at : at + 1])
    reader.finish()
    found = []
    while (message := reader.take()) is not None:
        found.append(message.payload)
    assert reader.fault is None
    return found


@pytest.mark.parametrize(
    ("octets", "lines"),
    [
        (b"", []),
        (b"1", [b"1"]),
        (b"1\n2\n", [b"1", b"2"]),
        (b"1\r\n2\r\n", [b"1", b"2"]),
        (b"\n \t\r\n1\n\n\n2", [b"1", b"2"]),
        (b" 1 \n", [b" 1 "]),
        (b"\r1\n", [b"\r1"]),
    ],
)
def test_lines(octets, lines):
    assert read(NdjsonFraming, octets) == lines


@pytest.mark.parametrize(
    ("octets", "events"),
    [
        (b"", []),
        (b"data: a\n\n", [b"a"]),
        (b"data:a\r\rdata:b\r\n\r\n", [b"a", b"b"]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event", [b"first event", b"second event"]),
        (b"data\n\ndata\ndata\n\ndata:", [b"", b"\n"]),
        (b"data:test\n\ndata: test\n\n", [b"test", b"test"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbbdata: a\n\n", []),
        (b"event: add\ndata: 1\nretry: 5\n\n", [b"1"]),
        (b"dataset: 1\n\n", []),
        (b"data: a\n", []),
    ],
)
def test_events_are_those_of_the_standard_and_its_examples(octets, events):
    assert read(SseFraming, octets) == events


def test_a_message_that_its_framing_cannot_say_is_refused():
    limits = MessageLimits()
    assert NdjsonFraming(limits).writer([]).send(Message(b"1\n2")) is Fault.MALFORMED
    assert SseFraming(limits).writer([]).send(Message(b"1\r2")) is Fault.MALFORMED
    document = DocumentFraming(limits).writer([])
    assert document.send(Message(b"1")) is None
    assert document.send(Message(b"2")) is Fault.BODY_TOO_LARGE


def test_lines_of_data_stay_lines():
    writer = SseFraming(MessageLimits()).writer([])
    writer.send(Message(b"1\n\n2"))
    assert writer.take(100) == b"data: 1\ndata: \ndata: 2\n\n"


def test_an_empty_body_is_an_empty_document():
    assert read(DocumentFraming, b"") == [b""]
