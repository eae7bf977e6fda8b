# SPDX-License-Identifier: Apache-2.0
"""Ports of a shared address that belong to one workload for its whole life: claims by (address, port).

A range of ports becomes aligned prefixes in ft_addr, a single port a key in ft_port. Both count only
where translators live: docs/translation.md. On the hook's path, so imports stay few.
"""

from __future__ import annotations

from bpf import abi, syscall
from bpf.error import FlowtagError
from identity import address as ip
from identity.claim import Claim, Stripe
from identity.oci import TRANSLATED as ANNOTATION

TCP = 6
TEXT_LIMIT = 1024
BLOCK_LIMIT = 16
_HINT = "write ADDRESS:PORT or ADDRESS:FIRST-LAST, with commas between; an IPv6 address in brackets"

# Prefixes whose addresses many hosts, or many namespaces of one host, have at once: first bytes, bits.
_NOT_UNIQUE = (
    (ip.from_text("0.0.0.0"), 96 + 8),  # noqa: S104 - a prefix, not a place to listen
    (ip.from_text("127.0.0.0"), 96 + 8),
    (ip.from_text("169.254.0.0"), 96 + 16),
    (ip.from_text("192.0.0.0"), 96 + 29),  # 464XLAT, RFC 7335
    (ip.from_text("224.0.0.0"), 96 + 3),  # multicast, reserved and broadcast
    (ip.from_text("::"), 127),  # and ::1
    (ip.from_text("fe80::"), 10),
    (ip.from_text("ff00::"), 8),
)


class Block:
    """The ports first to last, both included, of one address (16 bytes)."""

    __slots__ = ("address", "first", "last")

    def __init__(self, address: bytes, first: int, last: int) -> None:
        require_unique(address)
        if not 0 < first <= last < 65536:
            raise FlowtagError(f"taking ports {first}-{last} for a block: not within 1-65535", _HINT)
        self.address = address
        self.first = first
        self.last = last

    def prefixes(self) -> list[bytes]:
        """Keys of ft_addr that cover these ports and no others."""
        return [
            abi.ADDR_KEY.pack(128 + bits, self.address, port.to_bytes(2, "big"))
            for port, bits in split(self.first, self.last)
        ]

    def meets(self, other: Block) -> bool:
        """Whether a port is in both."""
        return self.address == other.address and self.first <= other.last and other.first <= self.last

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Block) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash((self.address, self.first, self.last))

    def __str__(self) -> str:
        text = ip.to_text(self.address)
        host = text if ip.is_ipv4(self.address) else f"[{text}]"
        return f"{host}:{self.first}" + (f"-{self.last}" if self.last != self.first else "")

    __repr__ = __str__


def require_unique(address: bytes) -> None:
    """FlowtagError for an address that can be somebody else's at the same time on one host."""
    number = int.from_bytes(address, "big")
    for prefix, bits in _NOT_UNIQUE:
        if (number ^ int.from_bytes(prefix, "big")) >> (128 - bits) == 0:
            raise FlowtagError(
                f"taking {ip.to_text(address)} for a shared address: it is not unique on a host",
                "loopback, link-local, 192.0.0.0/29, multicast and unspecified addresses name nobody",
            )


def split(first: int, last: int) -> list[tuple[int, int]]:
    """The fewest aligned prefixes for the ports first to last, as (port, bits of the port)."""
    found = []
    while first <= last:
        size = first & -first or 65536
        while first + size - 1 > last:
            size >>= 1
        found.append((first, 17 - size.bit_length()))
        first += size
    return found


def parse(text: str, shared: frozenset[bytes]) -> list[Block]:
    """The blocks that an annotation names, believed only for addresses in `shared` (16 bytes each).

    FlowtagError if anything in it is wrong: half an annotation is not believed.
    """
    items = text.split(",")
    if len(text) > TEXT_LIMIT or len(items) > BLOCK_LIMIT:
        raise FlowtagError(
            f"reading {ANNOTATION}: {len(text)} characters, {len(items)} blocks",
            f"at most {TEXT_LIMIT} and {BLOCK_LIMIT}",
        )
    blocks: list[Block] = []
    for item in items:
        block = _parse_one(item)
        if block.address not in shared:
            raise FlowtagError(
                f"reading {ANNOTATION}: {block}: the address is not configured as shared",
                "name it in [translation] shared_addresses, then run `flowtag maps create`",
            )
        for other in blocks:
            if block.meets(other):
                raise FlowtagError(f"reading {ANNOTATION}: {block} and {other} overlap", _HINT)
        blocks.append(block)
    return blocks


