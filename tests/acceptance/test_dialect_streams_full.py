"""Issue 6: "Slow reader and cancel in each direction for each streaming pair: RSS growth under 32 MiB at 1 GiB offered".

Here all of it passes, between a reader that stops every 64 MiB, a module that is as slow, and a sidecar in a process of its own.
"""

import threading
import time

import pytest

from support.dialect_streams import DOWN, GROWTH, IMPORT, MIB, TO_REST, UP, ending, rest_stage, stage
from support.pouring import GIB

STOP_EVERY = 64 * MIB
STOP_S = 0.1


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("streams")) as made:
        yield made


@pytest.fixture(scope="module")
def shelved(tmp_path_factory):
    with rest_stage(tmp_path_factory.mktemp("shelf")) as made:
        yield made


class Watch:
    """The most memory that a sidecar had, looked at ten times a second."""

    def __init__(self, side):
        self._side = side
        self.before = self.most = side.resident_octets
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.began = time.monotonic()
        self._cpu = side.cpu_s

    def __enter__(self):
        self._thread.start()
        return self

    def _look(self):
        while not self._over.wait(0.1):
            self.most = max(self.most, self._side.resident_octets)

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    @property
    def grown(self):
        return self.most - self.before

    def report(self, what):
        spent = time.monotonic() - self.began
        print(f"\n{what}: 1 GiB in {spent:.1f} s, {self._side.cpu_s - self._cpu:.1f} s of CPU, grown by {self.grown / MIB:.1f} MiB")


def to_a_slow_reader(stage, name, http, what):
    stage.module.again(title=MIB)
    with stage.caller(http) as caller, Watch(stage.side) as watch:
        stage.watch(caller, name, -1)
        got = pause = 0
        while piece := caller.read(4 * MIB):
            got += len(piece)
            if got // STOP_EVERY > pause:
                pause = got // STOP_EVERY
                time.sleep(STOP_S)  # the reader is slow: that is what is measured
        assert got >= GIB
        assert stage.module.told == GIB
        assert caller.status == 200
    watch.report(what)
    assert watch.grown < GROWTH
    stage.settled()


def into_a_slow_module(stage, way, http, what):
    """Returns the body of the answer."""
    module = stage.module
    module.again(pause_every=STOP_EVERY, pause_s=STOP_S)
    piece = way.message(module.messages["Book"](title="x" * MIB))
    with stage.caller(http) as caller, Watch(stage.side) as watch:
        caller.begin("POST", IMPORT, way.kind, way.more)
        for _ in range(1024):
            assert caller.write(piece) == len(piece)
        caller.end()
        body = caller.rest()
        assert caller.status == 200
        assert module.heard == GIB
    watch.report(what)
    assert watch.grown < GROWTH
    stage.settled()
    return body


@pytest.mark.parametrize("http", ["http1", "http2"])
@pytest.mark.parametrize("name", DOWN)
def test_a_gibibyte_to_a_slow_reader(staged, name, http):
    to_a_slow_reader(staged, name, http, f"{name} to a reader over {http}")


@pytest.mark.parametrize("http", ["http1", "http2"])
@pytest.mark.parametrize("name", UP)
def test_a_gibibyte_into_a_slow_module(staged, name, http):
    assert ending(name, into_a_slow_module(staged, UP[name], http, f"{name} into a module over {http}")) == 0


@pytest.mark.parametrize("name", TO_REST)
def test_a_gibibyte_of_a_rest_module_to_a_slow_reader(shelved, name):
    to_a_slow_reader(shelved, name, "http2", f"REST to {name} and a slow reader")


@pytest.mark.parametrize("name", TO_REST)
def test_a_gibibyte_into_a_slow_rest_module(shelved, name):
    into_a_slow_module(shelved, TO_REST[name], "http2", f"{name} into a slow module of REST")
