"""Messages of reflection, against the library's; and protobuf's wire format, whatever comes."""

from google.protobuf import descriptor_pb2, unknown_fields
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs import grpc_reflection, protobuf

Request = reflection_pb2.ServerReflectionRequest
Response = reflection_pb2.ServerReflectionResponse
File = descriptor_pb2.FileDescriptorProto
NAMES = st.text(min_size=1, max_size=40)


@given(NAMES)
def test_questions_are_what_the_library_reads(name):
    assert Request.FromString(grpc_reflection.list_services()) == Request(list_services="*")
    assert Request.FromString(grpc_reflection.file_named(name)) == Request(file_by_filename=name)
    assert Request.FromString(grpc_reflection.file_with(name)) == Request(file_containing_symbol=name)


@given(st.lists(NAMES, max_size=5), st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 16))
def test_answers_are_read_as_the_library_writes_them(names, files, code):
    answer = Response(valid_host="stock", original_request=Request(list_services="*"))
    for name in names:
        answer.list_services_response.service.add(name=name)
    told = grpc_reflection.told(answer.SerializeToString())
    assert (told.services, told.files, told.error) == (names, [], 0)
    answer.file_descriptor_response.file_descriptor_proto.extend(files)
    told = grpc_reflection.told(answer.SerializeToString())
    assert (told.services, told.files, told.error) == ([], files, 0)
    answer.error_response.error_code = code
    answer.error_response.error_message = "no"
    told = grpc_reflection.told(answer.SerializeToString())
    assert (told.services, told.files, told.error) == ([], [], code)


@given(NAMES, st.sampled_from(["", "a", "a.b"]), st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4))
def test_an_outline_is_what_the_file_says(name, package, imports, services):
    file = File(name=name, package=package, dependency=imports, syntax="proto3")
    file.message_type.add(name="Item").field.add(name="item", number=1)
    for service in services:
        file.service.add(name=service).method.add(name="Get")
    outline = grpc_reflection.outline(file.SerializeToString())
    full = tuple(f"{package}.{service}" if package else service for service in services)
    assert (outline.name, outline.imports, outline.services) == (name, tuple(imports), full)


def test_a_file_without_a_name_or_with_one_that_is_no_text_is_none():
    assert grpc_reflection.outline(b"") is None
    assert grpc_reflection.outline(File(package="a").SerializeToString()) is None
    assert grpc_reflection.outline(b"\x0a\x01\xff") is None
    assert grpc_reflection.outline(b"\x0a\x05a") is None


@given(st.binary(max_size=300))
def test_no_octets_make_it_fail(octets):
    grpc_reflection.told(octets)
    grpc_reflection.outline(octets)


@given(st.lists(st.tuples(st.integers(1, 2000), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=30))), max_size=20))
def test_fields_are_read_as_the_library_reads_them(said):
    message = b"".join(
        protobuf.octets(number, value) if isinstance(value, bytes) else protobuf.varint(number << 3) + protobuf.varint(value)
        for number, value in said
    )
    found = [(number, held if wire == protobuf.OCTETS else value) for number, wire, value, held in protobuf.fields(message)]
    assert found == said
    unknown = unknown_fields.UnknownFieldSet(reflection_pb2.ServiceResponse.FromString(b"".join(_moved(said))))
    assert [(each.field_number - 5000, each.data) for each in unknown] == said


def _moved(said):
    """The same fields under numbers that the message does not know."""
    for number, value in said:
        if isinstance(value, bytes):
            yield protobuf.octets(number + 5000, value)
        else:
            yield protobuf.varint(number + 5000 << 3) + protobuf.varint(value)


def test_more_fields_than_anyone_has_are_refused():
    assert protobuf.fields(b"\x08\x00" * protobuf.MOST) is not None
    assert protobuf.fields(b"\x08\x00" * (protobuf.MOST + 1)) is None
