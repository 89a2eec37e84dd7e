"""Every document of a run's text scored by the run's model."""
