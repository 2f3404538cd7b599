"""How a caller speaks to a gRPC module, where it is not gRPC."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flui.model.events import RequestHead


class Dialect(Enum):
    """What a request is said in; `flui explain`, the access log and the metrics name it so."""

    GRPC_WEB = "grpc-web"
    GRPC_WEB_TEXT = "grpc-web-text"
    CONNECT = "connect"
    """One message each way, as it is: the body is the message."""
    CONNECT_STREAM = "connect-stream"
    """Messages in envelopes."""
    REST = "rest"
    GRPC = "grpc"
    """Of a call to a module that speaks HTTP and not gRPC."""


class Spoken:
    """A request, and the call that it means. Found once for all requests that say the same on one connection."""

    __slots__ = ("dialect", "epoch", "head")

    dialect: Dialect
    head: RequestHead
    """Of the call, complete and validated: what is decided on, and a copy of which is sent on."""
    epoch: int
    """Of the snapshot under which it means this."""
