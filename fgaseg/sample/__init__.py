"""The sample scale's data: scenes drawn by the project, in the raw layouts of the real datasets, and a small CLIP."""
