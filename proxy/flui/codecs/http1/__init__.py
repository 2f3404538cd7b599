"""HTTP/1.1 (RFC 9112), strict, sans I/O: `Http1Server` faces downstream, `Http1Client` upstream."""

from flui.codecs.http1.client import Http1Client
from flui.codecs.http1.server import Http1Server

__all__ = ["Http1Client", "Http1Server"]
