"""Writes one HTML file that shows a scan, its lungs, its findings and what a model says of it, without a network."""

from hilum.serving.viewer.view import Viewed, view

__all__ = ["Viewed", "view"]
