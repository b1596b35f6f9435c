# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Conflict graphs: what no classifier behind fixed features can do
#
# Lemma 1 of "Lower bounds on the robustness of fixed feature extractors to test-time adversaries" says
# exactly which robust probabilities of a right answer a classifier can have behind a fixed feature extractor.
# This notebook makes the lemma visible on a graph of five points, repairs one step of its proof, and turns it
# into least losses that carry their own proof. The message: the lemma is true for two classes, the least
# losses are a few maximum flows, and an edge that was missed can only make the bound weaker, never wrong.

# %% tags=["parameters"]
profile = "quick"

# %%
import time
from fractions import Fraction
from itertools import combinations, pairwise, product

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linprog

from semirobust import figures, paths
from semirobust.conflict import ConflictGraph, exact_cover, exact_cross_entropy
from semirobust.theory import FiniteModel

figures.use_style()
paths.check_profile(profile)

# %% [markdown]
# ## The statement
#
# A soft classifier $h = g\circ f$ sees features only. On a point $v = (x, y)$ it has
# $q_v = \inf_{\tilde x\in N(x)} h(\tilde x)_y$, the probability of the right answer under attack. Two points
# of different classes are in *conflict* when $f(N(u))\cap f(N(v))\ne\emptyset$: one answer has to serve both.
#
# **Lemma 1 (eq. 1).** The achievable $q$ are $\{q : 0\le q\le 1,\ Bq\le 1\}$, with $B$ the edge incidence
# matrix of the conflict graph: $q_u + q_v\le 1$ on each edge, and nothing else.
#
# Five points of mass $1/5$; points 1, 2, 3 are of class $+1$, points 4, 5 of class $-1$. Each can stay where
# it is or move to a feature value that it shares with another point: the value "14" is shared by 1 and 4.

# %%
fifth = Fraction(1, 5)
shared = [("1", "14"), ("2", "24"), ("3", "34", "35"), ("4", "14", "24", "34"), ("5", "35")]
model = FiniteModel(labels=(1, 1, 1, -1, -1), masses=(fifth,) * 5, inputs=tuple(shared))
edges = [(u, v - 3) for u, v in model.edges(0)]  # counted within each class
print("conflicts:", " ".join(f"{u + 1}-{v + 1}" for u, v in model.edges(0)))

# %% [markdown]
# ## Hard classifiers: independent sets
#
# With answers 0 or 1 the lemma says: a set of points can be right under attack if and only if it is
# independent in the graph. Nine feature values give $2^9$ classifiers; try them all.


# %%
def achieved(h):
    """q of a classifier h: feature value -> probability of class +1; exact."""
    points = zip(model.labels, model.values(0), strict=True)
    return tuple(min(h[z] if y == 1 else 1 - h[z] for z in reached) for y, reached in points)


alphabet = model.alphabet(0)
profiles = {
    achieved(dict(zip(alphabet, bits, strict=True))) for bits in product((0, 1), repeat=len(alphabet))
}
every_set = [set(chosen) for size in range(6) for chosen in combinations(range(5), size)]
independent = [s for s in every_set if not any(u in s and v in s for u, v in model.edges(0))]
correct = [{v for v in range(5) if q[v] == 1} for q in profiles]
print(
    f"{2 ** len(alphabet)} classifiers, {len(profiles)} different sets of points that are right under attack"
)
print(f"{len(independent)} independent sets among {len(every_set)} sets of points")
print("the two collections agree:", sorted(map(sorted, correct)) == sorted(map(sorted, independent)))

# %% [markdown]
# ## The step of the proof that needs a repair
#
# Appendix A builds a classifier for a given $q$: $h(\tilde z)_1 = \sup_{w:\,\tilde z\in f(N(w))} q_w$. As
# printed, $w$ runs over *all* points, so a point of class $-1$ raises the probability of class $+1$ at its
# own features. Then the third "=" of the display for class $-1$ is "$\le$", the wrong way: its left side has
# more terms. The repair takes the supremum over $w$ of class $+1$ only, and $0$ over nothing. The proof
# needs "$\ge$" there, and has it. Both constructions, for every independent set and for the optimal $q$ found
# below:


