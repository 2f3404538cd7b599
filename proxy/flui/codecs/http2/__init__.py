"""HTTP/2 (RFC 9113), strict, sans I/O: `Http2Server` faces downstream, `Http2Client` upstream."""

from flui.codecs.http2.bounds import Bounds
from flui.codecs.http2.client import Http2Client
from flui.codecs.http2.frames import PREFACE
from flui.codecs.http2.server import Http2Server

__all__ = ["PREFACE", "Bounds", "Http2Client", "Http2Server"]
