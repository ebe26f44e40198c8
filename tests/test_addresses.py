"""Where webhooks may go."""

import pytest

from ticker_actors.model.addresses import allowed

PRIVATE = (
    "127.0.0.1",
    "10.0.0.1",
    "100.64.0.1",
    "172.31.255.1",
    "192.168.1.1",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "fc00::1",
)
"""What WEBHOOK_ALLOW_PRIVATE opens."""
NEVER = (
    "169.254.169.254",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "0.0.0.0",  # noqa: S104  # not bound to
    "::",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::",
    "2001:0:1::1",
    "::127.0.0.1",
    "fe80::1%eth0",
    "fec0::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
)
PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "::ffff:8.8.8.8",
    "2001:4860:4860::8888",
    "2606:4700:4700::1111",
)


def test_the_samples_are_all_there() -> None:
    """The table below has the 36 forbidden samples of the reference, once each."""
    assert len({*PRIVATE, *NEVER}) == 36


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_allowed(address: str, private: bool) -> None:  # noqa: FBT001
    """Metadata services, tunnels, multicast and the like are denied whatever the setting."""
    assert not allowed(address, private=private)


@pytest.mark.parametrize("address", PRIVATE)
def test_private_networks_are_the_operators_choice(address: str) -> None:
    """Loopback and private networks are allowed only when the operator said so."""
    assert not allowed(address, private=False)
    assert allowed(address, private=True)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_allowed(address: str, private: bool) -> None:  # noqa: FBT001
    """The whole public Internet may be told, in both families."""
    assert allowed(address, private=private)


@pytest.mark.parametrize(
    "edge",
    [
        ("9.255.255.255", "10.0.0.0"),
        ("11.0.0.0", "10.255.255.255"),
        ("100.63.255.255", "100.64.0.0"),
        ("100.128.0.0", "100.127.255.255"),
        ("172.15.255.255", "172.16.0.0"),
        ("172.32.0.0", "172.31.255.255"),
        ("223.255.255.255", "224.0.0.0"),
        ("2001:200::", "2001:1ff::"),
        ("3ffe:ffff::", "3fff::"),
        ("3fff:1000::", "3fff:fff::"),
    ],
    ids=lambda edge: edge[0],
)
def test_ranges_end_where_they_end(edge: tuple[str, str]) -> None:
    """The neighbour of a denied range is allowed, the last address within it is not."""
    outside, inside = edge
    assert allowed(outside, private=False)
    assert not allowed(inside, private=False)


@pytest.mark.parametrize("text", ["", "localhost", "0x7f.1", "127.1", "2130706433", "1.2.3.4/8"])
def test_what_is_no_address_is_denied(text: str) -> None:
    """Only a resolved address can be allowed, never a name or a short form."""
    assert not allowed(text, private=True)
