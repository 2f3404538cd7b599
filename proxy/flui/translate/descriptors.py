"""Descriptors become plans: what reflection or a descriptor set says of a module is read once, off the path of any request.

The protobuf library resolves names, editions and presence, in a pool of its own for each schema, so that two versions of a module
never meet. Its objects stop here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
    ServiceDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from flui.translate.http_rules import rules_of
from flui.translate.schema import EnumType, FieldType, Kind, MessageType, Method, Schema
from flui.translate.wire import Malformed

MOST_OF_ONE: Final = 4_096
"""Fields of one message: each has a bit of its own, so that n of them take n² bits."""
MOST_FIELDS: Final = 100_000
"""Fields of all messages together."""

_SPARE: Final = {
    f"google/{name}.proto": f"google.{name.replace('/', '.')}_pb2"
    for name in (
        "protobuf/any", "protobuf/api", "protobuf/descriptor", "protobuf/duration", "protobuf/empty", "protobuf/field_mask",
        "protobuf/source_context", "protobuf/struct", "protobuf/timestamp", "protobuf/type", "protobuf/wrappers",
        "api/annotations", "api/client", "api/field_behavior", "api/http", "api/httpbody", "api/launch_stage", "api/resource",
        "rpc/code", "rpc/error_details", "rpc/status",
    )
}  # fmt: skip
"""Files that are imported everywhere and sent along by few, and the module of a library that has each."""

_ALWAYS: Final = tuple(
    f"google/{name}.proto"
    for name in (
        "protobuf/any", "protobuf/duration", "protobuf/empty", "protobuf/field_mask", "protobuf/struct", "protobuf/timestamp",
        "protobuf/wrappers", "rpc/error_details", "rpc/status",
    )
)  # fmt: skip
"""What an `Any` may hold without a word of it in the module's own files: the details of errors above all."""

_SHAPES: Final[dict[str, dict[int, int]]] = {
    "Any": {1: Kind.STRING, 2: Kind.BYTES},
    "Timestamp": {1: Kind.INT64, 2: Kind.INT32},
    "Duration": {1: Kind.INT64, 2: Kind.INT32},
    "FieldMask": {1: Kind.STRING},
    "Struct": {1: Kind.MESSAGE},
    "Value": {1: Kind.ENUM, 2: Kind.DOUBLE, 3: Kind.STRING, 4: Kind.BOOL, 5: Kind.MESSAGE, 6: Kind.MESSAGE},
    "ListValue": {1: Kind.MESSAGE},
    "Empty": {},
    "DoubleValue": {1: Kind.DOUBLE},
    "FloatValue": {1: Kind.FLOAT},
    "Int64Value": {1: Kind.INT64},
    "UInt64Value": {1: Kind.UINT64},
    "Int32Value": {1: Kind.INT32},
    "UInt32Value": {1: Kind.UINT32},
    "BoolValue": {1: Kind.BOOL},
    "StringValue": {1: Kind.STRING},
    "BytesValue": {1: Kind.BYTES},
}
"""Fields of the well-known messages, which are walked by number."""
_WITHIN: Final = {
    "Value": {5: "Struct", 6: "ListValue"},
    "ListValue": {1: "Value"},
}
"""Messages that they hold: what is walked as one of them holds no other, or it might hold itself without end."""
_LISTS: Final = frozenset({("FieldMask", 1), ("ListValue", 1), ("Struct", 1)})
"""Fields of them that are lists, or maps."""


class DescriptorError(Exception):
    """Descriptors do not hold together; says which, in a sentence."""


def files_of_set(octets: bytes) -> list[bytes]:
    """Each file of a serialized `FileDescriptorSet`, serialized.

    Raises:
        DescriptorError: It is none, or empty.
    """
    try:
        files = FileDescriptorSet.FromString(octets).file
    except DecodeError:
        raise DescriptorError("it is no descriptor set (protoc writes one with --include_imports --descriptor_set_out)") from None
    if not files:
        raise DescriptorError("the descriptor set holds no file")
    return [file.SerializePartialToString(deterministic=True) for file in files]


