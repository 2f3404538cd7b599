"""One table of statuses, and what an ending is in each dialect."""

import json

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from flui.codecs.grpc import binary_text
from flui.model.fields import field
from flui.model.grpc import Status, http_of
from flui.translate.status import CONNECT_CODES, Ending, connect_error, end_of_stream, ending_of, opaque, rpc_status, trailer_fields

# connectrpc.com/docs/protocol, Error Codes
CONNECT = {
    "canceled": 499, "unknown": 500, "invalid_argument": 400, "deadline_exceeded": 504, "not_found": 404, "already_exists": 409,
    "permission_denied": 403, "resource_exhausted": 429, "failed_precondition": 400, "aborted": 409, "out_of_range": 400,
    "unimplemented": 501, "internal": 500, "unavailable": 503, "data_loss": 500, "unauthenticated": 401,
}  # fmt: skip


def test_the_codes_of_connect_are_those_of_grpc_and_mean_the_http_statuses_that_connect_says():
    for status in list(Status)[1:]:
        said = CONNECT_CODES[status]
        assert said == {"cancelled": "canceled"}.get(status.name.lower(), status.name.lower())
        assert http_of(status) == CONNECT[said]
        assert code_pb2.Code.Value(status.name) == status.value


def test_an_ending_says_status_message_details_and_metadata():
    status = status_pb2.Status(code=9, message="nö %")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R"))
    lines = [
        field(b"grpc-status", b"9"),
        field(b"grpc-message", b"n%C3%B6 %25"),
        field(b"grpc-status-details-bin", binary_text(status.SerializeToString())),
        field(b"grpc-retry-pushback-ms", b"1500"),
        field(b"x-late", b"1"),
    ]
    ending = ending_of(lines)
    assert (ending.status, ending.message, ending.retry_after_s) == (Status.FAILED_PRECONDITION, "nö %", 2)
    assert [(detail.name, detail.value) for detail in ending.details] == [
        ("google.rpc.ErrorInfo", error_details_pb2.ErrorInfo(reason="R").SerializeToString())
    ]
    assert [line.name for line in ending.metadata] == [b"x-late"]
    assert json.loads(connect_error(ending))["code"] == "failed_precondition"
    end = json.loads(end_of_stream(ending))
    assert (end["error"]["message"], end["metadata"]) == ("nö %", {"x-late": ["1"]})
    assert json.loads(rpc_status(ending, [opaque(ending.details[0])])) == {
        "code": 9,
        "message": "nö %",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "value": "CgFS"}],
    }
    assert [(line.name, line.value) for line in trailer_fields(ending.metadata)] == [(b"trailer-x-late", b"1")]


def test_a_good_end_is_short():
    ending = ending_of([field(b"grpc-status", b"0")])
    assert (ending.status, end_of_stream(ending)) == (Status.OK, b"{}")
    assert ending_of([]).status is Status.UNKNOWN


@pytest.mark.parametrize("octets", [b"\xff", b"\x08", b"\x1a\x05a", b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x01\xff", b"\x1d\0\0\0"])
def test_details_that_are_none_leave_status_and_message(octets):
    lines = [field(b"grpc-status", b"5"), field(b"grpc-message", b"no"), field(b"grpc-status-details-bin", binary_text(octets))]
    ending = ending_of(lines)
    assert (ending.status, ending.message, ending.details) == (Status.NOT_FOUND, "no", [])


def test_a_message_of_any_text_is_json():
    ending = Ending(Status.INTERNAL, 'a "quote"\n\u2028')
    assert json.loads(connect_error(ending))["message"] == 'a "quote"\n\u2028'
