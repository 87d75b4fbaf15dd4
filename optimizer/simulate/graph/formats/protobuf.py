"""The protobuf wire format, as much of it as execution traces need: no dependency, one pass."""

from __future__ import annotations

from functools import cache

_VARINT, _BYTES = 0, 2
_64_BITS = (1 << 64) - 1


@cache
def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first; negative numbers as 64 bits."""
    number &= _64_BITS
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def integer(field: int, number: int) -> bytes:
    """A bool, enum or integer field."""
    return varint(field << 3 | _VARINT) + varint(number)


def text(field: int, value: str) -> bytes:
    return message(field, value.encode("utf-8"))


def message(field: int, body: bytes) -> bytes:
    """A field that is a message itself."""
    return varint(field << 3 | _BYTES) + varint(len(body)) + body


def packed(field: int, numbers: list[int]) -> bytes:
    """A repeated integer field; nothing where it is empty."""
    return message(field, b"".join(map(varint, numbers))) if numbers else b""


def delimited(body: bytes) -> bytes:
    """A message of a stream: its length before it."""
    return varint(len(body)) + body
