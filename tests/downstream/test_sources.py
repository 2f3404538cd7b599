"""Places by address: a cap for each, and the last ones for those who have proved who they are (threats C9)."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from flui.downstream import sources as module
from flui.downstream.sources import REMEMBERED, RESERVED, Sources


def full_to(most, address="10.0.0.9"):
    """Sources whose places are taken from one address but for the reserved share."""
    sources = Sources()
    for _ in range(most - most // RESERVED):
        assert sources.refuses(address, most, most) == ""
        sources.enter(address)
    return sources


def test_an_address_has_no_more_places_than_its_cap_and_the_others_do_not_notice():
    sources = Sources()
    for _ in range(3):
        assert sources.refuses("10.0.0.1", 100, 3) == ""
        sources.enter("10.0.0.1")
    assert sources.refuses("10.0.0.1", 100, 3) == "per_source"
    assert sources.refuses("10.0.0.2", 100, 3) == ""
    sources.leave("10.0.0.1", proven=False)
    assert sources.refuses("10.0.0.1", 100, 3) == ""


def test_a_proven_address_has_the_same_cap():
    sources = Sources()
    sources.enter("10.0.0.1")
    sources.prove("10.0.0.1")
    assert sources.refuses("10.0.0.1", 100, 1) == "per_source"


def test_the_last_tenth_is_for_proven_addresses():
    sources = full_to(100)
    assert sources.total == 90
    assert sources.refuses("10.0.0.1", 100, 100) == "reserved"
    assert sources.refuses("10.0.0.9", 100, 100) == "reserved"
    sources.prove("10.0.0.9")
    assert sources.refuses("10.0.0.9", 100, 100) == ""
    assert sources.refuses("10.0.0.1", 100, 100) == "reserved"


def test_who_was_proven_before_the_flood_is_let_in_during_it():
    """A peer that opens a connection for each call has none at the moment that counts."""
    sources = full_to(100)
    sources.leave("10.0.0.9", proven=False)
    sources.enter("10.0.0.1")
    sources.prove("10.0.0.1")
    sources.leave("10.0.0.1", proven=True)
    sources.enter("10.0.0.9")
    assert sources.refuses("10.0.0.1", 100, 100) == ""
    assert sources.refuses("10.0.0.2", 100, 100) == "reserved"


def test_a_caller_that_proved_nothing_makes_its_address_no_better():
    sources = full_to(100)
    sources.leave("10.0.0.9", proven=False)
    sources.enter("10.0.0.1")
    sources.leave("10.0.0.1", proven=False)
    sources.enter("10.0.0.9")
    assert sources.refuses("10.0.0.1", 100, 100) == "reserved"


def test_a_listener_of_few_places_reserves_none():
    sources = full_to(9)
    assert sources.total == 9
    assert Sources().refuses("10.0.0.1", 1, 1) == ""


def test_what_is_remembered_is_bounded_and_the_longest_gone_is_forgotten_first():
    sources = Sources()
    for number in range(REMEMBERED + 10):
        sources.enter(str(number))
        sources.prove(str(number))
        sources.leave(str(number), proven=True)
    for _ in range(90):
        sources.enter("flood")
    assert sources.refuses("9", 100, 100) == "reserved"
    assert sources.refuses("10", 100, 100) == ""
    assert len(sources._gone) == REMEMBERED


def test_one_that_comes_back_is_not_forgotten_meanwhile(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 2)
    sources = Sources()

    def visits(address):
        sources.enter(address)
        sources.prove(address)
        sources.leave(address, proven=True)

    for address in ("a", "b", "a", "c"):
        visits(address)
    assert list(sources._gone) == ["a", "c"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60), st.randoms())
def test_when_all_have_left_nothing_is_counted(callers, random):
    sources = Sources()
    for address, proven in callers:
        sources.enter(address)
        if proven:
            sources.prove(address)
    assert sources.total == len(callers)
    assert sources._by_address == Counter(address for address, _ in callers)
    random.shuffle(callers)
    for address, proven in callers:
        sources.leave(address, proven=proven)
    assert sources.total == 0
    assert not sources._by_address
    assert not sources._proven
    assert set(sources._gone) == {address for address, proven in callers if proven}