# %%
def construction(q, classes):
    """h(z)_1 of Appendix A, with the supremum over the points of the given classes."""
    points = list(zip(model.labels, model.values(0), q, strict=True))
    return {z: max([p for y, r, p in points if y in classes and z in r], default=0) for z in alphabet}


def reaches(q, classes):
    return all(got >= wanted for got, wanted in zip(achieved(construction(q, classes)), q, strict=True))


targets = [tuple(int(v in s) for v in range(5)) for s in independent]
works = {name: [reaches(q, c) for q in targets] for name, c in (("all w", (1, -1)), ("class +1", (1,)))}
for name, found in works.items():
    print(f"supremum over {name:8s}: reaches {sum(found):2d} of {len(found)} independent sets")
alone = (0, 0, 0, 0, 1)
print("q =", alone, "-> printed construction", achieved(construction(alone, (1, -1)))[4], "at point 5")

# %% [markdown]
# ## The least losses
#
# A loss $\ell'(q_v)$ that falls in $q_v$ is minimised over this polytope.
#
# * *0-1 loss* $\sum p_v(1-q_v)$: the graph is bipartite, so the optimum is whole: a **vertex cover of least
#   weight**, and by König's theorem one maximum flow.
# * *Cross-entropy* $\sum -p_v\ln q_v$: with multipliers $x_e\ge0$ of $q_u+q_v\le1$, optimal means
#   $\sum_{e\ni v}x_e = p_v/q_v$ where $q_v<1$, with $x_e>0$ on tight edges only.

# %%
cover = exact_cover(edges, [fifth] * 3, [fifth] * 2)
ce = exact_cross_entropy(edges, [fifth] * 3, [fifth] * 2)
graph = ConflictGraph(edges, [fifth] * 3, [fifth] * 2)
fast = graph.cross_entropy()
q = ce.q_positive + ce.q_negative
covered = [*(u + 1 for u in cover.positive), *(v + 4 for v in cover.negative)]
print(f"least 0-1 loss {cover.weight}; cover: points {covered}")
print(f"least cross-entropy {ce.loss_nats:.12f} nats at q = ({', '.join(map(str, q))})")
print("multipliers:", ", ".join(f"x_{u + 1}{v + 4} = {x}" for (u, v), x in sorted(ce.dual.items())))
print(f"by floating-point flows: {fast.loss_nats:.12f}, proved from below: {fast.dual_lower_bound:.12f}")
print("the repaired construction reaches this q:", reaches(q, (1,)))

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4))
figures.draw_conflicts(left, model, 0)
left.set_title(f"0-1 loss: cover of mass {cover.weight}")
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
places, middle = np.array([(0, 0), (0, 1), (0, 2), (1, 0.25), (1, 1.75)]), {"ha": "center", "va": "center"}
for u, v in edges:
    x, ends = ce.dual.get((u, v), Fraction(0)), places[[u, v + 3]]
    looks = {"lw": 0.8 + 8 * float(x), "ls": "-" if x else ":", "color": figures.COLORS["attacked"]}
    right.plot(*ends.T, **looks, zorder=1)
    box = {"fc": "white", "ec": "none", "pad": 1.5}
    right.text(*(0.62 * ends[0] + 0.38 * ends[1]), str(x), bbox=box, **middle)
for v, ((x, y), label, chance) in enumerate(zip(places, model.labels, q, strict=True)):
    looks = {"marker": figures.CLASS_MARKERS[label], "facecolor": "white", "linewidth": 1.6}
    right.scatter(x, y, 1000, edgecolor=figures.CLASS_COLORS[label], zorder=3, **looks)
    right.text(x, y, str(chance), zorder=4, **middle)
    right.text(2 * x - 0.5, y, f"point {v + 1}", **middle)
