"""What is read of descriptors: order and duplicates do not matter, and what does not hold together is said."""

import asyncio
import random

import pytest
from google.protobuf import descriptor_pb2, json_format, struct_pb2
from google.rpc import error_details_pb2, status_pb2

from flui.translate import descriptors
from flui.translate.descriptors import DescriptorError, files_of_set, schema_of
from flui.translate.http_rules import rules_of
from flui.translate.json_out import decode
from flui.translate.schema import Kind
from flui.translate.wire import Malformed, varint
from support.schemas import descriptor_set, schema

FILES = files_of_set(descriptor_set())


def file(name="a.proto", package="a", **more):
    return json_format.ParseDict({"name": name, "package": package, **more}, descriptor_pb2.FileDescriptorProto()).SerializeToString()


def test_order_and_duplicates_do_not_matter():
    shuffled = FILES + FILES[:3]
    random.Random(7).shuffle(shuffled)
    made = schema_of(shuffled, "x")
    assert made.version == schema().version
    assert made.methods.keys() == schema().methods.keys()
    assert made.types.keys() == schema().types.keys()
    assert len(made.version) == 16


def test_the_version_changes_with_the_descriptors():
    assert schema_of([file()], "x").version != schema_of([file(package="b")], "x").version


def test_methods_are_found_by_their_path():
    method = schema().methods[b"/flui.tests.Everything/Peek"]
    assert (method.safe, method.server_streams, method.client_streams) == (True, True, False)
    assert method.asks is schema().types["flui.tests.Leaf"]
    pour = schema().methods[b"/flui.tests.Everything/Pour"]
    assert (pour.safe, pour.server_streams, pour.client_streams) == (False, False, True)
    assert schema().services == {b"flui.tests.Everything", b"flui.tests.Second"}


def test_only_the_services_asked_for_have_methods():
    made = schema_of(FILES, "x", {"flui.tests.Second"})
    assert list(made.methods) == [b"/flui.tests.Second/Do"]
    with pytest.raises(DescriptorError, match=r"flui\.tests\.Third"):
        schema_of(FILES, "x", {"flui.tests.Third"})


def test_annotations_are_read_in_full():
    rules = [(r.method, r.path, r.body, r.response_body) for r in schema().methods[b"/flui.tests.Everything/Say"].rules]
    assert rules == [
        ("GET", "/v1/{a_string=said/*}", "", ""),
        ("POST", "/v1/say", "*", "leaf"),
        ("HEAD", "/v1/say/{a_string}", "", ""),
    ]


def options(rule):
    return varint(72295728 << 3 | 2) + varint(len(rule)) + rule


def test_annotations_are_read_from_octets_alone():
    def said(rule):
        return [(r.method, r.path) for r in rules_of(options(rule))]

    assert said(b"") == []
    assert said(b"\x12\x02/a\x22\x02/b") == [("POST", "/b")]
    assert said(b"\x1a\x02/a") == [("PUT", "/a")]
    assert said(b"\x2a\x02/a") == [("DELETE", "/a")]
    assert said(b"\x32\x02/a\x5a\x04\x12\x02/b") == [("PATCH", "/a"), ("GET", "/b")]
    assert rules_of(b"\x88\x02\x01") == ()
    for bad in (b"\x12\x05/a", b"\x12\x01\xff", b"\x12\x02/a\x5a\x06\x5a\x04\x12\x02/b"):
        with pytest.raises(Malformed):
            rules_of(options(bad))


def test_well_known_files_need_not_be_sent_along():
    alone = files_of_set(descriptor_set("translate_all.proto", imports=False))
    assert len(alone) == 1
    made = schema_of(alone, "x")
    assert made.types["flui.tests.All"].by_name["timestamp"].message is made.types["google.protobuf.Timestamp"]


