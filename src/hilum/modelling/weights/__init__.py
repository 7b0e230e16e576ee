"""Weights from files, other projects' among them."""
