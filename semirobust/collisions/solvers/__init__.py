"""Methods that find collisions behind ReLU layers, and the proofs that they are collisions.

descent        the paper's Algorithms 1 and 2: descent over patterns of open units, and its repair
cone           the cone program of one pattern
admm           the fast solver: splitting, then an active set, for a batch of pairs
splitting      its first part: over-relaxed ADMM in float32
active_set     its second part: the optimum on a pattern by pivoting
equations      the linear systems of the active set
apgd           the attack baseline: Auto-PGD on the distance of features, then Newton steps
enumeration    all patterns of a small network: the exact optimum
proof          the verification of one pair in interval-like float64 arithmetic
batched_proof  the same for a batch of pairs
"""
