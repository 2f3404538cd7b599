"""How a caller speaks to a gRPC module, where it is not gRPC."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flui.model.events import RequestHead


class Dialect(IntEnum):
    """What a request is said in; `flui explain`, the access log and the metrics name it by its `label`."""

    GRPC_WEB = 0
    GRPC_WEB_TEXT = 1
    CONNECT = 2
    """One message each way, as it is: the body is the message."""
    CONNECT_STREAM = 3
    """Messages in envelopes."""
    REST = 4
    GRPC = 5
    """Of a call to a module that speaks HTTP and not gRPC."""

    @property
    def label(self) -> str:
        """In lower case, with dashes."""
        return self.name.lower().replace("_", "-")


class Spoken:
    """A request, and the call that it means. Found once for all requests that say the same on one connection."""

    __slots__ = ("dialect", "epoch", "head")

    dialect: Dialect
    head: RequestHead
    """Of the call, complete and validated: what is decided on, and a copy of which is sent on."""
    epoch: int
    """Of the snapshot under which it means this."""
