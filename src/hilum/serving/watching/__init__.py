"""Watches the service by its data base: what it answers, what it refuses, and how far scans drift from training."""