right.set(xlim=(-0.9, 1.9), ylim=(2.6, -0.6), title=f"cross-entropy: {ce.loss_nats:.4f} nats")
right.axis("off")
right.text(0.5, 3.05, "in the points: $q_v$; on the edges: multipliers $x_e$", **middle)
numbers = {"q": list(map(str, q)), "x": {f"{u + 1}{v + 4}": str(x) for (u, v), x in ce.dual.items()}}
figures.save_figure(fig, "20_optimum", profile=profile, data=numbers, notebook="20_conflict_graphs")
plt.show()

# %% [markdown]
# ## How the optimum is found: one flow for each block
#
# A block $(A, B)$ tries one value: $q = r = p(A)/(p(A)+p(B))$ on $A$ and $1-r$ on $B$. Give $u\in A$ the
# capacity $p_u\,p(B)$ and $v\in B$ the capacity $p_v\,p(A)$; both sides total $p(A)p(B)$. If a flow saturates
# them, the value is right, and the flow, scaled by $1/(r\,p(B))$, is the multipliers. If not, a minimum cover
# $C$ splits the block into $(A\setminus C, B\cap C)$ and $(A\cap C, B\setminus C)$. There are no edges
# between $A\setminus C$ and $B\setminus C$; the first block ends with ratios at or above $r$, the second at
# or below it, so the edges inside $C$ hold by themselves.

# %%
blocks, trace = [({0, 1, 2}, {0, 1})], []
while blocks:
    a, b = blocks.pop(0)
    inside = [(u, v) for u, v in edges if u in a and v in b]
    capacity_a = [fifth * fifth * len(b) if u in a else 0 for u in range(3)]
    capacity_b = [fifth * fifth * len(a) if v in b else 0 for v in range(2)]
    found = exact_cover(inside, capacity_a, capacity_b)
    c_a, c_b = found.positive & a, found.negative & b
    full = found.weight == sum(capacity_a)
    trace.append((Fraction(len(a), len(a) + len(b)), found.weight, sum(capacity_a)))
    names = f"{[u + 1 for u in sorted(a)]} against {[v + 4 for v in sorted(b)]}"
    verdict = "saturated" if full else f"cover {[*(u + 1 for u in c_a), *(v + 4 for v in c_b)]}: split"
    print(f"{names:22s} r = {trace[-1][0]}, flow {found.weight} of {sum(capacity_a)}: {verdict}")
    blocks += [] if full else [(a - c_a, c_b), (c_a, b - c_b)]

# %% [markdown]
# ## The certificate: any feasible q proves something
#
# $CE^\star\ge\sum_v p_v\big(1+\ln\frac{x(v)+w_v}{p_v}\big)-\sum_e x_e-\sum_v w_v$ for any $x, w\ge0$, with
# $x(v)$ the sum of $x_e$ over the edges at $v$ and $w_v$ the multiplier of $q_v\le1$ (the Lagrangian, minimised
# over $q$). `certify` takes $q$ alone and finds $x$ by one flow. Walk from the constant
# $q=\frac12$ to the optimum: both ends of the interval are proved at every step, and they meet at the
# optimum.

# %%
best = np.concatenate([fast.q_positive, fast.q_negative])
certificates = []
for share in (0, 0.5, 0.9, 0.99, 1):
    here = (1 - share) * 0.5 + share * best
    found = graph.certify(here[:3], here[3:])
    certificates.append((found.dual_lower_bound, found.loss_nats))
    print(f"{share:4.2f} of the way: {found.dual_lower_bound:.6f} <= CE* <= {found.loss_nats:.6f}")

# %% [markdown]
# ## The same loss as an area
#
# Cut the optimal $q$ at a threshold $t$, and both losses turn out to be one family:
# $CE^\star=\int_0^1\mathrm{MVC}\big(\frac{p_u}{t},\frac{p_v}{1-t}\big)\,dt$, covers of least weight with
# weights that shift from one class to the other. The cover changes only where $t$ is a value of $q_u$ or
# $1-q_v$, here $\frac12$ and $\frac23$. Between the cuts the integral is a sum of logarithms.

# %%
cuts, area = [0, 0.5, 2 / 3, 1], 0.0
for low, high in pairwise(cuts):
    part = graph.parametric_cover((low + high) / 2)
    p, m = graph.positive_weights[part.positive].sum(), graph.negative_weights[part.negative].sum()
    area += p * np.log(high / low) if p else 0
    area += m * np.log((1 - low) / (1 - high)) if m else 0
