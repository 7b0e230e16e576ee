"""Zip and tar archives, unpacked within limits."""
