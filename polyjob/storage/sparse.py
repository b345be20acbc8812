"""Sparse files: find their data, and describe it in a tar.

A hole takes no space on the disk, so a file of terabytes can have a few bytes of data. A tarball has such a file as a
sparse member in GNU's old format, which GNU tar, bsdtar and Python's tarfile read: a header with the first four
extents, more headers with 21 extents each, and then only the data.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO

Extents = list[tuple[int, int]]
"""The (offset, length) of each piece of data, in order. Everything between them is zeros."""

MAX_EXTENTS = 16_384
"""Extents of one file. Everything after them counts as data."""
_ALIGNMENT = 4096
_MIN_HOLE_BYTES = 1 << 16
"""Smaller holes are stored as zeros."""
_BLOCK = tarfile.BLOCKSIZE
_EXTENTS_IN_HEADER, _EXTENTS_IN_EXTENSION = 4, 21
_MAP_AT, _IS_EXTENDED_AT, _REAL_SIZE_AT, _CHECKSUM_AT = 386, 482, 483, 148
"""Offsets of the fields in a header."""


def find_extents(file: int, status: os.stat_result) -> Extents | None:
    """Return the extents of a file, or None if all of it counts as data. Moves the file's position to the start."""
    if status.st_blocks * 512 >= status.st_size:
        return None
    extents: Extents = []
    for count, (start, end) in enumerate(_data_ranges(file, status.st_size)):
        if count == MAX_EXTENTS:
            end = status.st_size
        start = start // _ALIGNMENT * _ALIGNMENT
        end = min(status.st_size, -(-end // _ALIGNMENT) * _ALIGNMENT)
        if extents and start - sum(extents[-1]) < _MIN_HOLE_BYTES:
            start = extents.pop()[0]
        extents.append((start, end - start))
        if end == status.st_size:
            break
    os.lseek(file, 0, os.SEEK_SET)
    return None if extents == [(0, status.st_size)] else extents


def _data_ranges(file: int, size: int) -> Iterator[tuple[int, int]]:
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is no more data
                return
            start, end = end, size  # this file system does not report holes
        if start < size:
            yield start, min(end, size)


class ExtentReader:
    """Reads the data of an open file.

    A read error ends the data, because the header of the file is already in the tarball.
    """

    def __init__(self, file: BinaryIO, extents: Extents | None, raised: Collection[int]) -> None:
        """`raised`: errno values of errors that are raised and do not end the data."""
        self._file = file
        self._raised = raised
        self._extents = iter(extents) if extents is not None else iter([(0, 1 << 62)])
        self._remaining = 0

    def read(self, size: int) -> bytes:
        try:
            while not self._remaining:
                start, self._remaining = next(self._extents, (0, -1))
                if self._remaining < 0:
                    return b""
                self._file.seek(start)
            data = self._file.read(min(size, self._remaining))
        except OSError as error:
            if error.errno in self._raised:
                raise
            return b""
        self._remaining -= len(data)
        return data


def sparse_header(info: tarfile.TarInfo, extents: Extents) -> tuple[bytes, bytes]:
    """Return (all headers of a sparse member, the ones of these with the map). `info.size` is the size of the file."""
    extents = [*extents]
    size, info.size = info.size, sum(length for _, length in extents)
    if not extents or sum(extents[-1]) < size:
        extents.append((size, 0))
    info.type = tarfile.GNUTYPE_SPARSE
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    info.size = size
    first, rest = extents[:_EXTENTS_IN_HEADER], extents[_EXTENTS_IN_HEADER:]
    last = bytearray(header[-_BLOCK:])
    last[_MAP_AT : _MAP_AT + 24 * len(first)] = _pack_extents(first)
    last[_IS_EXTENDED_AT] = bool(rest)
    last[_REAL_SIZE_AT : _REAL_SIZE_AT + 12] = _number(size)
    last[_CHECKSUM_AT : _CHECKSUM_AT + 8] = b" " * 8
    last[_CHECKSUM_AT : _CHECKSUM_AT + 8] = b"%06o\0 " % sum(last)
    for at in range(0, len(rest), _EXTENTS_IN_EXTENSION):
        part = _pack_extents(rest[at : at + _EXTENTS_IN_EXTENSION])
        is_extended = at + _EXTENTS_IN_EXTENSION < len(rest)
        last += part.ljust(24 * _EXTENTS_IN_EXTENSION, b"\0") + bytes([is_extended]).ljust(8, b"\0")
    return header[:-_BLOCK] + bytes(last), bytes(last)


def read_map(read: Callable[[int], bytes]) -> Extents:
    """Read the headers that `sparse_header` makes, and nothing after them. Raises ValueError for anything else."""
    header = read(_BLOCK)
    if len(header) < _BLOCK or header[156:157] != tarfile.GNUTYPE_SPARSE:
        raise ValueError("not a header of a sparse file")
    extents, is_extended = _unpack_extents(header[_MAP_AT : _MAP_AT + 24 * _EXTENTS_IN_HEADER]), header[_IS_EXTENDED_AT]
    while is_extended:
        block = read(_BLOCK)
        if len(block) < _BLOCK:
            raise ValueError("the map of a sparse file ends too early")
        extents += _unpack_extents(block[: 24 * _EXTENTS_IN_EXTENSION])
        is_extended = block[24 * _EXTENTS_IN_EXTENSION]
    return extents


def _pack_extents(extents: Extents) -> bytes:
    return b"".join(_number(offset) + _number(length) for offset, length in extents)


def _unpack_extents(data: bytes) -> Extents:
    numbers = [_value(data[at : at + 12]) for at in range(0, len(data), 12)]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return [(offset, length) for offset, length in pairs if length]


def _number(value: int) -> bytes:
    """Return a number in 12 bytes: octal digits, or base 256 for large numbers."""
    return b"%011o\0" % value if value < 8**11 else b"\x80" + value.to_bytes(11, "big")


def _value(field: bytes) -> int:
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field.rstrip(b" \0") or b"0", 8)
