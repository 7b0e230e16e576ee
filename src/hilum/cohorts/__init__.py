"""Cohorts: who is who, who may meet whom, and who is drawn."""
