"""Every frozen setting of a run, with its meaning and its check; imports no torch."""
