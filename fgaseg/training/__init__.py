"""Training: the stream of crops, the optimiser's steps, checkpoints, metrics, tracking.

Reading order: stream, state, trainer, metrics, tracking.
"""
