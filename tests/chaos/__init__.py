"""The whole collector on real engines, and everything that can happen to them, at random."""
