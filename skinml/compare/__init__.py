"""Finished runs, compared: `python -m skinml.compare`."""
