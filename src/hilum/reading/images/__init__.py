"""NIfTI, NRRD and MetaImage files to voxels in HU."""
