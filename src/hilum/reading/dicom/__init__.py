"""DICOM files to series, and series to voxels in HU."""
