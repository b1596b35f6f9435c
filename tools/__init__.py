"""Tools for a checkout: they run notebooks and checks, and make committed weights and the README's tables.

notebooks  runs the notebooks and makes the committed ones
checks     the test command, and the command that makes the committed notebooks
readme     the results table of README.md
weights    a pair of networks to commit
"""
