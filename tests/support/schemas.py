"""Schemas for the tests of translate/, and the library's classes of the same messages, which are the oracle."""

import functools
import tempfile
from pathlib import Path

import google.protobuf
from google.api import annotations_pb2
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

from flui.translate.descriptors import files_of_set, schema_of

HERE = Path(__file__).parent
FILES = ("translate_all.proto", "translate_old.proto", "translate_new.proto")


@functools.cache
def descriptor_set(*names: str, imports: bool = True) -> bytes:
    """What protoc makes of files beside this one."""
    roots = {str(Path(google.protobuf.__file__).parents[2]), str(Path(annotations_pb2.__file__).parents[2])}
    builtin = Path(protoc.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as room:
        out = f"{room}/set"
        said = [f"-I{root}" for root in (HERE, builtin, *sorted(roots))]
        also = ["--include_imports"] if imports else []
        assert protoc.main(["protoc", *said, *also, f"--descriptor_set_out={out}", *(names or FILES)]) == 0
        return Path(out).read_bytes()


@functools.cache
def schema():
    """Of all the files."""
    return schema_of(files_of_set(descriptor_set()), "test")


@functools.cache
def pool():
    """The library's, of the same files."""
    made = descriptor_pool.DescriptorPool()
    for octets in files_of_set(descriptor_set()):
        made.AddSerializedFile(octets)
    for module in (error_details_pb2, status_pb2):
        made.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    return made


@functools.cache
def class_of(name: str):
    """The library's class of a message."""
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(name))


def oracle_out(message) -> str:
    """JSON as the library writes it."""
    return json_format.MessageToJson(message, indent=None, descriptor_pool=pool())


def oracle_in(text, name: str):
    """Message as the library reads it."""
    return json_format.Parse(text, class_of(name)(), descriptor_pool=pool(), max_recursion_depth=70)


def canonical(message) -> bytes:
    """Octets that are equal exactly when messages are; NaNs are equal here, and an `Any` is what is in it."""
    made = type(message).FromString(message.SerializeToString())
    _sort_anys(made)
    return made.SerializeToString(deterministic=True)


def _sort_anys(message) -> None:
    if message.DESCRIPTOR.full_name == "google.protobuf.Any" and message.type_url:
        message.value = canonical(class_of(message.type_url.rpartition("/")[2]).FromString(message.value))
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                for item in value.values():
                    _sort_anys(item)
        elif field.is_repeated:
            for item in value:
                _sort_anys(item)
        else:
            _sort_anys(value)
