"""Clusters of real processes that are killed and paused: what was confirmed must be there."""