def test_details_of_errors_are_known_to_every_schema():
    made = schema_of([file()], "x")
    status = status_pb2.Status(code=5)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="R"))
    text = decode(status.SerializeToString(), made.types["google.rpc.Status"], made.types)
    assert text == b'{"code":5,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R"}]}'
    assert made.methods == {}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([b"\xff"], "no descriptor"),
        ([b""], "no name"),
        ([file(dependency=["b.proto"])], "a.proto imports b.proto, which is missing"),
        ([file(dependency=["b.proto"]), file("b.proto", dependency=["a.proto"])], "which imports it again"),
        ([file(dependency=["a.proto"])], "which imports it again"),
        ([file(), file(package="b")], "described twice"),
        ([file(messageType=[{"name": "M"}]), file("b.proto", messageType=[{"name": "M"}])], "does not fit"),
        ([file(service=[{"name": "S", "method": [{"name": "Do", "inputType": ".a.No", "outputType": ".a.No"}]}])], "does not fit"),
        ([file("x.proto", "google.protobuf", messageType=[{"name": "Timestamp"}])], "google.protobuf.Timestamp is not"),
    ],
)
def test_what_does_not_hold_together_is_said(files, words):
    with pytest.raises(DescriptorError, match=words):
        schema_of(files, "x")


def of_struct(change):
    """google/protobuf/struct.proto as a module may tell it."""
    proto = descriptor_pb2.FileDescriptorProto.FromString(struct_pb2.DESCRIPTOR.serialized_pb)
    change({message.name: message for message in proto.message_type})
    return proto.SerializeToString()


def field_of(message, number):
    return next(each for each in message.field if each.number == number)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Value", lambda known: setattr(field_of(known["Value"], 5), "type_name", ".google.protobuf.Value")),
        ("Value", lambda known: setattr(field_of(known["Value"], 5), "type_name", ".google.protobuf.ListValue")),
        ("Value", lambda known: setattr(field_of(known["Value"], 6), "type_name", ".google.protobuf.Value")),
        ("ListValue", lambda known: setattr(field_of(known["ListValue"], 1), "type_name", ".google.protobuf.Struct")),
        ("ListValue", lambda known: setattr(field_of(known["ListValue"], 1), "label", 1)),
        ("Struct", lambda known: setattr(field_of(known["Struct"], 1), "type_name", ".google.protobuf.Value")),
        ("Struct", lambda known: setattr(field_of(known["Struct"].nested_type[0], 2), "type_name", ".google.protobuf.Struct")),
        ("Struct", lambda known: setattr(field_of(known["Struct"].nested_type[0], 1), "type", 5)),
    ],
)
def test_a_known_message_that_holds_others_than_its_own_is_refused(name, change):
    with pytest.raises(DescriptorError, match=rf"google\.protobuf\.{name} is not the message that is known by this name"):
        schema_of([of_struct(change)], "x")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("FieldMask", [{"name": "paths", "number": 1, "type": "TYPE_STRING", "label": "LABEL_OPTIONAL"}]),
        ("StringValue", [{"name": "value", "number": 1, "type": "TYPE_STRING", "label": "LABEL_REPEATED"}]),
        (
            "Duration",
            [
                {"name": "seconds", "number": 1, "type": "TYPE_INT64", "label": "LABEL_REPEATED"},
                {"name": "nanos", "number": 2, "type": "TYPE_INT32", "label": "LABEL_OPTIONAL"},
            ],
        ),
    ],
)
def test_a_known_message_is_a_list_where_it_is_one(name, fields):
    with pytest.raises(DescriptorError, match=rf"google\.protobuf\.{name} is not the message that is known by this name"):
        schema_of([file("x.proto", "google.protobuf", messageType=[{"name": name, "field": fields}])], "x")


def test_a_field_that_a_known_message_has_not_is_an_unknown_field():
    def change(known):
        known["Value"].field.add(name="more", number=7, type=11, label=1, type_name=".google.protobuf.Value", oneof_index=0)

    made = schema_of([of_struct(change)], "x")
    plan = made.types["google.protobuf.Value"]
    assert sorted(plan.by_number) == [1, 2, 3, 4, 5, 6]
    assert decode(b"\x20\x01\x3a\x02\x20\x00", plan, made.types) == b"true"


def entry(*numbers):
    told = [{"name": f"f{number}", "number": number, "type": "TYPE_INT32", "label": "LABEL_OPTIONAL"} for number in numbers]
    return {"name": "XEntry", "field": told, "options": {"mapEntry": True}}


@pytest.mark.parametrize("numbers", [(3, 4), (1, 3), (2, 3)])
def test_an_entry_of_a_map_has_a_key_and_a_value(numbers):
    held = {"name": "x", "number": 1, "type": "TYPE_MESSAGE", "typeName": ".a.M.XEntry", "label": "LABEL_REPEATED"}
    with pytest.raises(DescriptorError, match=r"a\.M\.XEntry is no entry of a map"):
        schema_of([file(messageType=[{"name": "M", "field": [held], "nestedType": [entry(*numbers)]}])], "x")


