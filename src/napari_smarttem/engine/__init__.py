"""Sessions, runs, reviews and journals: what happens between a person's intent and the instrument. Knows no window."""
