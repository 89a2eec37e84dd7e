"""One folder for each package, mirroring its tree; helpers stand beside the tests that use them."""
