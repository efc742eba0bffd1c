"""Runs: profiles, training once, the store, sweeps."""
