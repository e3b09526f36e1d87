"""What tests and simulations of the overlay stand on: virtual time, an overlay in memory, conformance checks.

Import the submodules: `p2p.testing.overlay`, `p2p.testing.clock`, `p2p.testing.determinism`,
`p2p.testing.conformance`. Nothing here is imported by a node in production.
"""
