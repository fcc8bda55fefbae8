"""Published checkpoint families, one file each: key maps from their names to ours, and nothing else."""
