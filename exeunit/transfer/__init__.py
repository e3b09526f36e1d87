"""Moving files between an activity and the world: URL forms, schemes, checksums, retries, the image cache.

`transfer.Transfers` walks one transfer from any scheme to any other; a scheme is a small class (`scheme`). Nothing here
knows of exe scripts or states.
"""
