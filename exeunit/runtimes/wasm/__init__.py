"""The WASM runtime: one process per command, driven by the supervisor through the one-shot command line.

A process of its own because wasmtime can abort the whole process it lives in; here that ends one command.

Files: `cli` (command line), `image` (what a task package holds), `deployment` (what `deploy` leaves for `run`),
`modules` (engine settings, compiled modules), `gate` (the disk quota, in front of WASI), `guest` (one run), `errors`.
"""
