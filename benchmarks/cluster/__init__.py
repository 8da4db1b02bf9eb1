"""The proof of sweeps on several machines: a real cluster, killed at random."""
