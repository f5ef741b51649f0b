"""Whose connection it is where proxies stand in front (spec 2: the limit of an address)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Proxies:
    """The networks whose word on a client's address is taken, as CIDR."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def client(self, peer: str, forwarded: Sequence[str]) -> str:
        """The rightmost address in the `X-Forwarded-For` lines that none of our proxies has, for each proxy adds on the
        right who asked it, and what stands left of that anybody may have written. Otherwise the peer's own, and also
        where something there is no address."""
        if not self._networks or not self._is_trusted(_address(peer)):
            return peer
        for entry in reversed(",".join(forwarded).split(",")):
            address = _address(entry.strip())
            if address is None:
                break
            if not self._is_trusted(address):
                return str(address)
        return peer

    def _is_trusted(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """An address as proxies write it: bare, `v4:port`, `[v6]` or `[v6]:port`. One of IPv4 that is written
    as IPv6 (::ffff:…) becomes one of IPv4, so that it has one name."""
    if text.startswith("["):
        text, _, port = text[1:].partition("]")
        if port and not (port[0] == ":" and port[1:].isdecimal()):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not port.isdecimal():
            return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None  # any text may stand there: a way to have any number of addresses
        return address.ipv4_mapped or address
    return address
