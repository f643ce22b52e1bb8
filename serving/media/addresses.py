"""Which hosts and addresses the server opens connections to on a client's behalf."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from yarl import URL

from serving.errors import InvalidRequest

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

BAD_URL = "The provided URL does not appear to be valid. Ensure it is correctly formatted."
FORBIDDEN = "Don't have authorization to access the media resource during the data inspection process."
MAX_URL = 8192

METADATA_HOSTS = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
    }
)
METADATA = tuple(
    ipaddress.ip_network(each)
    for each in (
        "169.254.169.254",  # most clouds
        "169.254.170.0/24",  # containers on AWS
        "169.254.169.123",
        "169.254.0.23",  # Tencent
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure; a public address
        "192.0.0.192",  # Oracle
        "fd00:ec2::/32",
        "fd20:ce::254",
        "fe80::a9fe:a9fe",
    )
)
"""Where clouds hand credentials to whoever asks from inside; no allow list opens them."""

NOT_PUBLIC = tuple(ipaddress.ip_network(each) for each in ("192.88.99.0/24", "fec0::/10", "::/96", "2002::/16"))
"""Retired ranges that `ipaddress` takes for global ones in some versions of Python."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)
NUMERIC_LABEL = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)", re.IGNORECASE)
NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62}\.)*[a-z0-9_-]{0,63}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Guard:
    """Lets through what is public, or named by the operator: host names, and networks of addresses."""

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()
    setting: str = "HOMESCOPE_FETCH_ALLOW"
    """With which the operator names them."""

    @classmethod
    def allowing(cls, entries: Iterable[str], setting: str = "HOMESCOPE_FETCH_ALLOW") -> Guard:
        """Each entry is a host name, an address or a network in CIDR form. Raises `ValueError`."""
        hosts, networks = set(), []
        for entry in entries:
            try:
                networks.append(ipaddress.ip_network(entry))
            except ValueError:
                if not NAME.fullmatch(entry) or NUMERIC_LABEL.fullmatch(entry.rpartition(".")[2]):
                    raise ValueError(f"{entry!r} is neither a host name nor a network such as 10.1.0.0/16") from None
                hosts.add(entry.lower())
        return cls(frozenset(hosts), tuple(networks), setting)

    def url(self, reference: str | URL) -> URL:
        """The URL, fit to be opened as far as its text tells. Raises `InvalidRequest`."""
        url = _parsed(reference)
        host = url.raw_host or ""
        address = literal(host)
        if address is not None:
            self.address(host, address)
        elif host.lower().rstrip(".") in METADATA_HOSTS:
            raise InvalidRequest(f"{FORBIDDEN} [the host is a metadata service]")
        return url

    def address(self, host: str, address: Address) -> None:
        """Raises `InvalidRequest` for an address behind `host` that may not be connected to."""
        forms = tuple(meanings(address))
        if any(form in network for form in forms for network in METADATA):
            raise InvalidRequest(f"{FORBIDDEN} [the host is a metadata service]")
        if host.lower().rstrip(".") in self.hosts:
            return
        if any(form in network for form in forms for network in self.networks):
            return
        if not all(public(form) for form in forms):
            raise InvalidRequest(
                f"{FORBIDDEN} [the host {host[:80]} is not on the public Internet; the operator of this server can "
                f"allow it with {self.setting}]"
            )


PUBLIC_ONLY = Guard()


def _parsed(reference: str | URL) -> URL:
    try:
        if isinstance(reference, str) and (len(reference) > MAX_URL or not reference.isprintable() or " " in reference):
            raise ValueError
        url = URL(reference)
        host = url.raw_host or ""
        if url.scheme not in ("http", "https") or not host or not url.port:
            raise ValueError
        _ = url.host  # what a name that begins with xn-- decodes to; raises UnicodeError for one that does not
        if literal(host) is None and not NAME.fullmatch(host.rstrip(".")):
            raise ValueError
    except ValueError:
        raise InvalidRequest(BAD_URL) from None
    if url.user is not None or url.password is not None:
        raise InvalidRequest(f"{BAD_URL} [a URL with a user name or password is not fetched]")
    return url.with_fragment(None)


def literal(host: str) -> Address | None:
    """The address that `host` spells out. Raises `ValueError` for spellings that programs read differently: 127.1,
    0x7f000001, 017700000001, zones."""
    bare = host.rstrip(".")
    if ":" in bare:
        return IPv6Address(_without_zone(bare))
    if NUMERIC_LABEL.fullmatch(bare.rpartition(".")[2]):
        if bare != host:
            raise ValueError(host)
        return IPv4Address(bare)
    return None


def _without_zone(host: str) -> str:
    if "%" in host:
        raise ValueError(host)
    return host


def meanings(address: Address) -> Iterator[Address]:
    """The address, or those that packets to it would reach in the end."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    low = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in NAT64:
        yield low
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if (int(address) >> 32) & 0xFFFF_FFFF in ISATAP or int(address) >> 32 == 0:
        yield low


def public(address: Address) -> bool:
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NOT_PUBLIC)
    )
