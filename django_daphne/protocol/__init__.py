"""Bytes to meaning and back, without I/O: engines that can be driven by a test."""
