"""Predictions tables, and every metric, interval and figure that is computed from them."""
