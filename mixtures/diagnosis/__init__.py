"""How far a run's weights can be trusted."""
