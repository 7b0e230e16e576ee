"""Runs frozen tasks on many cases at once; results come in order, and a failure is a value."""