def parse_own(text: str) -> list[Block]:
    """The blocks in a text that parse() has accepted before."""
    return [_parse_one(item) for item in text.split(",")]


def _parse_one(item: str) -> Block:
    host, _, ports = item.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    first, dash, last = ports.partition("-")
    try:
        if bracketed != (":" in host):
            raise ValueError("brackets are for IPv6")
        address = ip.from_text(host[1:-1] if bracketed else host)
        return Block(address, _port(first), _port(last if dash else first))
    except ValueError:
        raise FlowtagError(f"reading {ANNOTATION}: {item!r:.60} is no block of ports", _HINT) from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6) or text[0] == "0":
        raise ValueError(f"not a port: {text!r:.20}")
    return int(text)


def port_key(address: bytes, port: int, netns: int = 0) -> bytes:
    """The key of ft_port; namespace 0 means any translator's."""
    return abi.PORT_KEY.pack(address, netns, port, TCP)


def claim(
    addresses: syscall.Map, ports: syscall.Map, blocks: list[Block], new: Claim, locks: str
) -> list[Block]:
    """Claim blocks in ft_addr and ft_port; returns those refused, because another's living claim is there.

    A block is claimed whole or not at all. Ended claims inside a new block are removed: a longer
    prefix, though ended, would hide it.
    """
    return [block for block in blocks if not _claim_one(addresses, ports, block, new, locks)]


def _claim_one(addresses: syscall.Map, ports: syscall.Map, block: Block, new: Claim, locks: str) -> bool:
    with Stripe(locks, _stripe(block)):
        hidden = []
        for entry in _entries(addresses, ports, block):
            if entry.claim.until == 0 and entry.claim.workload != new.workload:
                return False
            if entry.claim.until != 0 and block.first <= entry.first and entry.last <= block.last:
                hidden.append((entry.keys, entry.key))
        mine = _keys(addresses, ports, block)
        try:
            for keys, key in mine:
                keys.update(key, new.pack())
        except OSError as error:
            for keys, key in mine:
                keys.delete(key)
            raise FlowtagError(
                f"claiming {block} in {keys.name}: {error.strerror}", "see `flowtag check` for full maps"
            ) from error
        for keys, key in hidden:
            if (keys, key) not in mine:
                keys.delete(key)
    return True


def release(
    addresses: syscall.Map, ports: syscall.Map, blocks: list[Block], workload: int, now: int, locks: str
) -> int:
    """End the claims of `workload` on blocks, not those that are another's by now; returns how many keys."""
    count = 0
    for block in blocks:
        with Stripe(locks, _stripe(block)):
            mine = _keys(addresses, ports, block)
            for entry in _entries(addresses, ports, block):
                claim = entry.claim
                if (entry.keys, entry.key) in mine and claim.workload == workload and claim.until == 0:
                    claim.until = now
                    entry.keys.update(entry.key, claim.pack())
                    count += 1
    return count


class _Entry:
    """A key of ft_addr or ft_port that is on ports, with its claim."""

    __slots__ = ("claim", "first", "key", "keys", "last")

    def __init__(self, keys: syscall.Map, key: bytes, first: int, last: int, claim: Claim) -> None:
        self.keys = keys
        self.key = key
        self.first = first
        self.last = last
        self.claim = claim


def _stripe(block: Block) -> int:
    """One lock for all ports of an address: only who sees both blocks sees that they overlap."""
    return int.from_bytes(block.address[12:], "big")


def _keys(addresses: syscall.Map, ports: syscall.Map, block: Block) -> list[tuple[syscall.Map, bytes]]:
    if block.first == block.last:
        return [(ports, port_key(block.address, block.first))]
    return [(addresses, key) for key in block.prefixes()]


def _entries(addresses: syscall.Map, ports: syscall.Map, block: Block) -> list[_Entry]:
    """What is claimed of a block's ports, but for the next connect only.

    Read from the whole maps: a look-up in ft_addr finds the longest prefix, not the key asked for.
    """
    found = []
    for key, value in addresses.items():
        length, address, port = abi.ADDR_KEY.unpack(key)
        if address == block.address and length > 128:
            first = int.from_bytes(port, "big")
            last = first + (1 << (144 - length)) - 1
            found.append(_Entry(addresses, key, first, last, Claim.unpack(value)))
    for key, value in ports.items():
        address, _, port, protocol = abi.PORT_KEY.unpack(key)
        claim = Claim.unpack(value)
        if address == block.address and protocol == TCP and not claim.flags & abi.FLAG_ONCE:
            found.append(_Entry(ports, key, port, port, claim))
    return [entry for entry in found if entry.first <= block.last and block.first <= entry.last]
