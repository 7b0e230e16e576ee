"""Cohorts: the cases, their patients and parts, and the samples of each epoch."""
