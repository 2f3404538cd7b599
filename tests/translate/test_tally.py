"""Credit for chunks that became other chunks."""

from hypothesis import given
from hypothesis import strategies as st

from flui.translate.tally import Tally

CHUNKS = st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 200_000)), min_size=1, max_size=20)


def test_a_chunk_that_was_taken_in_part_is_paid_for_in_part():
    """A codec keeps up to half a window of credit back: a chunk as long as the window would else never be paid for."""
    tally = Tally()
    tally.owe(126_976, 95_232)
    assert tally.paid(65_536) == 126_976 * 65_536 // 95_232
    assert tally.paid(29_696) == 126_976 - 126_976 * 65_536 // 95_232
    assert tally.outstanding == 0


@given(CHUNKS, st.lists(st.integers(1, 300_000), max_size=30))
def test_what_is_paid_is_in_proportion_and_in_the_end_all_of_it(chunks, payments):
    tally = Tally()
    for source, became in chunks:
        tally.owe(source, became)
    owed = sum(became for _, became in chunks)
    paid = credited = 0
    for payment in payments:
        octets = min(payment, owed - paid)
        paid += octets
        credited += tally.paid(octets)
        assert tally.outstanding == owed - paid
        whole = left = 0
        for source, became in chunks:
            if left + became <= paid:
                whole += source
                left += became
            else:
                whole += source * (paid - left) // became
                break
        assert credited == whole
    credited += tally.paid(owed - paid)
    assert credited == sum(source for source, _ in chunks)
    assert tally.paid(5) == 0, "more than is owed pays for nothing"
    tally.owe(7, 3)
    assert tally.paid(3) == 7
