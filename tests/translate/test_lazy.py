"""What is not translated is not loaded."""

import subprocess
import sys

import pytest

SIDECAR = """
import sys, asyncio, json
from flui.runtime import configfile
from flui.runtime.sidecar import Running
from flui.telemetry.journal import Journal
from flui.decide import Snapshot
from flui.policy.index import Index
config = configfile.from_flags(configfile.Flags(service="orders", app=sys.argv[1], certs="/nowhere", admin="off"))
import flui.runtime.sidecar, flui.downstream.relay
Snapshot(config, Index((), (), "v1"), "spiffe://shop/orders", 1)
print(json.dumps(sorted(name for name in sys.modules if name.startswith("flui.translate.") or name == "google.protobuf")))
"""


@pytest.mark.parametrize(("url", "loads"), [("http://127.0.0.1:9", False), ("h2c://127.0.0.1:9", True)])
def test_a_sidecar_of_a_plain_module_does_without(url, loads):
    done = subprocess.run([sys.executable, "-c", SIDECAR, url], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert ("flui.translate.json_in" in done.stdout) == loads, done.stdout
    assert "google.protobuf" not in done.stdout
