"""What leaves: DICOM objects for the hospital, files for other programs, and a page to look at."""
