import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flui.identity.spiffe import MAX_OCTETS, SpiffeId

GOOD = [
    ("spiffe://shop/web", "shop", "/web"),
    ("spiffe://shop", "shop", ""),
    ("spiffe://prod.shop-1_x.example/ns/a/sa/B.c_d-e", "prod.shop-1_x.example", "/ns/a/sa/B.c_d-e"),
    ("spiffe://1/...", "1", "/..."),
    ("spiffe://" + "a" * 255 + "/x", "a" * 255, "/x"),
    ("spiffe://shop/" + "x" * (MAX_OCTETS - len("spiffe://shop/")), "shop", "/" + "x" * (MAX_OCTETS - len("spiffe://shop/"))),
]

BAD = [
    ("", "does not begin"),
    ("shop/web", "does not begin"),
    ("https://shop/web", "does not begin"),
    ("SPIFFE://shop/web", "does not begin"),
    ("spiffe:/shop/web", "does not begin"),
    (" spiffe://shop/web", "does not begin"),
    ("spiffe://", "the trust domain is empty"),
    ("spiffe:///web", "the trust domain is empty"),
    ("spiffe://Shop/web", "upper case"),
    ("spiffe://shop:8443/web", "a port is not allowed"),
    ("spiffe://user@shop/web", "user information is not allowed"),
    ("spiffe://shop?x=1", "a query is not allowed"),
    ("spiffe://shop#x", "a fragment is not allowed"),
    ("spiffe://sh%6fp/web", "percent-encoding"),
    ("spiffe://[::1]/web", "the trust domain has '['"),
    ("spiffe://shop\\web", "the trust domain has"),
    ("spiffe://" + "a" * 256 + "/x", "256 octets, more than 255"),
    ("spiffe://shop/", "ends with a slash"),
    ("spiffe://shop/web/", "ends with a slash"),
    ("spiffe://shop//web", "empty segment"),
    ("spiffe://shop/a//b", "empty segment"),
    ("spiffe://shop/.", "segment '.'"),
    ("spiffe://shop/../admin", "segment '..'"),
    ("spiffe://shop/a/./b", "segment '.'"),
    ("spiffe://shop/%2e%2e/admin", "percent-encoding"),
    ("spiffe://shop/web?x=1", "a query is not allowed"),
    ("spiffe://shop/web#x", "a fragment is not allowed"),
    ("spiffe://shop/we b", "the path has ' '"),
    ("spiffe://shop/web\n", "the path has '\\n'"),
    ("spiffe://shop/web\x00.evil", "the path has '\\x00'"),
    ("spiffe://shop/wéb", "outside ASCII"),
    ("spiffe://shop/\uff0e\uff0e/x", "outside ASCII"),
    ("spiffe://shop/" + "x" * MAX_OCTETS, "more than 2048"),
]


@pytest.mark.parametrize(("text", "trust_domain", "path"), GOOD, ids=range(len(GOOD)))
def test_an_id_is_taken_exactly_as_it_stands(text, trust_domain, path):
    spiffe_id = SpiffeId.parse(text)
    assert (spiffe_id.trust_domain, spiffe_id.path) == (trust_domain, path)
    assert str(spiffe_id) == text


@pytest.mark.parametrize(("text", "why"), BAD, ids=range(len(BAD)))
def test_whatever_another_reader_could_take_for_a_different_id_is_refused(text, why):
    """Threats E4."""
    with pytest.raises(ValueError) as refused:
        SpiffeId.parse(text)
    assert why in str(refused.value)


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.sampled_from(["", "spiffe://", "spiffe://shop/", "spiffe://shop/a/"]))
def test_parse_takes_what_the_grammar_says_and_nothing_else(tail, head):
    text = head + tail
    grammar = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)*", re.ASCII)
    why = ""
    try:
        taken = str(SpiffeId.parse(text)) == text
    except ValueError as e:
        taken, why = False, str(e)
    assert why.isascii()
    assert not why or why.isprintable(), "a peer's characters never reach a terminal raw"
    assert taken == bool(grammar.fullmatch(text))
