"""The rows that a trainer reads: any mixture, any number of ranks, exact shares of tokens."""
