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
# # ReLU collisions: every distance found is a true upper bound, but the printed search can stop too early
#
# The distance that a feature extractor $f$ induces is the smallest budget with which two inputs can be moved
# to the same features. With ReLUs the paper on fixed feature extractors searches for it by a descent over
# activation patterns (its section 3.2, Algorithms 1 and 2). This notebook draws its Figure 1, shows on four
# small networks that the printed stopping rule misses cheaper neighbours and on a fifth that a descent ends
# in a local minimum, proves what the search does guarantee, and solves 64 pairs of digits by a batched
# splitting method (the alternating direction method of multipliers, *admm* below).

# %% tags=["parameters"]
profile = "quick"

# %%
import itertools
import time
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

from semirobust import collisions, extractors, figures
from semirobust.collisions.solvers import cone, descent
from semirobust.experiments import extractor_networks
from semirobust.paths import check_profile

figures.use_style()
check_profile(profile)

# %% [markdown]
# ## The problem
#
# Definition 2 of the paper, equation (2), in $\ell_2$:
#
# $$\varepsilon^*_f(u, v) = \min\ \max(\|\tilde u - u\|, \|\tilde v - v\|)\quad\text{subject to}\quad f(\tilde
# u) = f(\tilde v).$$
#
# For one layer $f(x) = (k + Lx)^+$ the constraint set is not convex, but it is a union of polytopes. Fix a
# pattern $s$ of open and closed units. Open units must agree and be non-negative at both points; closed ones
# must be non-positive at both. What is left is a cone program. With $m$ units there are $2^m$ of them.
#
# Figure 1 of the paper has two units, $f(x) = (x_1^+, x_2^+)$, and $u = (1, 4)$, $v = (9, -5)$. Its four cone
# programs:


# %%
def case(u, v, *layers):
    """(network, u [d], v [d]); a layer is its rows and its bias, or 0."""
    built = [(np.array(rows, float), np.zeros(len(rows)) + bias) for rows, bias in layers]
    return collisions.Network.of(built), np.array(u, float), np.array(v, float)


def same(*gates):
    """A pattern of one layer, the same at both points."""
    return collisions.Pattern((np.array(gates, bool),), (np.array(gates, bool),))


PATTERNS = [(1, 1), (1, 0), (0, 1), (0, 0)]
figure_1 = case([1, 4], [9, -5], ([[1, 0], [0, 1]], 0))
cells = {gates: cone.solve(*figure_1, same(*gates)) for gates in PATTERNS}
for gates, cell in cells.items():
    print(f"s = {gates}: {cell.epsilon:.4f}")
network, u, v = figure_1
best = collisions.enumerate_patterns(network.layers, [u], [v])
print(f"eps* = {best.epsilon[0]:.4f}, u~ = {np.abs(best.u[0].round(3))}, v~ = {best.v[0].round(3) + 0.0}")


# %%
BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


def draw_ends(axis):
    """The two points."""
    for point, name, shift in ((u, "$u$", (-3, 7)), (v, "$v$", (7, -4))):
        axis.plot(*point, "ko", ms=6, zorder=5)
        axis.annotate(name, point, xytext=shift, textcoords="offset points")


def draw_steps(axis, steps, colour, label):
    """Arrows for [(from, to), ...]; the end points as dots."""
    for number, (start, end) in enumerate(steps):
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 3, "shrinkB": 3}
        axis.annotate("", end, xytext=start, arrowprops=arrow)
        axis.plot(*end, "o", ms=5, color=colour, label=label if number == 0 else None)


def draw_plane(axis, title, x, y):
    """The quadrants, one for each pattern, in equal units; x and y are the limits."""
    axis.axhline(0, color="k", lw=0.8)
    axis.axvline(0, color="k", lw=0.8)
    axis.set(xlim=x, ylim=y, aspect="equal", xlabel="$x_1$", ylabel="$x_2$", title=title)
    draw_ends(axis)
    axis.legend(loc="upper right")


