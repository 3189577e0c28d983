"""The codecs that hidden states can be kept in: how a chunk is encoded (by Zarr) and decoded (here)."""

from typing import Any

import crc32c
import numcodecs.blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from actlas.store.errors import InvalidInput

# Compressor and shuffle of each codec. Every chain ends with a crc32c; `none` has nothing else.
CODECS: dict[str, tuple[str, str] | None] = {
    "none": None,
    "lz4": ("lz4", "noshuffle"),
    "zstd": ("zstd", "noshuffle"),
    "blosc-lz4": ("lz4", "shuffle"),
    "blosc-zstd": ("zstd", "shuffle"),
    "blosc-bit-lz4": ("lz4", "bitshuffle"),
    "blosc-bit-zstd": ("zstd", "bitshuffle"),
}
CODEC = "blosc-zstd"  # docs/benchmarks/codecs.md says why

CRC_BYTES = 4
BLOCK_BYTES = 1 << 20  # blosc's own choice shrinks bf16 by 1.28, this by 1.45 to 1.49

_LEVEL = 1
_BLOSC_HEADER_BYTES = 16


def check_codec(name: str) -> str:
    """Return `name` when it is a codec.

    Raises
    ------
    InvalidInput
        When it is none.
    """
    if name not in CODECS:
        raise InvalidInput(f"codec {name!r}: expected one of {', '.join(CODECS)}")
    return name


def compressors(codec: str, itemsize: int) -> list[Any]:
    """Return the Zarr codecs between numbers and file."""
    choice = CODECS[codec]
    if choice is None:
        return [Crc32cCodec()]
    compressor, shuffle = choice
    blosc = BloscCodec(
        cname=compressor,  # type: ignore[arg-type]
        clevel=_LEVEL,
        shuffle=shuffle,  # type: ignore[arg-type]
        typesize=itemsize,
        blocksize=BLOCK_BYTES,
    )
    return [blosc, Crc32cCodec()]


def fits_checksum(data: memoryview, checksum: memoryview) -> bool:
    """Return whether bytes have the crc32c that was stored with them."""
    return crc32c.crc32c(data) == int.from_bytes(checksum, "little")


def decompress(encoded: memoryview, out: memoryview) -> None:
    """Decode what blosc encoded into `out`.

    Raises
    ------
    ValueError
        When it is damaged or does not decode to exactly the bytes of `out`.
    """
    header = encoded[:_BLOSC_HEADER_BYTES]
    if len(header) < _BLOSC_HEADER_BYTES:
        raise ValueError("too short for a blosc header")
    n_decoded, n_encoded = (int.from_bytes(header[at : at + 4], "little") for at in (4, 12))
    if (n_decoded, n_encoded) != (len(out), len(encoded)):  # a bomb is refused before it goes off
        raise ValueError(f"expected {len(encoded)} bytes that decode to {len(out)}, got {n_encoded} and {n_decoded}")
    numcodecs.blosc.decompress(encoded, out)
