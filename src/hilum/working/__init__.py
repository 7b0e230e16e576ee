"""Runs tasks on many cases in parallel; results come in order, and failures are returned as values."""
