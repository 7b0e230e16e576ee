"""First step: reads a path of any format as a Volume in HU with findings.

Nothing is imported here: the decoders' processes need few of this room's modules, and must start quickly.
"""
