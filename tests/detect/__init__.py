"""Inspection: detectors, their database, the scanner and the stream inspector."""
