"""Single-pixel imaging: structured illumination predicted by a fitted model, chosen by information gain, inverted on the way."""
