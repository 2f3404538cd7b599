"""Knows what the module beside us serves, and keeps that fresh while it runs.

    file        read before we listen ──▶ read again whenever it is another one
    reflection  connect ──▶ ask ──▶ keep the connection, idle ──▶ it closes: the module was replaced ──▶ pause, and from the start
                             ▲                │ every minute, where asking costs little
                             └────────────────┘

The pause is 0.1 s and doubles up to 1 s while the module is away or closes what we open, so a new version is known soon after it
listens and nothing turns in circles. What is told is compared by its hash before it is read: the same again changes nothing. What
cannot be used stays out, and what was known stays in force.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from flui.model.api import OFF, Api
from flui.model.config import ConfigError, Limits, Sidecar
from flui.model.topology import APP, Cluster
from flui.model.units import MIB
from flui.routing.pick import Member
from flui.runtime import apifile
from flui.telemetry.families import API_REFRESHES
from flui.telemetry.journal import Journal
from flui.telemetry.meters import Meters
from flui.translate.schema import NO_SCHEMA, Schema
from flui.transport.changes import changes
from flui.transport.tasks import TaskSet
from flui.upstream.connection import Connection
from flui.upstream.dial import DialError, connect
from flui.upstream.reflection import ReflectionError, Shape, ask
from flui.upstream.shared import Shared

if TYPE_CHECKING:
    from flui.translate.rest import RestRoutes

ASK_S: Final = 5.0
"""For everything that a module tells."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 1.0
STEADY_S: Final = 2.0
"""A connection that stayed open so long was no futile one."""
REFRESH_S: Final = 60.0
"""From one look at a module to the next that nothing has caused."""
CHEAP_OCTETS: Final = 1 * MIB
CHEAP_S: Final = 1.0
"""What asking may have cost for that."""
FAILED_S: Final = 1.0
FAILED_MAX_S: Final = 30.0
"""From an answer that was none to the next question, first and at most, if the connection stays."""
FIRST_S: Final = 2.0
"""So long after its start a sidecar may say that it is not ready because the module has not been heard yet, even where it need not be."""

_POLL_S: Final = 2.0
_LIMITS: Final = Limits()
_SHOWN: Final = 20
"""Services that a line of the journal names."""


