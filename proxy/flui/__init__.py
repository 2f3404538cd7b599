"""FLUI Mesh: a service-mesh sidecar in Python.

The floors of the house, lowest first; a module imports only lower floors (`tests/test_floors.py`):

- 0 `model`: the words everything else is said in.
- 1 `codecs`, `identity`, `policy`, `routing`: one protocol, algorithm or rule each; no sockets, no clock.
- 2 `decide`, `splice`: one decision for a request, and what carries it out.
- 3 `transport`, `downstream`, `upstream`, `telemetry`: sockets, connections, pools, records.
- 4 `runtime`: wiring, admin, configuration files, topologies and the command line.
"""

__version__ = "0.1.0"


def compiled() -> bool:
    """Whether floors 0-2, and what every request passes on floor 3, run as compiled by mypyc (`make native`) or as plain Python."""
    from flui import splice  # noqa: PLC0415 - only whoever asks needs it

    return not (splice.__file__ or "").endswith(".py")
