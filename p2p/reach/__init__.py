"""How a node is reached that cannot simply be dialled: verdict, relays, hole punching, port mapping.

Sans-IO cores beside trio drivers, on the small interface that `host` describes and `p2p.host` implements; without
libp2p, but with its wire: AutoNAT v2, circuit relay v2, DCUtR. `verdict` says what the node has found out about
itself, and `judge` from what.
"""
