"""Alignment: read the aberrations from a Ronchigram, say how sure, correct them, verify."""
