"""What crosses the wire in a file transfer, and between the node and its local programs.

Protocol `files`, major 1: one stream a transfer. The opener sends one header frame (`Get` or `Put`), the
other side answers with one (`Found` or `No`). After `Found` for a `Get` the bytes follow, raw, to the end of
the stream. After `Found` for a `Put` the opener sends the bytes and finishes sending; the receiver answers
with `Stored`. A frame is a 4-byte big-endian length and canonical CBOR (`p2p.codec`).

The same two headers open a transfer on a node's bulk socket (`Open`), where a supervisor says which node it
wants to reach; from there on the node only copies bytes.
"""

from __future__ import annotations

import msgspec

PROTOCOL = "files"
MAJOR = 1

MAX_HEADER_BYTES = 4096
CHUNK_BYTES = 256 * 1024


class Get(msgspec.Struct, frozen=True, tag="get"):
    """Asks for a file, from `offset` to its end."""

    name: str
    offset: int = 0
    """Bytes to skip."""


class Put(msgspec.Struct, frozen=True, tag="put"):
    """Offers a file for a slot that the other side opened."""

    name: str
    size: int
    """Bytes that will follow."""


class Found(msgspec.Struct, frozen=True, tag="found"):
    """The transfer may go on."""

    size: int
    """Bytes of the whole file for a `Get`; bytes expected for a `Put`."""


class No(msgspec.Struct, frozen=True, tag="no"):
    """The transfer is refused."""

    message: str


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """The whole file has been written."""

    size: int
    sha3: str
    """SHA3-256 of what was written, in hexadecimal."""


class Open(msgspec.Struct, frozen=True, tag="open"):
    """First frame on a bulk socket: who is calling, and which node it wants."""

    token: str
    node_id: str


Header = Get | Put | Found | No | Stored | Open


class Publish(msgspec.Struct, frozen=True):
    """Local: offer a file for download. The reply is `Published`."""

    path: str
    session: str = ""
    """What it belongs to, from `OpenSession`; with none, it stays until closed or the node stops."""


class Receive(msgspec.Struct, frozen=True):
    """Local: open a slot that one file may be uploaded into. The reply is `Published`."""

    path: str
    session: str = ""


class Published(msgspec.Struct, frozen=True):
    """A file or slot is open under `url`."""

    url: str


class Close(msgspec.Struct, frozen=True):
    """Local: take a URL back, as often as it was published. The reply is `Closed`."""

    url: str
    session: str = ""
    """The session that it was published in."""


class Closed(msgspec.Struct, frozen=True):
    """Whether the URL was open."""

    was_open: bool


class Download(msgspec.Struct, frozen=True):
    """Local: fetch a URL into a file. The reply is `Moved`."""

    url: str
    path: str


class Upload(msgspec.Struct, frozen=True):
    """Local: send a file to a URL that `Receive` gave. The reply is `Moved`."""

    url: str
    path: str


class Moved(msgspec.Struct, frozen=True):
    """A transfer is complete."""

    size: int


class OpenSession(msgspec.Struct, frozen=True):
    """Local, streaming: the one item is a `Session`; what belongs to it is closed when the call ends."""


class Session(msgspec.Struct, frozen=True):
    """A session's name."""

    id: str
