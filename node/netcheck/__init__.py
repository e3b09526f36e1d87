"""`golem-p2p netcheck`: what is the matter with the network, and what to do about it.

`facts` says what was found out, `probe` finds it out on an overlay, `judge` turns it into lines, pure; `offline` does
without a running node.
"""
