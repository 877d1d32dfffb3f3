"""The real engines that no Python package carries: fetched from their own registries, kept outside the repository."""
