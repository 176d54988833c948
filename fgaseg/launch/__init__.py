"""Trainings on a SLURM cluster: a job is submitted through submitit, waited for, and taken up again wherever it was left.

Reading order: job (what runs on the nodes), failures, slurm (what is asked of the cluster), record, launcher.
"""