# %%
def draw_patterns(axis):
    """The optimum of each of the four cone programs, the cheapest on top."""
    names = dict(zip(PATTERNS, ("other", "ours", "attacked", "control"), strict=True))
    for gates in ((0, 0), (0, 1), (1, 1), (1, 0)):
        ends, cost = [(u, cells[gates].u), (v, cells[gates].v)], cells[gates].epsilon
        draw_steps(axis, ends, figures.COLORS[names[gates]], f"$s$ = {gates}: {cost:.4f}")


def draw_descent(axis, optimum, middle, corner):
    """The fibre of the optimum, both balls, and the descent from the midpoint and from s = (1, 1)."""
    for point in (u, v):
        axis.add_patch(plt.Circle(point, optimum, fill=False, ls=":", color=figures.COLORS["printed"]))
    axis.plot([4, 4], [0, -11], lw=6, alpha=0.3, color=figures.COLORS["robust"], label="fibre of $(4, 0)$")
    begin, last, start = corner[0].u, corner[-1], (u + v) / 2
    axis.plot(*begin, "s", color=figures.COLORS["other"])
    axis.plot(*start, "kx", ms=6, zorder=5)
    axis.annotate("midpoint", start, xytext=(16, -10), textcoords="offset points", bbox=BLANK)
    draw_steps(axis, [(begin, last.u), (begin, last.v)], figures.COLORS["other"], "from $s = (1, 1)$")
    draw_steps(axis, [(start, last.u), (start, middle[-1].v)], figures.COLORS["ours"], "from the midpoint")


# %%
middle = descent.descend(*figure_1, rule="printed").cells
corner = descent.descend(*figure_1, start=same(1, 1)).cells
fig, (left, right) = plt.subplots(1, 2, figsize=(8.6, 4.1))
draw_patterns(left)
draw_descent(right, best.epsilon[0], middle, corner)
draw_plane(left, "The optimum of each pattern", (-6, 13), (-7.5, 9))
draw_plane(right, "The descent reaches budget 5, the optimum", (-1, 13.6), (-6.7, 6))
for axis in (left, right):
    axis.locator_params(integer=True, nbins=7)
shown = {"patterns": {str(gates): round(cell.epsilon, 6) for gates, cell in cells.items()}}
shown |= {"descent": [[round(cell.epsilon, 6) for cell in path] for path in (middle, corner)]}
figures.save_figure(fig, "22_figure_1", profile=profile, data=shown, notebook="22_relu_collisions")
plt.show()

# %% [markdown]
# From the midpoint, whose pattern is $(1, 0)$, the first cone program already gives $\varepsilon^* = 5$. The
# features $(4, 0)$ are reached from a whole ray: $u$ drops to its end, $v$ moves straight left. Without the
# ReLUs both would have to meet at the midpoint, at $\sqrt{145}/2 = 6.0208$.
#
# ## Where the printed rule stops too early
#
# The printed algorithms flip unit $j$ of the last layer where both multipliers $z_j$ and $z'_j$ of its sign
# constraints are positive (a hidden unit, where its own one is), all flagged units at once. "When we fail to
# find such pairs", section 3.2 says, the minimum is inside the polytope or no adjacent one helps. Four
# counterexamples, and a fifth network where the statement holds but the minimum is only local:
#
# 1. *Multipliers are not unique.* For an open unit both sign constraints say the same, since its
# pre-activations $p_j$ at $\tilde u$ and $p'_j$ at $\tilde v$ are equal: only $z_j + z'_j$ is determined. A solver that ends in a vertex puts it all on one, and the test fails.
# 2. *A slack end.* Where only one end pays, the multipliers of the other are all zero.
# 3. *Flipping all is worse than flipping one.* Two opposite units: 5 with both flipped, 1 with the first.
# 4. *Two layers.* Flipping all flagged hidden units gains nothing, flipping one of them does.
# 5. *A local minimum.* No flip of one unit helps; the optimum is elsewhere.
#
# Below, "interior" has the multipliers that the interior-point solver returns, and "vertex" the same optimum
# with those of a vertex. Cases 4 and 5 start from the midpoint, as printed, cases 1 to 3
# from another pattern.