class ApiWatch:
    """What is known of one module. Made with the sidecar; `begin` before it listens, `follow` when it does, `tune` at each reload."""

    __slots__ = (
        "_api",
        "_begun_at",
        "_changed",
        "_cluster",
        "_connect_s",
        "_heard",
        "_host",
        "_journal",
        "_meters",
        "_random",
        "_said",
        "_seen",
        "_start",
        "_task",
        "_wrong",
        "routes",
        "why",
    )

    def __init__(self, config: Sidecar, journal: Callable[[], Journal], meters: Meters, changed: Callable[[], None]) -> None:
        """Nothing is known yet.

        Args:
            config: In force.
            journal: The one to write to.
            meters: Count what came of asking.
            changed: Told whenever `schema` is another one, but not by `begin` and `tune`.
        """
        self._journal = journal
        self._meters = meters
        self._changed = changed
        self._random = Random(os.urandom(16))  # noqa: S311 - spreading attempts over time
        self._task: asyncio.Task[None] | None = None
        self._start: Callable[[], asyncio.Task[None]] | None = None
        self._said = ""
        """What the journal was told last: it is told no fault twice in a row."""
        self._seen = b""
        """Hash of what was told last, or what tells one file from another."""
        self._wrong = ""
        """Why that could not be used; empty: it is in force."""
        self._heard = False
        """Asking has led to something, if only to the knowledge that there is nothing."""
        self._begun_at = time.monotonic()
        self.routes: RestRoutes | None = None
        """What the module serves, and the REST routes that it has by it; None: nothing is known."""
        self.why = ""
        """Why no more is known than is known; empty: all is well."""
        self._api: Api
        self._cluster: Cluster | None
        self._take(config)

    def _take(self, config: Sidecar) -> None:
        self._api = config.api
        self._cluster = next((cluster for cluster in config.clusters if cluster.name == APP), None)
        self._host = config.service.encode()
        self._connect_s = config.timeouts.connect_s

    def _source(self) -> tuple[object, ...]:
        """From where everything is known."""
        cluster = self._cluster
        return (self._api.descriptors, *((cluster.endpoints, cluster.protocol) if cluster is not None else ()))

    # What others ask.

    @property
    def schema(self) -> Schema:
        """What the module serves, as far as it is known; NO_SCHEMA: nothing is."""
        return self.routes.schema if self.routes is not None else NO_SCHEMA

    @property
    def is_off(self) -> bool:
        """Nothing is to be known."""
        return self._api.descriptors == OFF

    @property
    def lacking(self) -> str:
        """Why the sidecar is not ready; empty: for no reason of ours."""
        if self.schema is not NO_SCHEMA or self.is_off:
            return ""
        if self._api.required:
            return f"api: {self.why or 'the module has not told its shape yet'}"
        waits = not self._heard and time.monotonic() - self._begun_at < FIRST_S
        return "api: the module has not told its shape yet" if waits else ""

    def told(self) -> str:
        """In words what is known, and from where."""
        schema = self.schema
        if self.is_off:
            return "off"
        if schema is NO_SCHEMA:
            return self.why or "the module has not told its shape yet"
        known = f"{_count(len(schema.services), 'service')}, {_count(len(schema.methods), 'method')}, from {schema.origin}"
        return f"{known}; but now {self.why}" if self.why else known

    # The course of things.

    async def begin(self) -> None:
        """Reads the descriptor set file, if there is one, so that the first request finds it read."""
        if self._api.file:
            self._seen = await asyncio.to_thread(_stamp, self._api.file)
            try:
                await self._read(self._api.file)
            except Exception as error:  # noqa: BLE001 - the sidecar starts, and says that it is not ready
                self._broke(error)

    def follow(self, tasks: TaskSet) -> None:
        """Keeps fresh from now on what is known, until `tasks` end."""
        self._begun_at = time.monotonic()
        self._start = lambda: tasks.start(self._follow())
        self._restart()

    def tune(self, config: Sidecar) -> None:
        """Goes on under another configuration. What is known of a module stays, unless nothing is to be known any more."""
        before = self._source()
        self._take(config)
        if before == self._source():
            return
        if self.is_off:
            self.routes = None
        self.why = self._said = self._wrong = ""
        self._seen = b""
        self._restart()

    def _restart(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._start is not None and not self.is_off:
            self._task = self._start()

    async def _follow(self) -> None:
        """Never ends, and begins anew should it fail: a module that is replaced must not go unnoticed for one bad turn."""
        pause = FAILED_S
        while True:
            began = time.monotonic()
            try:
                if self._api.file:
                    await self._follow_file(self._api.file)
                else:
                    await self._follow_module()
            except Exception as error:  # noqa: BLE001 - the edge of a task
                self._broke(error)
            if time.monotonic() - began >= FAILED_MAX_S:
                pause = FAILED_S
            await asyncio.sleep(pause)
            pause = min(2 * pause, FAILED_MAX_S)

    # A file.

    async def _follow_file(self, path: str) -> None:
        async with aclosing(changes({_folder(path)}, _POLL_S, debounce_ms=100)) as ticks:
            async for _ in ticks:
                stamp = await asyncio.to_thread(_stamp, path)
                if stamp != self._seen:
                    self._seen = stamp
                    if await self._read(path):
                        self._changed()

    async def _read(self, path: str) -> bool:
        """Reads a file; whether `schema` is another one now."""
        try:
            routes = await asyncio.to_thread(apifile.read, path)
        except ConfigError as error:
            problem = error.problems[0]
            self._refused(f"{problem.file}: {problem.what}; {problem.fix}")
            return False
        return self._took(routes)

    # A module.

    async def _follow_module(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            began = time.monotonic()
            await self._session()
            pause = FIRST_PAUSE_S if time.monotonic() - began >= STEADY_S else min(2 * pause, LONGEST_PAUSE_S)
            await asyncio.sleep(pause * (0.5 + self._random.random() / 2))

    async def _session(self) -> None:
        """One connection, from its beginning to its end."""
        cluster = self._cluster
        assert cluster is not None, "there is an api only where there is a module"
        keeper = _Keeper()
        member = Member(cluster.endpoints[0])
        try:
            connection = await connect(keeper, member, cluster, None, _LIMITS, self._connect_s)
        except DialError as error:
            self._failed(f"the module cannot be reached ({error})")
            return
        assert isinstance(connection, Shared), "reflection is asked where HTTP/2 is spoken"
        try:
            again = FAILED_S
            while True:
                wait = await self._ask(connection)
                if wait < 0:
                    wait = again
                    again = min(2 * again, FAILED_MAX_S)
                elif wait:
                    again = FAILED_S
                if await keeper.is_gone_within(wait) or not connection.has_room:
                    return
        finally:
            if connection.busy or connection.lost:
                connection.close()
            else:
                connection.drain()

    async def _ask(self, connection: Shared) -> float:
        """Asks once.

        Returns:
            Seconds to the next time; 0: there is none while this connection stays; below 0: it failed.
        """
        began = time.monotonic()
        try:
            shape = await ask(connection, self._host, ASK_S)
        except ReflectionError as error:
            if error.absent:
                self._absent(str(error))
                return 0.0
            self._failed(str(error))
            return -1.0
        cost_s = time.monotonic() - began
        await self._hear(shape)
        return REFRESH_S if shape.octets <= CHEAP_OCTETS and cost_s <= CHEAP_S else 0.0

    async def _hear(self, shape: Shape) -> None:
        seen = _hash(shape)
        if seen == self._seen:
            self._meters.count(API_REFRESHES, "refused" if self._wrong else "unchanged")
            self.why = self._wrong
            return
        self._seen = seen
        try:
            routes = await asyncio.to_thread(apifile.understood, shape.files, shape.services, "reflection")
        except apifile.UnusableError as error:
            self._refused(f"what the module tells of itself cannot be used: {error}")
            return
        except Exception as error:
            self._wrong = _unforeseen(error)
            raise
        if self._took(routes):
            self._changed()

    # What came of it.

    def _took(self, routes: RestRoutes) -> bool:
        schema = routes.schema
        self._heard = True
        self.why = self._said = self._wrong = ""
        if (schema.version, schema.services) == (self.schema.version, self.schema.services):
            self._meters.count(API_REFRESHES, "unchanged")
            return False
        self.routes = routes
        self._meters.count(API_REFRESHES, "changed")
        services = sorted(name.decode() for name in schema.services)
        shown = ", ".join(services[:_SHOWN]) + (" …" if len(services) > _SHOWN else "")
        self._journal().info("api taken up", services=shown, methods=len(schema.methods), version=schema.version, origin=schema.origin)
        for mistake in routes.mistakes:
            self._journal().warn("api rule left out", why=mistake, origin=schema.origin)
        return True

    def _refused(self, why: str) -> None:
        """What was told cannot be used."""
        self._meters.count(API_REFRESHES, "refused")
        self._wrong = why
        self._note(why, "api refused", warns=True)

    def _absent(self, why: str) -> None:
        """The module has no reflection: where that is fine nobody is warned."""
        self._meters.count(API_REFRESHES, "absent")
        self._note(why, "api not known", warns=self._api.required or self.schema is not NO_SCHEMA)

    def _failed(self, why: str) -> None:
        """It was not told."""
        self._meters.count(API_REFRESHES, "failed")
        self._note(why, "api not known", warns=self._api.required)

    def _broke(self, error: Exception) -> None:
        """Something went wrong that nobody foresaw."""
        self._journal().error("chore failed", what="watch api", error=f"{type(error).__name__}: {error}")
        self._failed(_unforeseen(error))

    def _note(self, why: str, event: str, *, warns: bool) -> None:
        self._heard = True
        self.why = why
        if why == self._said:
            return
        self._said = why
        write = self._journal().warn if warns else self._journal().info
        write(event, why=why, in_force=self.schema.version)


class _Keeper:
    """Keeps no connection, and knows when its own is gone."""

    __slots__ = ("_gone",)

    def __init__(self) -> None:
        self._gone = asyncio.Event()

    def forget(self, connection: Connection) -> None:
        """See `Keeper`."""
        del connection
        self._gone.set()

    async def is_gone_within(self, seconds: float) -> bool:
        """Waits for it, at most so long; 0: as long as it takes."""
        try:
            async with asyncio.timeout(seconds or None):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True


def _unforeseen(error: Exception) -> str:
    return f"what the module serves cannot be read ({type(error).__name__}: {error})"


def _hash(shape: Shape) -> bytes:
    digest = hashlib.sha256()
    for part in (*(service.encode() for service in shape.services), b"", *shape.files):
        # threats D7: length-prefixed, so that no two are written alike
        digest.update(b"%d:" % len(part) + part)
    return digest.digest()


def _folder(path: str) -> str:
    return str(Path(path).parent)


def _stamp(path: str) -> bytes:
    try:
        stat = Path(path).stat()
    except OSError:
        return b"-"
    return b"%d %d %d" % (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
