"""Where the cells of a sweep train: on this machine, on a Ray cluster, or under SLURM.

An engine turns an order into a job. On the machine that trains the cell the job is an `Attempt`,
the same for all engines.
"""
