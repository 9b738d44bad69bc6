"""Gatan DigitalMicrograph as an instrument; the place is kept, no backend is registered yet."""
