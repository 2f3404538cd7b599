"""gRPC's server reflection (`grpc.reflection.v1`): what is asked of a module about its own shape, and what it tells.

    message ServerReflectionRequest  { oneof { string file_by_filename = 3; string file_containing_symbol = 4; string list_services = 7; } }
    message ServerReflectionResponse { oneof { FileDescriptorResponse file_descriptor_response = 4; // repeated bytes = 1
                                               ListServiceResponse list_services_response = 6;      // repeated { string name = 1; } = 1
                                               ErrorResponse error_response = 7; } }                // int32 error_code = 1; string = 2

`v1alpha` has the same messages under another name. Files are left as they are: octets of a FileDescriptorProto, of which only
what it is called, what it imports and which services it has is looked at here.
"""

from __future__ import annotations

from typing import Final

from flui.codecs.protobuf import OCTETS, VARINT, fields, octets

SERVICES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""Newest first."""
PATHS: Final = tuple(f"/{service}/ServerReflectionInfo".encode() for service in SERVICES)
APART: Final = frozenset((*SERVICES, "grpc.health.v1.Health"))
"""Services that gRPC's libraries bring along: they are no part of what a module is for."""


def list_services() -> bytes:
    """Asks which services there are."""
    return octets(7, b"*")


def file_named(name: str) -> bytes:
    """Asks for a file."""
    return octets(3, name.encode())


def file_with(symbol: str) -> bytes:
    """Asks for the file in which a service, or anything else that has a full name, is told."""
    return octets(4, symbol.encode())


class Told:
    """One answer. Exactly one of its parts is there; of an answer to what we never asked, none is."""

    __slots__ = ("error", "files", "services")

    def __init__(self) -> None:
        self.files: list[bytes] = []
        """The file that was asked for first, and perhaps what it imports."""
        self.services: list[str] = []
        """Full names."""
        self.error = 0
        """gRPC's number for what went wrong; 0: nothing did."""


def told(message: bytes) -> Told | None:
    """What an answer says; None when it is malformed."""
    found = fields(message)
    if found is None:
        return None
    answer = Told()
    for number, wire, _, held in found:
        if wire != OCTETS or number not in {4, 6, 7}:
            continue
        inner = fields(held)
        if inner is None:
            return None
        for part, kind, value, octet in inner:
            if part != 1:
                continue
            if number == 4 and kind == OCTETS:
                answer.files.append(octet)
            elif number == 6 and kind == OCTETS:
                name = _name(octet)
                if name is None:
                    return None
                answer.services.append(name)
            elif number == 7 and kind == VARINT:
                answer.error = value
    return answer


def _name(message: bytes) -> str | None:
    for number, wire, _, held in fields(message) or ():
        if number == 1 and wire == OCTETS:
            return _text(held)
    return None


class Outline:
    """What is looked at of a file."""

    __slots__ = ("imports", "name", "services")

    def __init__(self, name: str, imports: tuple[str, ...], services: tuple[str, ...]) -> None:
        self.name = name
        """`shop/stock.proto`."""
        self.imports = imports
        """Names of files."""
        self.services = services
        """Full names."""


def outline(file: bytes) -> Outline | None:
    """Of a FileDescriptorProto; None when it is malformed."""
    found = fields(file)
    if found is None:
        return None
    name = package = ""
    imports: list[str] = []
    services: list[str] = []
    for number, wire, _, held in found:
        if wire != OCTETS or number not in {1, 2, 3, 6}:
            continue
        said = _name(held) if number == 6 else _text(held)
        if said is None:
            return None
        if number == 1:
            name = said
        elif number == 2:
            package = said
        elif number == 3:
            imports.append(said)
        else:
            services.append(said)
    return Outline(name, tuple(imports), tuple(f"{package}.{service}" if package else service for service in services)) if name else None


def _text(value: bytes) -> str | None:
    """A string of protobuf; None when it is no UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None
