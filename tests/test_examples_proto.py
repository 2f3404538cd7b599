"""What lies beside the shop's proto is what protoc makes of it: a sidecar reads the one, modules import the other."""

import importlib.util
from pathlib import Path

from google.protobuf import descriptor_pb2

from flui.runtime import apifile

ROOT = Path(__file__).parents[1]
PROTO = ROOT / "examples" / "proto"


def tool():
    spec = importlib.util.spec_from_file_location("flui_tools_proto", ROOT / "tools" / "proto.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def described(path):
    """Without what each protoc brings of its own: `google/protobuf/descriptor.proto` has a new field every other release."""
    files = descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes()).file
    return {file.name: file for file in files if not file.name.startswith("google/protobuf/")}


def code(path):
    return [line for line in path.read_text().splitlines() if "AddSerializedFile" in line]


def test_what_is_committed_is_what_protoc_makes_of_the_proto(tmp_path):
    """`make proto` writes both anew."""
    tool().make(tmp_path)
    assert described(PROTO / "shop.binpb") == described(tmp_path / "shop.binpb")
    assert code(PROTO / "shop_pb2.py") == code(tmp_path / "shop_pb2.py") != []


def test_the_descriptor_set_says_the_rest_routes_of_the_shop():
    routes = apifile.read(str(PROTO / "shop.binpb"))
    said = {
        method.path.decode(): [(way.rule.method, way.rule.path) for way in routes.ways(method)] for method in routes.schema.methods.values()
    }
    assert said == {
        "/shop.Stock/Reserve": [("POST", "/v1/stock/{item}:reserve"), ("POST", "/shop.Stock/Reserve")],
        "/shop.Stock/Watch": [("GET", "/v1/stock/{item}:watch"), ("POST", "/shop.Stock/Watch")],
        "/shop.Stock/Restock": [("POST", "/v1/stock:restock"), ("POST", "/shop.Stock/Restock")],
        "/shop.Stock/Chat": [("POST", "/shop.Stock/Chat")],
    }
    assert routes.mistakes == ()
