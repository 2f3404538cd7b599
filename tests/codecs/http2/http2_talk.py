"""Raw frames, and `h2` as the peer on the far side of a codec, in memory."""

import h2.config
import h2.connection
import h2.events
import h2.settings
import hpack

from flui.codecs.http2 import Bounds, Http2Client, Http2Server, frames
from flui.model.config import Limits
from flui.model.events import Credit, Data
from support.rig import plain

LIMITS = Limits()
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
OK = [(b":status", b"200")]


def frame(kind, flags=0, stream=0, payload=b""):
    return frames.header(len(payload), kind, flags, stream) + payload


def head(stream, fields=GET, *, end=True, encoder=None, flags=frames.END_HEADERS):
    block = (encoder or hpack.Encoder()).encode(fields)
    return frame(frames.HEADERS, flags | (frames.END_STREAM if end else 0), stream, block)


def body(stream, octets=b"", *, end=False):
    return frame(frames.DATA, frames.END_STREAM if end else 0, stream, octets)


def said(octets):
    """Frames in octets: (type, flags, stream, payload)."""
    if octets.startswith(frames.PREFACE):
        octets = octets[24:]
    told, at = [], 0
    while at < len(octets):
        high, low, kind, flags, stream = frames.HEADER.unpack_from(octets, at)
        end = at + 9 + (high << 8 | low)
        told.append((kind, flags, stream, octets[at + 9 : end]))
        at = end
    assert at == len(octets)
    return told


def resets(octets):
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in said(octets) if kind == frames.RST_STREAM]


def goaways(octets):
    return [
        (int.from_bytes(payload[:4], "big"), int.from_bytes(payload[4:8], "big"))
        for kind, _, _, payload in said(octets)
        if kind == frames.GOAWAY
    ]


def server(limits=LIMITS, bounds=None, **kw):
    """A server codec whose peer has said its preface and SETTINGS."""
    codec = Http2Server(limits, b"http", bounds or Bounds(), **kw)
    codec.receive(frames.PREFACE + frames.settings([]) + frames.SETTINGS_ACK)
    codec.take()
    assert not codec.events()
    return codec


def client(limits=LIMITS, bounds=None, settings=()):
    codec = Http2Client(limits, bounds or Bounds())
    codec.receive(frames.settings(list(settings)) + frames.SETTINGS_ACK)
    codec.take()
    return codec


def heard(codec, credit=True):
    """What a codec has said in events, without Credit; with credit for whatever came."""
    told = codec.events()
    if credit:
        for e in told:
            if isinstance(e, Data):
                codec.send(Credit(e.stream, len(e.chunk)))
    return plain(e for e in told if not isinstance(e, Credit))


class Peer:
    """`h2` on the far side: of a server codec it is the client, and the other way round."""

    def __init__(self, codec, **settings):
        self.codec = codec
        self.events = []
        client_side = isinstance(codec, Http2Server)
        # strict about what it hears; what it says is not looked at, so that it can say anything
        config = h2.config.H2Configuration(
            client_side=client_side,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            split_outbound_cookies=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        if settings:
            self.h2.local_settings.update(settings)
        self.h2.initiate_connection()
        self.carry()

    def carry(self, cut=1 << 30):
        """Carries octets until nobody has any."""
        while True:
            there, back = self.h2.data_to_send(), self.codec.take()
            for at in range(0, len(there), cut):
                self.codec.receive(there[at : at + cut])
            if back:
                self.events += self.h2.receive_data(back)
            if not there and not back:
                return self

    def heard(self, *kinds):
        told, self.events = self.events, []
        return [e for e in told if isinstance(e, kinds)] if kinds else told
