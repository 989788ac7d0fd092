"""A network as SWR and the theory see it: traced once, its layers, and what a scale does in it."""
