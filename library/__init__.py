"""The models on this computer: which there are, where they come from, and where they go."""
