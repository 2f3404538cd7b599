"""The two messages of gRPC's health protocol, written by hand: protobuf's own library reads what we write, and we what it writes."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from flui.codecs import grpc_health
from flui.codecs.grpc import method_of


def messages():
    """grpc/health/v1/health.proto, as far as it matters here."""
    file = descriptor_pb2.FileDescriptorProto(name="flui_health.proto", package="flui.test", syntax="proto3")
    asked = file.message_type.add(name="HealthCheckRequest")
    asked.field.add(name="service", number=1, type=9, label=1)
    asked.field.add(name="later", number=9, type=6, label=1)
    answered = file.message_type.add(name="HealthCheckResponse")
    kind = answered.enum_type.add(name="ServingStatus")
    for number, name in enumerate(("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")):
        kind.value.add(name=name, number=number)
    answered.field.add(name="status", number=1, type=14, type_name=".flui.test.HealthCheckResponse.ServingStatus", label=1)
    answered.field.add(name="later", number=100, type=9, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"flui.test.{one.name}")) for one in file.message_type]


ASKED, ANSWERED = messages()


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=300))
def test_a_question_is_what_protobuf_writes_and_reads(service):
    assert grpc_health.question(service.encode()) == ASKED(service=service).SerializeToString()
    assert grpc_health.asked(ASKED(service=service, later=5).SerializeToString()) == service.encode()


@pytest.mark.parametrize("status", [grpc_health.UNKNOWN, grpc_health.SERVING, grpc_health.NOT_SERVING, grpc_health.SERVICE_UNKNOWN, 300])
def test_an_answer_is_what_protobuf_writes_and_reads(status):
    assert grpc_health.answer(status) == ANSWERED(status=status).SerializeToString()
    assert grpc_health.said(ANSWERED(status=status, later="x").SerializeToString()) == status


@given(st.binary(max_size=40))
def test_what_protobuf_refuses_is_refused_and_nothing_else_is_understood_otherwise(octets):
    try:
        theirs = ANSWERED.FromString(octets).status
    except Exception:  # noqa: BLE001 - whatever the library calls it
        theirs = None
    ours = grpc_health.said(octets)
    if ours is not None and theirs is not None:
        assert (ours + (1 << 31)) % (1 << 32) - (1 << 31) == theirs
    if theirs is None:
        assert ours != grpc_health.SERVING or _only_a_text_is_wrong(octets)


def _only_a_text_is_wrong(octets):
    """The library also refuses text that is no UTF-8, and groups that end elsewhere, in fields that are none of ours."""
    return any(octet >= 0x80 or octet & 7 in {3, 4} for octet in octets)


@pytest.mark.parametrize(
    "octets", [b"\x08", b"\x0a", b"\x0a\x05abc", b"\x08" + b"\xff" * 11, b"\x00\x01", b"\x0d\x01", b"\x0b", b"\x0a\x00"]
)
def test_what_is_malformed_or_of_another_type_is_no_answer(octets):
    assert grpc_health.said(octets) is None


def test_the_path_is_a_method():
    assert method_of(grpc_health.CHECK) == (grpc_health.SERVICE, b"Check")