def schema_of(files: Sequence[bytes], origin: str, services: Collection[str] | None = None) -> Schema:
    """What the given files describe. Depends on nothing else, and may run in any thread.

    Args:
        files: Serialized `FileDescriptorProto`s in any order; the same one may come again. Of those they import, the well-known
            ones may be missing.
        origin: Where they are from, for people.
        services: Full names of those that are served; None: all of them.

    Raises:
        DescriptorError: One is no descriptor, something imported is missing, names clash, or a service is not described.
    """
    given = _given(files)
    pool = DescriptorPool()
    added = _Adder(pool, given)
    for name in sorted(given):
        added.add(name)
    for name in _ALWAYS:
        added.add_spare(name)
    types = _Types(pool)
    for file in added.files:
        types.read(file)
    types.check()
    methods: dict[bytes, Method] = {}
    described: set[str] = set()
    for name in sorted(given):
        proto = given[name]
        for service in proto.service:
            full = f"{proto.package}.{service.name}".lstrip(".")
            described.add(full)
            if services is None or full in services:
                for method in _methods(pool, full, service, types.made):
                    methods[method.path] = method
    for full in sorted(services or ()):
        if full not in described:
            raise DescriptorError(f"no file describes the service {full}")
    return Schema(methods, types.made, _version(given), origin)


def _given(files: Sequence[bytes]) -> dict[str, FileDescriptorProto]:
    """By name."""
    given: dict[str, FileDescriptorProto] = {}
    for octets in files:
        try:
            proto = FileDescriptorProto.FromString(octets)
        except DecodeError:
            raise DescriptorError("one of the files is no descriptor") from None
        if not proto.name:
            raise DescriptorError("one of the files has no name")
        if given.setdefault(proto.name, proto) != proto:
            raise DescriptorError(f"{proto.name} is described twice, and differently")
    return given


def _version(given: Mapping[str, FileDescriptorProto]) -> str:
    digest = hashlib.sha256()
    for name in sorted(given):
        octets = given[name].SerializePartialToString(deterministic=True)
        digest.update(f"{len(octets)} ".encode())
        digest.update(octets)
    return digest.hexdigest()[:16]


class _Adder:
    """Fills a pool, imports first."""

    __slots__ = ("_done", "_found", "_given", "_pool", "files")

    def __init__(self, pool: DescriptorPool, given: Mapping[str, FileDescriptorProto]) -> None:
        self._pool = pool
        self._given = given
        self._found: dict[str, FileDescriptorProto | None] = {}
        self._done: dict[str, bool] = {}
        """Whether a file is in the pool; not yet: it waits for what it imports."""
        self.files: list[FileDescriptorProto] = []
        """Those in the pool."""

    def add(self, name: str) -> None:
        """Adds a file and all it imports.

        Raises:
            DescriptorError: It cannot be built.
        """
        todo = [name]
        while todo:
            top = todo[-1]
            if self._done.get(top):
                todo.pop()
                continue
            proto = self._find(top)
            if proto is None:
                raise DescriptorError(f"{top} is missing")
            waits = [wanted for wanted in proto.dependency if not self._done.get(wanted)]
            if waits:
                for wanted in waits:
                    if wanted in self._done:
                        raise DescriptorError(f"{top} imports {wanted}, which imports it again")
                    if self._find(wanted) is None:
                        raise DescriptorError(f"{top} imports {wanted}, which is missing")
                self._done[top] = False
                todo += waits
                continue
            try:
                self._pool.AddSerializedFile(proto.SerializePartialToString())
            except TypeError as e:
                raise DescriptorError(f"{top} does not fit the others: {_reason(e)}") from None
            self._done[top] = True
            self.files.append(proto)
            todo.pop()

    def _find(self, name: str) -> FileDescriptorProto | None:
        if name not in self._found:
            self._found[name] = self._given.get(name) or _spare(name)
        return self._found[name]

    def add_spare(self, name: str) -> None:
        """Adds a file of a library, if there is one and it is not described under another name already."""
        try:
            self.add(name)
        except DescriptorError:
            return


def _reason(error: TypeError) -> str:
    said = str(error).strip()
    return said.removeprefix("Couldn't build proto file into descriptor pool: ") or "it cannot be built"


def _spare(name: str) -> FileDescriptorProto | None:
    """A file that a library has; None: it has not, or is not installed."""
    module = _SPARE.get(name)
    if module is None:
        return None
    try:
        file: FileDescriptor = import_module(module).DESCRIPTOR
    except ImportError:
        return None
    return FileDescriptorProto.FromString(file.serialized_pb)


