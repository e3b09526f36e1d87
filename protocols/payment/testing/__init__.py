"""For tests of and against payment drivers: a chain in memory, and the drivers' conformance suite."""

from protocols.payment.testing.checks import CHECKS, Bench, check_payment_driver
from protocols.payment.testing.model_chain import ModelChain, ModelDriver

__all__ = ["CHECKS", "Bench", "ModelChain", "ModelDriver", "check_payment_driver"]
