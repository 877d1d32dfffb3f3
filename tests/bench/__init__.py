"""What things cost, as ratios: `ops/just bench`."""
