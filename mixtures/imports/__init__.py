"""Mixtures in the files of other methods and trainers, read as mixtures of this package.

mixture   import_mixture: files of another program as shares, or as a whole mixture over the text of a known one
schedule  what such files say as a schedule: shares of trained tokens by domain, and where each stage begins
files     the formats that are read, stage by stage, with the amounts and names of the file
tables    read_shares: one mixture from JSON or CSV, also used for files of this package
"""
