"""Errors of file transfer.

FilesError              (local: what the caller did or has)
├── BadUrl              not a gftp URL
├── NotPublished        no file or slot under that name here
└── LocalFileError      the local file cannot be read or written
RemoteFilesError        (remote: what the peer did)
├── Refused             the peer has no such file, or does not take it
└── TransferBroken      the stream ended early, or the content is not what its name says
"""


class FilesError(Exception):
    """A local fault."""


class BadUrl(FilesError):
    """Not a gftp URL."""


class NotPublished(FilesError):
    """No file or slot of that name is open here."""


class LocalFileError(FilesError):
    """The local file cannot be read or written."""


class RemoteFilesError(Exception):
    """A fault of the peer or of the way to it."""


class Refused(RemoteFilesError):
    """The peer has no such file, or does not take it."""


class TransferBroken(RemoteFilesError):
    """The transfer ended early, or its content is not what its name says."""
