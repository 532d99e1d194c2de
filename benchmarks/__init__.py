"""The benchmark of all systems: which there are, how each is trained and measured, and how the commands are run."""