# %%
def vertex(network, u, v, pattern):
    """The optimum of the cone program, with multipliers moved to one of each pair of equal constraints."""
    cell = cone.solve(network, u, v, pattern)
    if cell.status != "solved":
        return cell
    moved = np.where(pattern.u[-1], cell.z_v[-1], 0)  # [m]
    z_u, z_v = [*cell.z_u[:-1], cell.z_u[-1] + moved], [*cell.z_v[:-1], cell.z_v[-1] - moved]
    return replace(cell, z_u=z_u, z_v=z_v, nu=cell.nu - moved)


TWO = (
    ([[0, 2, 1], [-2, 0, 2], [-1, 2, -1], [2, 0, -2]], [2.5, 1.5, -1.5, 0.5]),
    ([[-2, -2, -2, -1], [-1, 0, 0, 2], [-1, -2, 0, -1]], [-0.75, -1.75, 1.25]),
)
FOUR = ([[-2, 0], [2, 1], [2, 0], [-2, -2]], [0.5, 0.5, -0.5, -1.5])
CASES = {
    "1 multipliers": (figure_1, same(1, 1)),
    "2 slack end": (case([3, 0], [5, 0], ([[1, 0], [1, 0]], 0)), same(0, 0)),
    "3 flip all": (case([3, 0], [5, 0], ([[1, 0], [-1, 0]], 0)), same(0, 0)),
    "4 two layers": (case([-0.875, 0.125, -0.875], [-2.25, -4.25, -4.25], *TWO), None),
    "5 local": (case([0.25, -1.75], [-3.125, 2.875], FOUR), None),
}


# %%
def solved(problem, start):
    """Budgets by every method: the two rules from `start` (None: the midpoint), admm and enumeration."""
    network, u, v = problem
    descend = partial(descent.descend, *problem, start=start)
    paths = {
        "printed, vertex": descend(rule="printed", solver=vertex),
        "printed, interior": descend(rule="printed"),
        "repaired": descend(),
    }
    found = {name: path.cells[-1].epsilon for name, path in paths.items()}
    found["admm"] = collisions.find_collisions(network.layers, [u], [v]).epsilon[0]
    found["enumerated"] = collisions.enumerate_patterns(network.layers, [u], [v]).epsilon[0]
    return found


table = {name: solved(*entry) for name, entry in CASES.items()}
print(f"{'':14s}" + "".join(f"{name:>19s}" for name in table["5 local"]))
for name, row in table.items():
    print(f"{name:14s}" + "".join(f"{value:19.6f}" for value in row.values()))
path = descent.descend(*CASES["4 two layers"][0]).cells
print("two layers, repaired: " + ", ".join(f"{cell.epsilon:.6f}" for cell in path))
for name in ("2 slack end", "3 flip all"):
    costs = [f"{gates}: {cone.solve(*CASES[name][0], same(*gates)).epsilon:.4f}" for gates in PATTERNS]
    print(f"{name[2:]}, optimum by pattern: " + ", ".join(costs))

# %%
MARKS = {
    "printed, vertex": ("printed", "s"),
    "printed, interior": ("attacked", "X"),
    "repaired": ("ours", "o"),
}
fig, axis = plt.subplots(figsize=(7.2, 3.6))
for row, found in enumerate(table.values()):
    for number, (name, (colour, marker)) in enumerate((MARKS | {"admm": ("robust", "D")}).items()):
        ratio, height = found[name] / found["enumerated"], row - 0.27 + 0.18 * number
        axis.plot([1, ratio], [height] * 2, lw=1.2, ls="-", color=figures.COLORS[colour])
        label = name if row == 0 else None
        axis.plot(
            ratio, height, marker, ls="", ms=6, color=figures.COLORS[colour], label=label, clip_on=False
        )
axis.set(xscale="log", xlim=(0.97, 6), ylim=(4.6, -0.6), xlabel="budget found / enumerated optimum")
axis.set_xticks([1, 1.2, 1.5, 2, 3, 5], ["1", "1.2", "1.5", "2", "3", "5"])
axis.set_xticks([], minor=True)
axis.set_yticks(range(5), list(table))
axis.set_title("The printed rule can stop beside cheaper patterns (1 to 4)")
fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
shown = {name: {method: round(eps, 6) for method, eps in row.items()} for name, row in table.items()}
figures.save_figure(fig, "22_stopping", profile=profile, data=shown, notebook="22_relu_collisions")
plt.show()