class _Types:
    """Plans of messages, made of what a pool has resolved."""

    __slots__ = ("_enums", "_left", "_pool", "made")

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._left = MOST_FIELDS
        self._enums: dict[str, EnumType] = {}
        self.made: dict[str, MessageType] = {}
        """By full name."""

    def read(self, file: FileDescriptorProto) -> None:
        """Takes in the messages of a file; those of the files it imports were read before, or are read later."""
        for message in file.message_type:
            self._read(message, f"{file.package}.{message.name}".lstrip("."))

    def _read(self, proto: DescriptorProto, name: str) -> None:
        self._left -= len(proto.field)
        if len(proto.field) > MOST_OF_ONE:
            raise DescriptorError(f"{name} has more than {MOST_OF_ONE:,} fields")
        if self._left < 0:
            raise DescriptorError(f"its messages have more than {MOST_FIELDS:,} fields together")
        map_entry = proto.options.map_entry
        plan = self._message(name, map_entry)
        resolved: Descriptor = self._pool.FindMessageTypeByName(name)
        fields = tuple(self._field(field, resolved) for field in proto.field)
        if plan.well_known:
            # What a later version adds, or a hostile one, is an unknown field: the walk by number knows nothing of it.
            fields = tuple(field for field in fields if field.number in _SHAPES[plan.well_known])
        plan.seal(fields)
        if map_entry and not {1, 2} <= plan.by_number.keys():
            raise DescriptorError(f"{name} is no entry of a map: it has no field 1 or no field 2")
        for nested in proto.nested_type:
            self._read(nested, f"{name}.{nested.name}")

    def check(self) -> None:
        """Looks at the well-known messages, once all were read.

        Raises:
            DescriptorError: One is another than its name says.
        """
        for plan in self.made.values():
            if plan.well_known and not _is_known(plan):
                raise DescriptorError(f"{plan.name} is not the message that is known by this name")

    def _message(self, name: str, map_entry: bool) -> MessageType:
        plan = self.made.get(name)
        if plan is None:
            plan = self.made[name] = MessageType(name, map_entry=map_entry)
        return plan

    def _field(self, proto: FieldDescriptorProto, owner: Descriptor) -> FieldType:
        resolved = owner.fields_by_name[proto.name]
        oneof = ""
        if proto.HasField("oneof_index") and not proto.proto3_optional and resolved.containing_oneof is not None:
            oneof = resolved.containing_oneof.name
        repeated = proto.label == FieldDescriptorProto.LABEL_REPEATED
        inner = resolved.message_type
        return FieldType(
            proto.name,
            resolved.json_name,
            proto.number,
            int(resolved.type),
            repeated=repeated,
            packed=repeated and resolved.is_packed,
            presence=not repeated and resolved.has_presence,
            oneof=oneof,
            message=None if inner is None else self._message(inner.full_name, inner.GetOptions().map_entry),
            enum=None if resolved.enum_type is None else self._enum(resolved.enum_type),
        )

    def _enum(self, resolved: EnumDescriptor) -> EnumType:
        made = self._enums.get(resolved.full_name)
        if made is None:
            numbers = {value.name: value.number for value in resolved.values}
            made = self._enums[resolved.full_name] = EnumType(resolved.full_name, numbers, resolved.is_closed)
        return made


def _is_known(plan: MessageType) -> bool:
    """Whether a message is the well-known one of its name."""
    known = plan.well_known
    within = _WITHIN.get(known, {})
    for number, kind in _SHAPES[known].items():
        field = plan.by_number.get(number)
        if field is None or field.kind != kind or field.repeated != ((known, number) in _LISTS):
            return False
        if number in within and not _holds(field, within[number]):
            return False
    if known != "Struct":
        return True
    entry = plan.by_number[1].message
    if entry is None or not entry.map_entry:
        return False
    return entry.by_number[1].kind == Kind.STRING and _holds(entry.by_number[2], "Value")


def _holds(field: FieldType, known: str) -> bool:
    return field.message is not None and field.message.well_known == known


def _methods(pool: DescriptorPool, full: str, service: ServiceDescriptorProto, types: dict[str, MessageType]) -> Iterable[Method]:
    resolved = pool.FindServiceByName(full)
    for proto in service.method:
        method = resolved.methods_by_name[proto.name]
        yield _method(full, proto, types[method.input_type.full_name], types[method.output_type.full_name])


def _method(full: str, proto: MethodDescriptorProto, asks: MessageType, tells: MessageType) -> Method:
    try:
        rules = rules_of(proto.options.SerializePartialToString())
    except Malformed as e:
        raise DescriptorError(f"{full}.{proto.name}: google.api.http: {e}") from None
    return Method(
        full,
        proto.name,
        asks,
        tells,
        client_streams=proto.client_streaming,
        server_streams=proto.server_streaming,
        safe=proto.options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
        rules=rules,
    )
