"""Files of other methods and trainers, read as a mixture."""