# %% [markdown]
# The **repaired** rule tests $z_j + z'_j > 0$ for open units, and one multiplier where an end is slack. It
# tries all candidates together, all units with a positive multiplier together, then each candidate alone,
# and stops when no flip of a single unit helps. That settles cases 1 to 4. In case 5 no unit is at its kink:
# a true local minimum, which no descent leaves. **Enumeration** finds the optimum for a few units a layer.
# **admm** starts from many patterns, and found it in all five.
#
# ## What is guaranteed, and what is not
#
# **Feasible.** Flip any units whose pre-activations vanish (in the last layer at both points, in a hidden
# layer at the point in question). Zero satisfies both signs, equals zero at the other point, and a hidden
# unit at zero hands on zero in either state. So the current collision lies in the new polytope as well.
# (The repaired rule tries other flips too, and accepts only what improves.)
# $\square$
# **Monotone.** Hence the new optimum is at most the old one; the first is at most $\frac12\|u - v\|$, for the
# midpoint lies in the first polytope. $\square$ **Finite.** Every accepted step lowers the optimum of the
# polytope strictly, so no pattern comes twice, and there are finitely many. $\square$
#
# **Progress, one layer.** Let $\alpha_j, \beta_j$ be the forces of unit $j$ on the two points: $\alpha_j +
# \beta_j = z_j + z'_j$ where it is open, $-(z_j + z'_j)$ where it is closed. Suppose that the stationarity
# equations at the optimum have one solution, that every flipped unit is at zero at both points, and that one
# of them has $z_j + z'_j > 0$. Were the point optimal after the flips, the same forces would have the new
# signs: $\alpha_j + \beta_j \ge 0$ for a unit now open, $\alpha_j, \beta_j \le 0$ for one now closed. Both
# contradict $z_j + z'_j > 0$. So the next optimum is strictly smaller. $\square$
#
# **Not guaranteed.** "Finds a local minimum." In case 1 the forces are unique, but the printed test does not
# read them. In cases 2 and 3 they are not unique. In case 4 the flip of a hidden unit changes what the
# layers above ask for. And nothing promises the global minimum. Still, every stop is a collision: a valid
# upper bound on $\varepsilon^*$, a true edge of the conflict graph, and so a valid lower bound on the loss.
#
# How often? Twenty random networks of two layers with three units each, from the midpoint:

# %% tags=["nbval-ignore-output"]
rng = np.random.default_rng(0)
NAMES = ("printed, interior", "repaired", "admm")
ratios = []
for _ in range(20):
    layers = [(rng.standard_normal((3, 3)), rng.standard_normal(3)) for _ in range(2)]
    random_u, random_v = 2 * rng.standard_normal((2, 3))
    found = solved((collisions.Network.of(layers), random_u, random_v), None)
    ratios.append([found[name] / found["enumerated"] for name in NAMES])
for name, column in zip(NAMES, np.transpose(ratios), strict=True):
    print(
        f"{name:18s} optimal in {(column < 1 + 1e-4).sum()} of {len(column)}, at worst {column.max():.2f} times"
    )

# %% [markdown]
# ## A collision has to be exact
#
# A solver returns $f(\tilde u) \approx f(\tilde v)$, which proves nothing: some classifier tells any two
# different feature vectors apart. **Inflation lemma.** Let $F$ keep the open units, $e = FL(\tilde u - \tilde
# v)$ be the residual, $\sigma$ the smallest nonzero singular value of $FL$. If every sign holds with a
# margin of at least $\max_j\|L_j\|\,\|e\|/(2\sigma)$, an exact collision costs at most $\|e\|/(2\sigma)$
# more.
# *Proof.* Subtract $\frac12(FL)^+e$ from $\tilde u$ and add it to $\tilde v$. As $e$ is in the range of
# $FL$, the residual becomes $e - e = 0$. Each point moves by at most $\|e\|/(2\sigma)$, so pre-activation
# $j$ changes by at most $\|L_j\|\,\|e\|/(2\sigma)$ and keeps its sign. Open units agree, closed ones give 0.
# $\square$
#
# An optimum on the boundary of its polytope has margin zero, so a solver error of $10^{-9}$ breaks its signs.
# Two ways out: solve with a margin $\kappa = 10^{-6}$, which costs a little; or hold the units at the kink
# there by further equations, which the package does. Then nothing is lost.

