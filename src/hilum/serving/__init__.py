"""What leaves Hilum for a hospital and for other programs: files, DICOM objects, a page."""
