"""Segments the lungs of a scan and checks the mask for plausibility."""
