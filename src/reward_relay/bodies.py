"""Answers read whole, but never more than a limit, neither as they come nor unpacked.

The relay asks for answers as they are (`Accept-Encoding: identity`). Servers that pack them all the same are
understood for gzip and deflate, which unpack piece by piece: a megabyte can hold a gigabyte, and, packed twice, a
thousand of them.
"""

import zlib
from collections.abc import AsyncIterable

WANTED = "identity"
PLAIN = ("", "identity")
WINDOW = {"gzip": 31, "x-gzip": 31, "deflate": 15}


class TooMuch(Exception):
    """The answer is over the limit."""


class Odd(Exception):
    """The answer cannot be unpacked; the message says why."""


async def read(parts: AsyncIterable[bytes], encoding: str, limit: int) -> bytes:
    """The body of an answer with this `Content-Encoding`.

    Raises:
        TooMuch: it is over `limit` bytes, packed or unpacked; the rest was not read.
        Odd: it is packed in a way that we did not ask for and cannot read, or broken.
    """
    encoding = encoding.strip().lower()
    if encoding not in PLAIN and encoding not in WINDOW:
        raise Odd(f"it is packed as {encoding[:40]!r}, which was not asked for")
    found, size = bytearray(), 0
    unpacker = None if encoding in PLAIN else zlib.decompressobj(WINDOW[encoding])
    async for part in parts:
        size += len(part)
        room = limit - len(found)
        if size > limit:
            raise TooMuch
        found += part if unpacker is None else _unpacked(unpacker, part, room)
        if len(found) > limit:
            raise TooMuch
    if unpacker is not None and size and not unpacker.eof:
        raise Odd("it is packed, and ends too early")
    return bytes(found)


def _unpacked(unpacker: "zlib._Decompress", part: bytes, room: int) -> bytes:
    try:
        return unpacker.decompress(part, room + 1)
    except zlib.error as error:
        raise Odd(f"it is packed and broken ({error})") from None
