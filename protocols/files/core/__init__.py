"""gftp's rules and the walk of one transfer over any byte stream; used by nodes and exe-unit supervisors."""

from protocols.files.core.rules import (
    ContentCheck,
    HeaderReader,
    encode_header,
    format_url,
    parse_url,
    slot_name,
)
from protocols.files.core.transfer import ByteStream, File, download, read_header, send_file, upload

__all__ = [
    "ByteStream",
    "ContentCheck",
    "File",
    "HeaderReader",
    "download",
    "encode_header",
    "format_url",
    "parse_url",
    "read_header",
    "send_file",
    "slot_name",
    "upload",
]
