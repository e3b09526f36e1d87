"""What can go wrong in a transfer.

TransferError
 ├─ BadLocation     a URL that cannot be used: form, scheme, or a path that leaves its volume (the requestor's fault)
 ├─ Forbidden       a place that this provider does not let transfers reach
 ├─ WrongHash       the bytes are not those that were promised
 ├─ NoRoom          the activity's storage, or the size limit, would be passed
 ├─ LocalFailure    this machine could not read or write
 ├─ RemoteFailure   the other side refused; trying again would change nothing
 └─ Transient       the other side or the way to it failed; worth another try
"""


class TransferError(Exception):
    """A transfer failed; the message is what the requestor reads."""


class BadLocation(TransferError):
    pass


class Forbidden(TransferError):
    pass


class WrongHash(TransferError):
    pass


class NoRoom(TransferError):
    pass


class LocalFailure(TransferError):
    pass


class RemoteFailure(TransferError):
    pass


class Transient(TransferError):
    pass
