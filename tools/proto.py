"""Writes what protoc makes of examples/proto/shop.proto, both of which are committed:

shop_pb2.py    the messages, for the modules in Python
shop.binpb     a descriptor set, for the sidecar of a module that has no reflection (`app.api` in compose/shop.yaml)
"""

import sys
import tempfile
from pathlib import Path

from google.api import annotations_pb2
from grpc_tools import protoc

FOLDER = Path(__file__).parents[1] / "examples" / "proto"
ROOTS = (Path(protoc.__file__).parent / "_proto", Path(annotations_pb2.__file__).parents[2])
"""Where `google/protobuf` and `google/api` are."""


def make(folder: Path) -> None:
    """Writes both files into a folder.

    Raises:
        SystemExit: protoc has said what is wrong.
    """
    roots = [f"-I{root}" for root in (FOLDER, *ROOTS)]
    out = [f"--python_out={folder}", "--include_imports", f"--descriptor_set_out={folder / 'shop.binpb'}"]
    status = protoc.main(["protoc", *roots, *out, "shop.proto"])
    if status:
        sys.exit(status)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as room:  # what is wrong leaves both as they were
        make(Path(room))
        for made in Path(room).iterdir():
            (FOLDER / made.name).write_bytes(made.read_bytes())
            print(f"examples/proto/{made.name}")
