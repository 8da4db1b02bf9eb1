"""One training: its loop and steps, its checkpoints, and the digest of all that decides it."""
