"""What the messages of one method look like to a caller: as protobuf, or as something that has to be made of it."""

from __future__ import annotations

from typing import Final

from flui.translate.schema import Method, Schema


class Unsayable(Exception):  # noqa: N818 - it names what the message is
    """A message of the service cannot be said in the caller's format."""


class Format:
    """Messages as they are, both ways: protobuf, which nobody looks at."""

    __slots__ = ()

    @property
    def opaque(self) -> bool:
        """Nobody looks at the messages, so they may stay compressed."""
        return True

    def ask(self, payload: bytes) -> bytes:
        """A message of the caller as the service takes it.

        Raises:
            Unfit: It does not fit the method.
        """
        return payload

    def tell(self, payload: bytes) -> bytes:
        """A message of the service as the caller takes it.

        Raises:
            Unsayable: It cannot be said so.
        """
        return payload


PROTO: Final = Format()


class Json(Format):
    """Messages in JSON."""

    __slots__ = ("_method", "_schema")

    def __init__(self, method: Method, schema: Schema) -> None:
        self._method = method
        self._schema = schema

    @property
    def opaque(self) -> bool:
        """They are read and written."""
        return False


class Formats:
    """The formats of a module's methods."""

    __slots__ = ("_json", "schema")

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._json: dict[bytes, Json] = {}

    def json(self, path: bytes) -> Json | None:
        """JSON for the method of a path; None when there is no such method, as far as anybody knows."""
        known = self._json.get(path)
        if known is None:
            method = self.schema.methods.get(path)
            if method is None:
                return None
            known = self._json[path] = Json(method, self.schema)
        return known

    def why_not(self, path: bytes) -> str:
        """What a caller is told that asks for a method in JSON that is not known."""
        if not self.schema.methods:
            return "nothing is known of this service's messages, so they cannot be said in JSON"
        service, _, _ = path[1:].partition(b"/")
        return f"there is no such {'method' if service in self.schema.services else 'service'}"
