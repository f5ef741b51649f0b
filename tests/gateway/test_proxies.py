"""Whose address a connection counts for."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxies import Proxies

OURS = Proxies(["10.0.0.0/8", "192.168.1.1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),  # the left one is only said
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9,192.168.1.1,fd00::7"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9, 10.9.9.9"], "203.0.113.9"),
        ("10.0.0.1", ["rubbish, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1"),
        ("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, ::ffff:10.1.1.1"], "203.0.113.9"),
        # nothing that helps: the peer's own
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, rubbish"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, "], "10.0.0.1"),
        ("10.0.0.1", ["", ""], "10.0.0.1"),
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:http"], "10.0.0.1"),
        ("10.0.0.1", ["[2001:db8::1"], "2001:db8::1"),
        ("10.0.0.1", ["[2001:db8::1]x"], "10.0.0.1"),
        ("10.0.0.1", ["2001:db8::1%eth0"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.0/24"], "10.0.0.1"),
        ("10.0.0.1", ["3405803785"], "10.0.0.1"),
        # not a proxy of ours: what it says is anybody's word
        ("203.0.113.50", ["198.51.100.1"], "203.0.113.50"),
        ("192.168.1.2", ["198.51.100.1"], "192.168.1.2"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_rightmost_address_that_is_no_proxys(peer: str, forwarded: list[str], client: str) -> None:
    assert OURS.client(peer, forwarded) == client


def test_without_proxies_nobody_is_asked() -> None:
    assert Proxies(()).client("10.0.0.1", ["203.0.113.9"]) == "10.0.0.1"


@given(st.lists(st.text(max_size=40), max_size=4), st.sampled_from(["10.0.0.1", "203.0.113.50", "", "?"]))
def test_any_header_gives_an_address_or_the_peers(forwarded: list[str], peer: str) -> None:
    client = OURS.client(peer, forwarded)
    assert client == peer or str(ipaddress.ip_address(client)) == client


@given(st.lists(st.text(max_size=20), max_size=3), st.ip_addresses(v=4))
def test_what_a_client_says_itself_moves_nothing(said: list[str], address: ipaddress.IPv4Address) -> None:
    """The proxy appends who asked it, whatever stood there before."""
    ours = OURS.client("10.0.0.1", [str(address)])
    assert OURS.client("10.0.0.1", [*said, str(address)]) == ours or ours == "10.0.0.1"
