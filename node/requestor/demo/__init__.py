"""`golem-p2p demo`: a whole market on this machine computes a picture and pays for it."""