# %%
lemma = case([1, 0.5, 2], [-1, 1.5, -0.5], ([[1, 2, 0], [0, 1, -1], [1, 0, 1]], [0.3, -0.2, -1.1]))
error = np.array([1, -1, 1]) * 1e-9 / np.sqrt(3)  # of a solver, made by hand
signs, inflated = np.array([1, -1, -1]), {}
for kappa in (0.0, 1e-6):
    cell = cone.solve(*lemma, same(1, 0, 0), margin=kappa)
    ends = cell.u + error, cell.v - error
    margin = min((signs * lemma[0].pre_activations(end)[0]).min() for end in ends)
    inflated[kappa] = collisions.verify_collisions(
        lemma[0].layers, [lemma[1]], [lemma[2]], [ends[0]], [ends[1]]
    )
    print(
        f"kappa = {kappa:g}: signs {'hold' if margin >= 0 else 'fail'} at the noisy points; exact collision "
        f"{'proved' if inflated[kappa].verified[0] else 'not proved'} at {inflated[kappa].epsilon[0]:.8f}"
    )

# %% [markdown]
# ## The first ReLU layer of a trained network
#
# Digits 3 against 7, two fully connected networks of 3/10 of the printed width. A collision before the
# ReLU is one after it, so ReLUs can only add collisions: for every pair
#
# $$\varepsilon^*_{\text{ReLU}} \le \varepsilon^*_{\text{linear}} \le \tfrac12\|u - v\|.$$
#
# The two on the right are closed forms. What admm finds bounds the first from above; so does the slow descent
# by cone programs, tried on one pair. The same 64 pairs of test images are given to both networks. The times
# are those of one machine, shared with other work.

# %% tags=["nbval-ignore-output"]
digits = {}
for name in ("benign", "pgd-2"):
    config = extractor_networks.NETWORKS["quick"][f"digits-fcnn-{name}"]
    model, _ = extractor_networks.trained(config)
    images, rng = extractor_networks.images(config, "test"), np.random.default_rng(0)
    layers = extractors.as_layers(model, images.shape, depth=1)
    pixels, labels = images.images.flatten(1).double().numpy(), images.labels.numpy()  # [N, 784], [N]
    three, seven = (pixels[rng.choice(np.flatnonzero(labels == label), 64)] for label in (0, 1))
    begin = time.perf_counter()
    found = collisions.find_collisions(layers, three, seven)
    spent = 1e3 * (time.perf_counter() - begin) / len(found)
    linear = collisions.linear_collision(layers[0][0], three, seven).epsilon
    digits[name] = {"half": np.linalg.norm(three - seven, axis=1) / 2, "linear": linear, "relu": found}
    print(f"{config.label}: {found.verified.sum()} of {len(found)} verified, {spent:.1f} ms per pair")
    print(
        f"  ReLU / linear {(found.epsilon / linear).mean():.3f}, linear / half {(linear / digits[name]['half']).mean():.3f} (means)"
    )
    print(
        f"  joined at budget 3: {(linear <= 3).sum()} pairs by the linear layer, {(found.epsilon <= 3).sum()} with ReLUs"
    )
begin = time.perf_counter()
slow = collisions.find_collisions(layers, three[:1], seven[:1], method="descent")
print(
    f"first pair, {config.label}: admm {found.epsilon[0]:.4f}, descent {slow.epsilon[0]:.4f} in {time.perf_counter() - begin:.1f} s"
)

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.9), sharex=True, sharey=True)
for axis, (name, entry) in zip(axes, digits.items(), strict=True):
    half, relu = entry["half"], entry["relu"].epsilon
    ends = [half.min(), half.max()]
    axis.plot(ends, ends, "-", color=figures.COLORS["printed"], label="no features, $|u - v|/2$")
    axis.plot(half, entry["linear"], "^", ms=4, color=figures.COLORS["control"], label="linear layer (exact)")
    axis.plot(half, relu, "o", ms=4, color=figures.COLORS["ours"], label="with ReLUs (upper bound)")
    title = "Benign training" if name == "benign" else "PGD training, $\\ell_2$ budget 2"
    axis.set(title=title, xlabel="$|u - v|/2$ ($\\ell_2$, pixels in [0, 1])")
