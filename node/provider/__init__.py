"""The provider agent: what it offers, whom it deals with, how it runs and bills the work."""
