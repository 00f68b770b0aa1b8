"""What probes are made with: findings, nulls, readings of a lab, classifiers, pictures; how they are run."""
