"""Judging: predictions to figures, pictures and pages that a reader can check."""
