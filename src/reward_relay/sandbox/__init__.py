"""The far side in a box: the simulated vendor and platforms, and the samples they send."""
