"""What works on a checkout: notebooks, checks, committed weights, the tables of the README."""
