"""First step: a path to a Volume in HU with what was noticed about it, whatever the format.

Nothing is imported here: the decoders' processes need few of this room's modules, and must start quickly.
"""
