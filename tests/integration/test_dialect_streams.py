"""Issue 6: "Slow reader and cancel in each direction for each streaming pair". In short; the whole 1 GiB is in `acceptance`."""

import time

import grpc
import pytest

from support.dialect_streams import AT_ONCE_S, DOWN, GROWTH, IMPORT, KERNEL, MIB, TO_REST, UP, ending, rest_stage, stage, still
from support.pair import wait

HTTP = ("http1", "http2")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    with stage(tmp_path_factory.mktemp("streams")) as made:
        yield made


@pytest.fixture(scope="module")
def shelved(tmp_path_factory):
    with rest_stage(tmp_path_factory.mktemp("shelf")) as made:
        yield made


def slow_reader_that_goes(stage, name, http):
    """A caller reads a little of a stream, then nothing, then goes."""
    module = stage.module
    module.again()
    before = stage.side.resident_octets
    with stage.caller(http) as caller:
        stage.watch(caller, name, -1)
        assert len(caller.read(256 * 1024)) == 256 * 1024
        told = still(lambda: module.told)
        grown = stage.side.resident_octets - before
        assert told < KERNEL, f"{told / MIB:.1f} MiB went out"
        assert grown < GROWTH, f"{grown / MIB:.1f} MiB"
        assert len(caller.read(2 * MIB)) == 2 * MIB, "it goes on where it was"
        goes(caller, module)
    stage.settled()


def slow_module_that_is_left(stage, name, way, http):
    """A module takes one message of a stream, then nothing, then its caller goes."""
    module = stage.module
    module.again(slow=True)
    before = stage.side.resident_octets
    with stage.caller(http) as caller:
        caller.begin("POST", IMPORT, way.kind, way.more)
        piece = way.message(module.messages["Book"](title="x" * 65_536))
        written = 0
        while written < 64 * MIB:
            taken = caller.write(piece, 0.5)
            written += taken
            if taken < len(piece):
                break
        grown = stage.side.resident_octets - before
        assert written < KERNEL, f"{written / MIB:.1f} MiB were taken"
        assert grown < GROWTH, f"{grown / MIB:.1f} MiB"
        assert module.heard == 65_536
        goes(caller, module)  # also of a caller that is not read
    stage.settled()


def caller_that_goes(stage, way, http):
    """In the middle of its stream."""
    module = stage.module
    module.again()
    with stage.caller(http) as caller:
        caller.begin("POST", IMPORT, way.kind, way.more)
        caller.write(way.message(module.messages["Book"](title="a")))
        wait(lambda: module.heard == 1, "the first message")
        goes(caller, module)
    stage.settled()


def goes(caller, module):
    gone = time.monotonic()
    caller.cancel()
    assert module.gone.wait(2), "the module is never told"
    assert module.gone_at - gone < AT_ONCE_S


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("name", DOWN)
def test_a_caller_that_does_not_read_stops_the_module_and_its_going_is_heard_at_once(staged, name, http):
    slow_reader_that_goes(staged, name, http)


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("name", UP)
def test_a_module_that_does_not_read_stops_its_caller(staged, name, http):
    slow_module_that_is_left(staged, name, UP[name], http)


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("name", UP)
def test_a_caller_that_goes_in_the_middle_of_its_stream_is_heard_at_once(staged, name, http):
    caller_that_goes(staged, UP[name], http)


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("name", DOWN)
@pytest.mark.parametrize("status", [None, grpc.StatusCode.ABORTED])
def test_a_module_that_ends_a_stream_is_heard_at_once_in_the_callers_dialect(staged, name, http, status):
    module = staged.module
    module.again(title=10, ends=status)
    with staged.caller(http) as caller:
        staged.watch(caller, name, 1)
        caller.headed()
        said = caller.read(1)
        module.go.set()
        body = said + caller.rest()
        assert (caller.status, caller.was_reset) == (200, False)
        assert ending(name, body) == (10 if status else 0)
        assert caller.over_at - module.ended_at < AT_ONCE_S
    staged.settled()


@pytest.mark.parametrize("http", HTTP)
@pytest.mark.parametrize("name", UP)
def test_a_module_that_has_heard_enough_is_heard_by_a_caller_that_still_sends(staged, name, http):
    module = staged.module
    module.again(slow=True, ends=grpc.StatusCode.ABORTED)
    way = UP[name]
    with staged.caller(http) as caller:
        caller.begin("POST", IMPORT, way.kind, way.more)
        caller.write(way.message(module.messages["Book"](title="a")))
        wait(lambda: module.heard == 1, "the first message")
        module.go.set()
        body = caller.rest()
        assert ending(name, body) == 10, body
        assert caller.status == (409 if name == "rest-ndjson" else 200)
        assert caller.over_at - module.ended_at < AT_ONCE_S
    staged.settled()


@pytest.mark.parametrize("name", TO_REST)
def test_a_caller_that_does_not_read_stops_a_rest_module_and_its_going_is_heard_at_once(shelved, name):
    slow_reader_that_goes(shelved, name, "http2")


@pytest.mark.parametrize("name", TO_REST)
def test_a_rest_module_that_does_not_read_stops_its_caller(shelved, name):
    slow_module_that_is_left(shelved, name, TO_REST[name], "http2")


@pytest.mark.parametrize("name", TO_REST)
def test_a_rest_module_hears_at_once_of_a_caller_that_goes(shelved, name):
    caller_that_goes(shelved, TO_REST[name], "http2")