axes[0].set(ylabel="budget for a collision")
fig.suptitle("ReLUs make collisions cheaper on every pair", fontsize=10, fontweight="bold")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
shown = {name: {**e, "relu": e["relu"].epsilon} for name, e in digits.items()}
shown = {name: {kind: list(values) for kind, values in e.items()} for name, e in shown.items()}
figures.save_figure(fig, "22_digits", profile=profile, data=shown, notebook="22_relu_collisions")
plt.show()

# %% [markdown]
# ## What to believe
#
# - Every budget of `find_collisions` is an upper bound on $\varepsilon^*$ with a proved collision behind it. It
#   can only make the conflict graph too small, so the lower bounds on the loss stay valid. (The columns of the
#   two rules in the small cases are the values of the cone solver.)
# - The printed stopping rule depends on the solver and can stop beside a cheaper pattern. The repaired one
# stops only where no single flip helps. On random weights, without ties, that changed little. Neither rule
# finds the global minimum in general.
# - On the small networks above admm found the enumerated optimum. On large ones nobody knows the optimum, and
#   of admm and the slow descent either can be the cheaper.
#
# ## Change one number and run again
#
# Lift or lower $u$ in Figure 1. Below the axis its height no longer matters: the second unit is closed there.

# %%
for height in (4.0, 2.0, -2.0):
    moved = [[1.0, height]]
    here = collisions.find_collisions(network.layers, moved, [v])
    linear = collisions.linear_collision(network.layers[0].weight, moved, [v])
    print(f"u = (1, {height:g}): {here.epsilon[0]:.4f} with ReLUs, {linear.epsilon[0]:.4f} without")

# %% [markdown]
# ## Checks

# %%
expected = dict(zip(PATTERNS, (np.hypot(4.5625, 4), 5, np.sqrt(106), 9), strict=True))
assert all(abs(cells[gates].epsilon - value) < 1e-6 for gates, value in expected.items())
print("the four patterns of Figure 1, to 1e-6: ok")
short = [name for name, row in table.items() if row["printed, vertex"] > row["enumerated"] * 1.1]
assert len(short) == 5 and table["1 multipliers"]["printed, interior"] < 5 + 1e-6
assert all(row["repaired"] < row["enumerated"] + 1e-5 for name, row in table.items() if name != "5 local")
assert all(row["admm"] < row["enumerated"] + 1e-5 for row in table.values())
print("printed rule 10 % too dear or more in all five cases, repaired in one, admm in none: ok")
assert abs(table["5 local"]["repaired"] - 2.862745622650) < 1e-6
stop = descent.descend(*CASES["5 local"][0]).cells[-1]
assert min(np.abs(stop.p_u[0]).min(), np.abs(stop.p_v[0]).min()) > 0.2
print("case 5 stops in the interior of its polytope, a local minimum: ok")
assert all(a.epsilon > b.epsilon for a, b in itertools.pairwise(path)) and len(path) == 3
print("the descent falls strictly: ok")
assert np.min(ratios) > 1 - 1e-5
print("nothing below the enumerated optimum, to 1e-5: ok")
assert all(one.verified.all() for one in inflated.values())
assert abs(inflated[0.0].epsilon[0] - 1.344338111555) < 1e-8
assert abs(inflated[1e-6].epsilon[0] - 1.344338822796) < 1e-8
print("the inflation lemma's example, to 1e-8: ok")
for entry in digits.values():
    assert entry["relu"].verified.all() and (entry["relu"].epsilon < entry["linear"]).all()
    assert (entry["linear"] < entry["half"]).all()
print("every collision of digits verified, ReLU < linear < half the distance: ok")
