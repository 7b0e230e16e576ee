"""Finds the lungs in a scan and judges the mask."""
