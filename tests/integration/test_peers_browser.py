"""A page in a real Chromium calls a gRPC module of the shop, as gRPC-Web and as Connect, through real sidecars, policy and CORS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import peers_browser

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(240)]
ROOT = Path(__file__).resolve().parents[2]


def test_a_page_calls_a_grpc_module_in_both_dialects():
    node = peers_browser.node()
    environment = peers_browser.environment()
    topology = [sys.executable, "-m", "flui", "up", ROOT / "compose" / "shop.yaml", "--"]
    done = subprocess.run(
        [*topology, node, peers_browser.script("run.mjs")], check=False, capture_output=True, text=True, timeout=200, env=environment
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "  NOT  " not in said
    assert said.count("  ok   ") == 10, said
