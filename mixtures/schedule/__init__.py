"""mixture.json: which shares of which domains, from which token on, and under which bounds."""
