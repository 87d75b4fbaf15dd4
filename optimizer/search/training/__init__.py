"""Training: from layouts to candidates with cut stages, recompute per layer, and plans."""
