"""`X-Forwarded-For`: whose request it is, and whose word is taken for it."""

import pytest

from ticker_actors.model.proxies import client_address, networks

TRUSTED = networks(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1"])


@pytest.mark.parametrize(
    "peer, forwarded, client",
    [
        # Nobody's word, or no word.
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("", ["198.51.100.1"], ""),
        ("<local>", ["198.51.100.1"], "<local>"),
        # One proxy, and what its client made up.
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        ("10.0.0.1", ["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.5, 198.51.100.1"], "198.51.100.1"),
        # Several proxies, one header each or one for all.
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["1.1.1.1 ,198.51.100.1", " 10.0.0.2\t"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        # IPv6, ports, and both.
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("fd00::2", ["2001:DB8:0::1, fd00::1"], "2001:db8::1"),
        ("::1", ["[2001:db8::1]"], "2001:db8::1"),
        ("::1", ["[2001:db8::1]:4711"], "2001:db8::1"),
        ("10.0.0.1", ["198.51.100.1:4711, 10.0.0.2:80"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "::ffff:203.0.113.9"),
        ("::1", ["fe80::1%eth0"], "fe80::1"),
        # Garbage ends it at the last hop that can be believed.
        ("10.0.0.1", ["unknown"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1, , 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["198.51.100.1,"], "10.0.0.1"),
        ("10.0.0.1", ["999.1.1.1"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:port"], "10.0.0.1"),
        ("10.0.0.1", ["[198.51.100.1"], "10.0.0.1"),
        ("10.0.0.1", ["\x00\xff]:[, :1:, [], []:1"], "10.0.0.1"),
        ("10.0.0.1", [":" * 16_000], "10.0.0.1"),
        ("10.0.0.1", ["3405803777"], "10.0.0.1"),
    ],
)
def test_the_nearest_hop_that_is_not_trusted_is_the_client(
    peer: str, forwarded: list[str], client: str
) -> None:
    """Read from the right, on from trusted hops only; what is no address is not read past."""
    assert client_address(peer, forwarded, TRUSTED) == client


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    """Not even on loopback: there anybody on the machine can send it."""
    assert client_address("127.0.0.1", ["198.51.100.1"], ()) == "127.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "proxy.example",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "*",
        "10.0.0.1:80",
        "::ffff:10.0.0.0/104",
    ],
)
def test_what_is_no_network_is_named(text: str) -> None:
    """In the error, whatever stands beside it."""
    with pytest.raises(ValueError, match="^" + text.replace("*", r"\*") + "$"):
        networks(["10.0.0.1", text])
