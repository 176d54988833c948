"""Training: the stream of crops, the optimiser's steps over all processes, checkpoints, metrics.

Reading order: stream, losses, ranks, optimisation, state, interruption, metrics, loop, run.
"""
