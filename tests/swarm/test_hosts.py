"""Which IP addresses belong together, and which belong to the internet."""

import pytest

from swarm.hosts import Nearness, group_of, is_address, is_public, nearness, share_of
from swarm.identity import PeerId


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("peer.example.org", "peer.example.org"),
        ("", ""),
    ],
)
def test_addresses_that_one_owner_has_for_nothing_have_one_name(host: str, group: str) -> None:
    assert group_of(host) == group


@pytest.mark.parametrize("host", ["8.8.8.8", "::ffff:8.8.8.8", "2600::1"])
def test_an_address_of_the_internet_is_public(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "192.168.0.1", "172.17.0.2", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "peer.example.org", "127.1", "",
    ],
)  # fmt: skip
def test_every_other_address_is_not(host: str) -> None:
    assert not is_public(host)


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("8.8.8.8", Nearness.INTERNET),
        ("peer.example.org", Nearness.INTERNET),
        ("", Nearness.INTERNET),
        ("10.1.2.3", Nearness.PRIVATE),
        ("169.254.169.254", Nearness.PRIVATE),
        ("fe80::1%eth0", Nearness.PRIVATE),
        ("127.9.9.9", Nearness.HERE),
        ("::ffff:127.0.0.1", Nearness.HERE),
        ("::1", Nearness.HERE),
        ("0.0.0.0", Nearness.HERE),
        ("::", Nearness.HERE),
    ],
)
def test_an_address_tells_how_near_a_computer_is_and_a_name_does_not(host: str, where: Nearness) -> None:
    assert nearness(host) == where


def test_a_name_is_no_address() -> None:
    assert not is_address("peer.example.org")
    assert is_address("::1")


def test_a_share_is_that_of_a_public_address_or_of_a_peer_in_a_private_network() -> None:
    anna = PeerId("anna")
    boris = PeerId("boris")
    assert share_of(anna, "2600::1") == share_of(boris, "2600::2")
    assert share_of(anna, "192.168.0.7") != share_of(boris, "192.168.0.7")
    assert share_of(anna, "") == share_of(anna, "192.168.0.7") == anna