print(f"integral over three pieces: {area:.12f}; least cross-entropy: {fast.loss_nats:.12f}")
t = np.linspace(0.005, 0.995, 199)
height = [graph.parametric_cover(value).weight for value in t]
fig, axis = plt.subplots(figsize=(6.8, 3.2))
axis.fill_between(t, height, color=figures.COLORS["ours"], alpha=0.2, lw=0)
axis.plot(t, height, color=figures.COLORS["ours"])
for low, high, name in zip(cuts, cuts[1:], ("{4, 5}", "{3, 4}", "{1, 2, 3}"), strict=False):
    axis.text((low + high) / 2, 0.2, f"cover\n{name}", ha="center", va="center")
axis.vlines(cuts[1:3], 0, 1.02, color=figures.COLORS["printed"], lw=0.8, ls=":")
axis.set_xticks([0, 0.25, 0.5, 2 / 3, 1], ["0", "1/4", "1/2", "2/3", "1"])
axis.set(xlabel="threshold $t$", ylabel="weight of the least cover", xlim=(0, 1), ylim=(0, 1.02))
axis.set_title(f"Covers over all thresholds add up to the cross-entropy: area {area:.4f} nats")
figures.save_figure(
    fig, "20_area", profile=profile, data={"t": list(t), "weight": height}, notebook="20_conflict_graphs"
)
plt.show()

# %% [markdown]
# ## Missing edges are safe
#
# $E'\subseteq E$ gives a larger polytope, hence a smaller optimum. So a bound from the collisions that were
# found holds for every classifier, however they were found. Two clouds of 150 points in the plane, in
# conflict when half their distance is within the budget 0.5; edges are dropped at random.

