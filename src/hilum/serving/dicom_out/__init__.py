"""DICOM objects of a result: report, segmentation, maps and page."""
