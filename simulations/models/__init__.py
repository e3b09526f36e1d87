"""Models of what a simulation does not run for real: exe-unit supervisors and the chain."""
