"""A whole relay in memory: `h2` asks, our server codec, the validator, a splice, our client codec, `h2` answers."""

import h2.events
from http2_talk import LIMITS, OK, POST, Peer

from flui.codecs.http2 import Http2Client, Http2Server
from flui.codecs.validate import validate
from flui.model.events import RequestHead
from flui.splice import Splice
from support.rig import DECISION, TRACE


class Relay:
    def __init__(self):
        self.caller = Peer(Http2Server(LIMITS, b"http"))
        self.module = Peer(Http2Client(LIMITS))
        self.splices = {}
        self.held = 0

    def carry(self):
        down, up = self.caller.codec, self.module.codec
        moved = True
        while moved:
            moved = False
            self.caller.carry()
            self.module.carry()
            for e in down.events():
                moved = True
                if isinstance(e, RequestHead):
                    assert validate(e) is None
                    splice = self.splices[e.stream] = Splice(down, e, DECISION, 0.0, TRACE, None)
                    splice.attach(up, 0.0)
                else:
                    self.splices[e.stream].from_down(e)
            for e in up.events():
                moved = True
                next(s for s in self.splices.values() if s.up_stream == e.stream).from_up([e], 0.0)
            self.held = max(self.held, down.queued_octets + up.queued_octets)
        return self


def test_a_grpc_call_passes_whole():
    relay = Relay()
    relay.caller.h2.send_headers(1, [*POST, (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"1S")])
    relay.caller.h2.send_data(1, b"\0\0\0\0\1x", end_stream=True)
    relay.carry()
    asked = relay.module.heard(h2.events.RequestReceived)[0]
    assert {(b"te", b"trailers"), (b"traceparent", TRACE)} <= set(asked.headers)
    relay.module.h2.send_headers(1, [*OK, (b"content-type", b"application/grpc")])
    relay.module.h2.send_data(1, b"\0\0\0\0\1y")
    relay.module.h2.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    relay.carry()
    told = relay.caller.heard(h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded)
    assert [type(e).__name__ for e in told] == ["DataReceived", "TrailersReceived", "StreamEnded"]
    assert relay.splices[1].done


def test_a_long_body_goes_through_with_what_two_windows_hold():
    """threats C7: an upload of 1 MiB to a module that reads, and then does not."""
    relay = Relay()
    relay.caller.h2.send_headers(1, POST)
    sent = got = 0
    while sent < 1 << 20:
        relay.carry()
        for e in relay.module.heard(h2.events.DataReceived):
            got += len(e.data)
            relay.module.h2.acknowledge_received_data(e.flow_controlled_length, 1)
        size = min(relay.caller.h2.local_flow_control_window(1), 16384)
        relay.caller.h2.send_data(1, b"x" * size)
        sent += size
    assert got > 900_000
    while size := min(relay.caller.h2.local_flow_control_window(1), 16384):
        relay.caller.h2.send_data(1, b"x" * size)
        relay.carry()
    assert relay.held <= LIMITS.stream_window_octets


def test_a_cancel_reaches_the_module():
    """threats C1: each reset cancels its upstream request; its sibling goes on."""
    relay = Relay()
    for stream in (1, 3):
        relay.caller.h2.send_headers(stream, POST)
    relay.carry()
    relay.caller.h2.reset_stream(1, 8)
    relay.carry()
    assert [(e.stream_id, e.error_code) for e in relay.module.heard(h2.events.StreamReset)] == [(1, 8)]
    relay.module.h2.send_headers(3, OK, end_stream=True)
    relay.carry()
    assert relay.caller.heard(h2.events.ResponseReceived)[0].stream_id == 3
