"""A table and the scans it names to settings for training, each with its reason."""

from hilum.planning.plan import Plan, draft, plan

__all__ = ["Plan", "draft", "plan"]
