"""One compiled kernel as bytes: a checked header, JSON metadata and the cubin.

The layout, little-endian:

    offset  bytes  meaning
    0       8      magic, b"NUMBAFA" and a zero
    8       4      format version, uint32
    12      32     sha256 of everything after it
    44      4      length n of the metadata, uint32
    48      n      metadata: UTF-8 JSON object, the fields of `Artifact` but the cubin, and the store's key
    48 + n  rest   cubin

Nothing in it is executed on reading, which a pickle could not promise.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, fields

MAGIC = b"NUMBAFA\0"
FORMAT = 1
_HEAD = struct.Struct("<8sI32s")
_LENGTH = struct.Struct("<I")
_TYPES = {"str": str, "int": int, "dict": dict}


class CorruptArtifact(ValueError):
    """The bytes are not a whole, unaltered artifact; the message names what is wrong."""


@dataclass(frozen=True)
class Artifact:
    """One kernel's machine code and what the compiler said of it.

    slug          the dispatch key in words, such as fwd-sm90-bf16-d128-causal
    arch          the architecture compiled for, such as sm_90a
    entry         the kernel's name inside the cubin
    cubin         the ELF image for the driver
    registers     registers a thread
    stack         bytes of stack a thread
    spill_stores  bytes of registers a thread stores to memory for want of registers
    spill_loads   bytes it loads back
    shared_bytes  shared memory a block needs, in bytes
    threads       threads a block
    versions      name -> version of whatever shaped the code, strings
    """

    slug: str
    arch: str
    entry: str
    cubin: bytes
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared_bytes: int
    threads: int
    versions: dict = field(hash=False)

    @property
    def size(self) -> int:
        """Bytes of the machine code."""
        return len(self.cubin)

    def to_bytes(self, key: str = "") -> bytes:
        """The artifact in the layout above. `key` is recorded, and asked for again by `from_bytes`."""
        metadata = {name: getattr(self, name) for name in _METADATA} | {"key": key}
        return sealed(MAGIC, metadata, self.cubin)

    @classmethod
    def from_bytes(cls, blob: bytes, key: str = "") -> Artifact:
        """The artifact in `blob`. Raises `CorruptArtifact` if a byte is missing or wrong, or `key` is."""
        metadata, cubin = opened(MAGIC, _METADATA | {"key": str}, blob)
        recorded = metadata.pop("key")
        if recorded != key:
            raise CorruptArtifact(f"written for key {recorded!r}, read for {key!r}")
        return cls(cubin=cubin, **metadata)


_METADATA = {f.name: _TYPES[str(f.type)] for f in fields(Artifact) if f.name != "cubin"}


def sealed(magic: bytes, metadata: dict, rest: bytes) -> bytes:
    """Metadata and what follows it in the layout above."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    body = _LENGTH.pack(len(text)) + text + rest
    return _HEAD.pack(magic, FORMAT, hashlib.sha256(body).digest()) + body


def opened(magic: bytes, expected: dict, blob: bytes) -> tuple[dict, bytes]:
    """What `sealed` was given. expected: name -> type of all metadata. Raises `CorruptArtifact` for anything else."""
    text, rest = _split(_checked_body(blob, magic))
    return _parse(text, expected), rest


def _checked_body(blob: bytes, wanted: bytes) -> bytes:
    """What follows the head, once magic, format version and checksum have been found right."""
    if len(blob) < _HEAD.size:
        raise CorruptArtifact(f"{len(blob)} bytes, shorter than the {_HEAD.size} of the header")
    magic, version, digest = _HEAD.unpack_from(blob)
    if magic != wanted:
        raise CorruptArtifact(f"magic is {magic!r}, expected {wanted!r}")
    if version != FORMAT:
        raise CorruptArtifact(f"format version {version}, expected {FORMAT}")
    body = blob[_HEAD.size :]
    if hashlib.sha256(body).digest() != digest:
        raise CorruptArtifact(f"checksum of the {len(body)} bytes after the header is not the recorded one")
    return body


def _split(body: bytes) -> tuple[bytes, bytes]:
    """Metadata text and what follows it."""
    if len(body) < _LENGTH.size:
        raise CorruptArtifact("ends before the length of the metadata")
    (length,) = _LENGTH.unpack_from(body)
    end = _LENGTH.size + length
    if end > len(body):
        raise CorruptArtifact(f"metadata of {length} bytes runs past the end")
    return body[_LENGTH.size : end], body[end:]


def _parse(text: bytes, expected: dict) -> dict:
    """The metadata, every field present and of its type."""
    try:
        metadata = json.loads(text)
    except ValueError as error:
        raise CorruptArtifact(f"metadata is not JSON: {error}") from None
    if not isinstance(metadata, dict) or metadata.keys() != expected.keys():
        raise CorruptArtifact(f"metadata must be an object of exactly {sorted(expected)}")
    wrong = [name for name, kind in expected.items() if type(metadata[name]) is not kind]
    if wrong:
        raise CorruptArtifact(f"metadata of the wrong type: {', '.join(sorted(wrong))}")
    return metadata
