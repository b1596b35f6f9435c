"""Solvers that find collisions behind ReLU layers, and proofs that an exact collision exists.

descent        the paper's Algorithms 1 and 2: descent over patterns of open units, printed and repaired
cone           the cone program of one pattern
admm           the fast solver: splitting, then an active set, for a batch of pairs
splitting      the first part of `admm`: over-relaxed ADMM in float32
active_set     the second part of `admm`: the optimum on a pattern by pivoting
equations      the linear systems of `active_set`
apgd           the attack baseline: Auto-PGD on the distance of features, then Newton steps
enumeration    the exact optimum, from all patterns of a small network
proof          the verification of one pair, in float64 with bounds of all rounding errors
batched_proof  the same for a batch of pairs
"""