# %%
rng = np.random.default_rng(0)
clouds = rng.normal(0, 1, (2, 150, 2)) + np.array([[[-1.0, 0]], [[1.0, 0]]])
half = np.linalg.norm(clouds[0][:, None] - clouds[1][None], axis=2) / 2
whole = ConflictGraph.from_distances(half, 0.5)
order = rng.permutation(len(whole.edges))
kept = np.array([0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
weights = whole.positive_weights, whole.negative_weights
parts = [ConflictGraph(whole.edges[order[: round(k * len(order))]], *weights) for k in kept]
zero_one = np.array([part.zero_one_loss() for part in parts])
entropy = np.array([part.cross_entropy().dual_lower_bound for part in parts])
fig, axis = plt.subplots(figsize=(6.4, 3.2))
for values, name, colour, marker in (
    (entropy, "cross-entropy (nats)", "ours", "o"),
    (zero_one, "0-1 loss", "robust", "s"),
):
    axis.plot(100 * kept, values, f"-{marker}", color=figures.COLORS[colour], label=f"bound on {name}")
    axis.axhline(values[-1], color=figures.COLORS["printed"], lw=0.8, ls=":")
axis.set(
    xlabel=f"edges kept (% of {len(order):,})", ylabel="proved lower bound", ylim=(0, None), xlim=(0, 101)
)
axis.set_title("Fewer edges: a weaker bound, never a wrong one")
axis.legend(loc="lower right")
numbers = {"kept": list(kept), "zero_one": list(zero_one), "cross_entropy": list(entropy)}
figures.save_figure(fig, "20_missing_edges", profile=profile, data=numbers, notebook="20_conflict_graphs")
plt.show()

# %% [markdown]
# ## Three classes: pairs are not enough
#
# Three points of three classes share one feature value. There $h$ is one distribution, so
# $q_1+q_2+q_3\le1$. The three edges only say $q_i+q_j\le1$ and allow $q=(\frac12,\frac12,\frac12)$. Edges
# between pairs still give a valid bound, but a loose one; Lemma 1 is about two classes.

# %%
pairs = linprog([-1] * 3, A_ub=[[1, 1, 0], [1, 0, 1], [0, 1, 1]], b_ub=[1] * 3, bounds=(0, 1))
truth = linprog([-1] * 3, A_ub=[[1, 1, 1]], b_ub=[1], bounds=(0, 1))
print(f"largest q_1 + q_2 + q_3: pairs allow {-pairs.fun:.4f}, classifiers reach {-truth.fun:.4f}")
print(f"least 0-1 loss at equal masses: {1 + pairs.fun / 3:.4f} from pairs, {1 + truth.fun / 3:.4f} in truth")

# %% [markdown]
# ## Size: 2,000 + 2,000 points and 200,000 edges, live
#
# The same clouds, larger, with the budget at which the 200,000 closest pairs conflict. The gap is between
# the loss at the $q$ that was found and the dual value, rounded down.

# %% tags=["nbval-ignore-output"]
many = rng.normal(0, 1, (2, 2000, 2)) + np.array([[[-1.0, 0]], [[1.0, 0]]])
distances = np.linalg.norm(many[0][:, None] - many[1][None], axis=2) / 2
large = ConflictGraph.from_distances(distances, np.sort(distances, axis=None)[199_999])
begun = time.perf_counter()
cover_large, ce_large = large.minimum_cover(), large.cross_entropy()
seconds = time.perf_counter() - begun
gap = ce_large.loss_nats - ce_large.dual_lower_bound
print(f"{large}: {seconds:.2f} s for both")
print(f"0-1 loss {cover_large.weight:.6f}, cross-entropy {ce_large.loss_nats:.6f} nats, gap {gap:.1e}")

# %% [markdown]
# ## What to believe
#
# * For two classes Lemma 1 is true. Its proof needs a supremum over class $+1$ only; with it,
#   every hard and every soft profile is reached.
# * The least 0-1 loss is one maximum flow, the least cross-entropy a few. Read the dual value: it is a lower
#   bound for every classifier behind these features, whatever found the edges and the $q$.
# * With three or more classes the pairwise bound stays valid and is no longer tight.
#
# ## Change one number and run again
#
# Give one point more mass than the others, and see where the loss and the optimal $q$ go.

# %%
heavier, times = 3, 4  # point 1 to 5, and how much heavier it is
masses = [Fraction(times if point == heavier else 1, 4 + times) for point in (1, 2, 3, 4, 5)]
again = exact_cross_entropy(edges, masses[:3], masses[3:])
print(
    f"0-1 loss {exact_cover(edges, masses[:3], masses[3:]).weight}, cross-entropy {again.loss_nats:.6f} nats"
)
print("q =", ", ".join(map(str, again.q_positive + again.q_negative)))

# %% [markdown]
# ## Checks

# %%
assert sorted(map(sorted, correct)) == sorted(map(sorted, independent))
print("hard profiles are the independent sets: ok")
assert all(works["class +1"]) and not all(works["all w"]) and reaches(q, (1,))
print("the repaired construction reaches them all, the printed one does not: ok")
assert cover.weight == Fraction(2, 5) and abs(ce.loss_nats - 0.659167373201) < 1e-11
assert list(map(str, q)) == ["2/3", "2/3", "1/2", "1/3", "1/2"] and abs(area - ce.loss_nats) < 1e-12
print("0-1 loss, cross-entropy, q and the area agree with the exact solution: ok")
assert trace[0] == (Fraction(3, 5), Fraction(1, 5), Fraction(6, 25)) and len(trace) == 3
print("the first block splits, the other two saturate: ok")
assert all(low <= fast.loss_nats + 1e-12 and fast.loss_nats <= high + 1e-12 for low, high in certificates)
assert certificates[-1][1] - certificates[-1][0] < 1e-12
print("every certificate holds the optimum, and the last one is tight: ok")
assert (np.diff(zero_one) >= -1e-12).all() and (np.diff(entropy) >= -1e-12).all() and zero_one[-1] > 0.05
print("dropping edges only lowers the bound: ok")
assert abs(pairs.fun + 1.5) < 1e-9 and abs(truth.fun + 1) < 1e-9 and 0 <= gap < 1e-11
print("three classes; and the large graph's gap is rounding: ok")