def wide(count, name="M"):
    return {
        "name": name,
        "field": [{"name": f"f{n}", "number": n, "type": "TYPE_BOOL", "label": "LABEL_OPTIONAL"} for n in range(1, count + 1)],
    }


def test_fields_of_a_message_and_of_all_together_are_bounded():
    """Threat C12: without the first, 8 messages of 30,000 fields take 770 MB."""
    made = schema_of([file(messageType=[wide(descriptors.MOST_OF_ONE)])], "x")
    assert len(made.types["a.M"].fields) == descriptors.MOST_OF_ONE
    with pytest.raises(DescriptorError, match=r"a\.M has more than 4,096 fields"):
        schema_of([file(messageType=[wide(descriptors.MOST_OF_ONE + 1)])], "x")
    with pytest.raises(DescriptorError, match=r"more than 100,000 fields together"):
        schema_of([file(messageType=[wide(descriptors.MOST_OF_ONE, f"M{n}") for n in range(25)])], "x")


def test_known_messages_as_they_are_published_are_taken():
    made = schema_of([of_struct(lambda known: None)], "x")
    assert made.types["google.protobuf.Struct"].by_number[1].is_map


@pytest.mark.parametrize("at", ["file", "method"])
def test_options_that_lack_a_part_change_nothing(at):
    """An uninterpreted option whose name lacks what proto2 requires."""
    method = {"name": "Do", "inputType": ".a.M", "outputType": ".a.M"}
    proto = descriptor_pb2.FileDescriptorProto.FromString(file(messageType=[{"name": "M"}], service=[{"name": "S", "method": [method]}]))
    options = proto.options if at == "file" else proto.service[0].method[0].options
    options.uninterpreted_option.add().name.add()
    octets = proto.SerializePartialToString()
    assert list(schema_of([octets], "x").methods) == [b"/a.S/Do"]
    assert files_of_set(b"\x0a" + varint(len(octets)) + octets) == [octets]


def test_a_bad_annotation_names_its_method():
    method = {"name": "Do", "inputType": ".a.M", "outputType": ".a.M"}
    proto = descriptor_pb2.FileDescriptorProto.FromString(file(messageType=[{"name": "M"}], service=[{"name": "S", "method": [method]}]))
    proto.service[0].method[0].options.MergeFromString(options(b"\x12\x02/a\x5a\x06\x5a\x04\x12\x02/b"))
    with pytest.raises(DescriptorError, match=r"a\.S\.Do: google\.api\.http: .*additional"):
        schema_of([proto.SerializeToString()], "x")


def test_what_is_no_descriptor_set_is_said():
    for octets in (b"\xff", b""):
        with pytest.raises(DescriptorError):
            files_of_set(octets)


def test_fields_are_as_their_file_says():
    everything, old, new = (schema().types[name] for name in ("flui.tests.All", "flui.tests.old.Old", "flui.tests.new.New"))
    assert everything.by_name["maybe_int32"].presence
    assert everything.by_name["maybe_int32"].oneof == ""
    assert everything.by_name["chosen_text"].oneof == "choice"
    assert not everything.by_name["an_int32"].presence
    assert everything.by_name["int32s"].packed
    assert not everything.by_name["loose"].packed
    assert everything.by_name["by_string"].is_map
    assert everything.by_json["@renamed"] is everything.by_json["renamed_field"]
    assert old.by_name["count"].presence
    assert old.by_name["inner"].kind == Kind.GROUP
    assert (old.by_name["loose"].packed, old.by_name["tight"].packed) == (False, True)
    assert old.by_name["size"].enum.closed
    assert (new.by_name["told"].presence, new.by_name["implied"].presence) == (True, False)
    assert (new.by_name["spread"].packed, new.by_name["dense"].packed) == (False, True)
    assert new.by_name["within"].kind == Kind.GROUP
    assert new.by_name["shut"].enum.closed
    assert everything.by_name["colour"].enum.names[1] == "RED"


def test_many_threads_read_at_once():
    async def all_at_once():
        return await asyncio.gather(*[asyncio.to_thread(schema_of, FILES, "x") for _ in range(6)])

    assert {made.version for made in asyncio.run(all_at_once())} == {schema().version}
