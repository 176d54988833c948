"""Training: the stream of crops, the optimiser's steps, checkpoints, metrics.

Reading order: stream, trainer, state, metrics, run.
"""
