"""The library's module, with streams as long as anybody takes them, and an ear for who gives up.

with Pouring() as module:
    module.told         octets of titles that it got rid of, and ...
    module.heard        ... that it has taken in
    module.go           released: what it holds back goes on, or ends as `ends` says
    module.gone_at      when a call ended that its caller gave up
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc

from support.library import Library

GIB = 1 << 30


class Pouring(Library):
    """One replica."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.title = "x" * 65_536
        self.most = GIB
        self.slow = False
        """Of a caller's stream one message is taken, then none before `go`."""
        self.ends: grpc.StatusCode | None = None
        """How a stream is ended at `go`; None: it goes on."""
        self.told = 0
        self.heard = 0
        self.go = threading.Event()
        self.began = threading.Event()
        self.gone = threading.Event()
        self.gone_at = 0.0
        self.ended_at = 0.0

    def again(self, *, title: int = 65_536, slow: bool = False, ends: grpc.StatusCode | None = None) -> None:
        """As for the first call."""
        self.title = "x" * title
        self.slow, self.ends = slow, ends
        self.told = self.heard = 0
        self.go, self.began, self.gone = threading.Event(), threading.Event(), threading.Event()
        self.gone_at = self.ended_at = 0.0

    def _watch(self, context: grpc.ServicerContext) -> None:
        gone = self.gone

        def over() -> None:
            self.gone_at = time.monotonic()
            gone.set()
            self.go.set()

        context.add_callback(over)
        self.began.set()

    def WatchBooks(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Pours; `most` 1: one message, then it waits for `go`."""
        self._watch(context)
        book = self._book(title=self.title)
        if request.most == 1:
            yield book
            self.go.wait(20)
            self.ended_at = time.monotonic()
            if self.ends is not None:
                context.abort(self.ends, "over")
            return
        while self.told < self.most and context.is_active():
            yield book
            self.told += len(self.title)

    def ImportBooks(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Takes in what comes, or one message and then none before `go`."""
        self._watch(context)
        books = 0
        for each in requests:
            books += 1
            self.heard += len(each.title)
            if self.slow:
                self.go.wait(20)
                self.ended_at = time.monotonic()
                if self.ends is not None:
                    context.abort(self.ends, "over")
                self.slow = False
        return self.messages["Summary"](books=books)
