"""Megatron's format: the blends of Megatron-LM, Megatron-Bridge and NeMo, and the views of the data that they read.

megatron  the format `megatron`: blend files, and launch.sh where there are several stages
views     prefixes and shares of every stage, and index files over the documents that a stage reads; also for
          NeMo Automodel (`automodel`)
samples   the documents that a sample policy means
idx       Megatron's index files (.idx), read and written
"""
