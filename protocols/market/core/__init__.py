"""The market's decisions: pure, synchronous, with time and chance as arguments.

`agreements` and `proposals` are the two state machines, `signatures` what their sides sign, `catalogue` the
offers of everyone, `queue` what an agent collects, `limits` how often a peer may ask.
"""
