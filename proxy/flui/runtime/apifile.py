"""Descriptors as what they mean: from a descriptor set file, or from what a module has told.

The protobuf library that reads them is imported here and nowhere before: a sidecar whose module is not translated does without.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flui.codecs import protobuf
from flui.codecs.grpc_reflection import APART, outline
from flui.model.config import ConfigError, Problem
from flui.model.units import MIB
from flui.translate.wire import varint

if TYPE_CHECKING:
    from flui.translate.rest import RestRoutes

MAX_OCTETS: Final = 10 * MIB
"""Largest descriptor set that is read; what a module may tell of itself is as much."""

_MAKE: Final = "make it with `protoc --include_imports --descriptor_set_out=FILE`"


class UnusableError(Exception):
    """Why descriptors mean nothing to us, and what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what = what
        self.fix = fix


def read(path: str) -> RestRoutes:
    """What a descriptor set file says.

    Raises:
        ConfigError: It cannot be read, is too large or no descriptor set, or what it says cannot be used.
    """
    try:
        with Path(path).open("rb") as file:
            octets = file.read(MAX_OCTETS + 1)
    except OSError as error:
        raise ConfigError((Problem(path, 0, "", f"cannot be read ({error.strerror or error})", _MAKE),)) from error
    try:
        if len(octets) > MAX_OCTETS:
            raise UnusableError(f"is larger than {MAX_OCTETS // MIB} MiB", "leave out what the module does not serve")
        files = _files(octets)
        services = sorted({service for each in files if (told := outline(each)) is not None for service in told.services} - APART)
        if not services:
            raise UnusableError("there is no service in it", "compile the files that have the module's services")
        return understood(files, services, Path(path).name)
    except UnusableError as error:
        raise ConfigError((Problem(path, 0, "", error.what, error.fix),)) from error


def _files(octets: bytes) -> list[bytes]:
    """Those of a FileDescriptorSet: `repeated FileDescriptorProto file = 1`."""
    found = protobuf.fields(octets)
    files = [held for number, wire, _, held in found or () if number == 1 and wire == protobuf.OCTETS]
    if not files or any(outline(file) is None for file in files):
        raise UnusableError("is no descriptor set", _MAKE)
    return files


def understood(files: Sequence[bytes], services: Sequence[str], origin: str) -> RestRoutes:
    """What descriptors mean. Takes a few milliseconds for each thousand messages: never called on the event loop.

    Args:
        files: Each a FileDescriptorProto.
        services: Full names of those that are served.
        origin: From where they are.

    Returns:
        The schema, and the REST routes that it has.

    Raises:
        UnusableError: They contradict themselves or lack a part, or there is no library to read them with.
    """
    try:
        from google.protobuf.message import EncodeError  # noqa: PLC0415 - protobuf is loaded only where it is needed

        from flui.translate.descriptors import DescriptorError, schema_of  # noqa: PLC0415 - as that
        from flui.translate.rest import RestRoutes  # noqa: PLC0415 - as what is behind it
    except ModuleNotFoundError as error:
        raise UnusableError(f"descriptors cannot be read without the package {error.name}", "install flui-mesh[grpc]") from error
    try:
        schema = schema_of(files, origin, services)
    except DescriptorError as error:
        raise UnusableError(str(error), _MAKE) from error
    except (UnicodeDecodeError, EncodeError, KeyError, RecursionError) as error:
        # What the library lets pass into its pool and cannot show afterwards.
        raise UnusableError(f"descriptors do not hold together ({type(error).__name__})", _MAKE) from None
    schema.packed = zlib.compress(b"".join([b"\x0a" + varint(len(file)) + file for file in files]))
    return RestRoutes(schema)


def of_set(octets: bytes, services: Sequence[str], origin: str) -> RestRoutes:
    """What a descriptor set means, of which these services are served.

    Raises:
        UnusableError: As `understood` says, or it is no descriptor set.
    """
    return understood(_files(octets), services, origin)
