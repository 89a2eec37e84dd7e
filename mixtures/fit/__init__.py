"""A swarm's table, regressed on the shares, and the mixture with the best prediction."""
