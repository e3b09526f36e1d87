"""The supervisor: one process per activity, between the node's bus and the runtime.

Files: `core` (states, batches, results: no I/O), `capture`, `eventlog`, `script` (its parts), `exeunit` (the driver),
`meter`, `runtime`, `child` (processes), `usage`, `agreement`, `journal`, `service` (bus), `cli`.
"""
