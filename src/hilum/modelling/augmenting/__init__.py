"""Random changes of a batch, on the device: spatial, of intensity, and mixing."""
