"""Make chest CT scans whose truth is known: anatomy, lesions, a scanner, files."""
