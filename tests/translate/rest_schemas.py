"""Schemas out of proto text, for tests of REST routes: protoc compiles it, and what it says is copied field by field."""

import tempfile
from pathlib import Path

import google.api.annotations_pb2 as annotations
import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_tools import protoc

from flui.translate.schema import EnumType, FieldType, HttpRule, MessageType, Method, Schema

HEADER = """
syntax = "proto3";
package t;
import "google/api/annotations.proto";
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/empty.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
"""


def schema_of(text):
    """The schema of a proto3 file, given without its header (package `t`, every well-known type imported)."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "t.proto").write_text(HEADER + text)
        protos = Path(grpc_tools.__file__).parent / "_proto"
        googleapis = Path(annotations.__file__).parents[2]
        out = Path(folder, "t.bin")
        done = protoc.main(
            ["protoc", f"-I{folder}", f"-I{protos}", f"-I{googleapis}", "--include_imports", f"--descriptor_set_out={out}", "t.proto"]
        )
        assert done == 0, "protoc refuses it"
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    reader = _Reader()
    methods = {}
    for name in files.file[-1].service:
        service = pool.FindServiceByName(f"t.{name.name}")
        for method in service.methods:
            made = reader.method(service, method)
            methods[made.path] = made
    return Schema(methods, reader.messages, "1", "t.proto")


class _Reader:
    def __init__(self):
        self.messages = {}
        self.enums = {}

    def method(self, service, method):
        rules = []
        options = descriptor_pb2.MethodOptions.FromString(method.GetOptions().SerializeToString())
        if options.HasExtension(annotations.http):
            first = options.Extensions[annotations.http]
            for rule in (first, *first.additional_bindings):
                kind = rule.WhichOneof("pattern")
                verb, path = (rule.custom.kind, rule.custom.path) if kind == "custom" else (kind.upper(), getattr(rule, kind))
                rules.append(HttpRule(verb, path, rule.body, rule.response_body))
        return Method(
            service.full_name,
            method.name,
            self.message(method.input_type),
            self.message(method.output_type),
            client_streams=method.client_streaming,
            server_streams=method.server_streaming,
            rules=tuple(rules),
        )

    def message(self, told):
        known = self.messages.get(told.full_name)
        if known is not None:
            return known
        made = self.messages[told.full_name] = MessageType(told.full_name, map_entry=told.GetOptions().map_entry)
        made.seal(tuple(self.field(field) for field in told.fields))
        return made

    def field(self, told):
        oneof = told.containing_oneof
        real = oneof is not None and not (len(oneof.fields) == 1 and oneof.name.startswith("_"))
        return FieldType(
            told.name,
            told.json_name,
            told.number,
            told.type,
            repeated=told.is_repeated,
            packed=told.is_packed,
            presence=told.has_presence,
            oneof=oneof.name if real else "",
            message=self.message(told.message_type) if told.message_type else None,
            enum=self.enum(told.enum_type) if told.enum_type else None,
        )

    def enum(self, told):
        if told.full_name not in self.enums:
            numbers = {value.name: value.number for value in told.values}
            self.enums[told.full_name] = EnumType(told.full_name, numbers, told.is_closed)
        return self.enums[told.full_name]
