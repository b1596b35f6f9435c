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
# # Definition 1: a robust correlation is a number only for readouts of bounded size
#
# Definition 1 calls a subnetwork $\gamma_j$-semirobust if some readout of it keeps a correlation of at least
# $\gamma_j$ with the label under attack. It does not bound the readout, so its $\gamma_j$ can be multiplied by
# any constant. (Read as in reference [22] of the paper, with features of zero mean and unit variance, it is a
# number; but then growth at $\delta=0$ is at most $1-\mathbb E[yG_{j-1}]$, below 2, so that assumption A2 of
# Theorem 2 fails unless $G_{j-1}=-y$.) With $|G|\le1$ the best $\gamma_j$ becomes a number between 0 and 1 that is
# computed exactly on finite models, as one minus twice a minimum vertex cover. On trained networks it can
# only be bracketed, one probe at a time, between a certificate and an attack.

# %% tags=["parameters"]
profile = "quick"

# %%
from fractions import Fraction
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import figures, paths, runs
from semirobust.experiments import layerwise
from semirobust.theory import (
    GAUSS,
    LADDER,
    LEMMA_1_CONSTANT,
    SKEW,
    TRIANGLE,
    FiniteModel,
    enumeration,
    information,
)

figures.use_style()
paths.check_profile(profile)
models = {"LADDER": LADDER, "SKEW": SKEW}

# %% [markdown]
# ## The statement
#
# Write $F^{(j)}=f^{(j)}\circ\dots\circ f^{(1)}$ for the first $j$ layers. The subnetwork $F^{(j)}$ is
# *$\gamma_j$-semirobust* if there is a mapping $G_j:\mathcal L_j\to\mathcal Y$ with (the paper's equation
# (1))
#
# $$\mathbb E_{(X,y)}\Big[\inf_{\delta\in S}\,y\cdot G_j\circ F^{(j)}(X+\delta)\Big]\;\ge\;\gamma_j .$$
#
# Call the left side $\Gamma_j(G_j)$. The text leaves three things open, and each of them changes the number:
#
# 1. **How large may $G_j$ be?** Read literally, $G_j$ takes labels as values. But in the proof of Theorem 3
#    (below (35)) it is $\lambda_{in}^\top$, a linear map of any size, and A2 and B2 ask $y\,G_j$ to grow by
#    $1+U_j\ge2$ at every layer, which labels can do once at most.
# 2. **Where is the infimum?** Inside the expectation, as printed, the adversary sees the point and its label.
#    The proof of Lemma 1 (from (22) to (23)) and the words "for all $\delta\in S$" in A2 and B2 treat
#    $\delta$ as one constant shift of all points.
# 3. **What is a robust single layer?** The paper puts "a mapping $K_{j-1}:\mathcal X\to\mathcal L_{j-1}$" in
#    front of $f^{(j)}$. Here it is the network itself, $K_{j-1}=F^{(j-1)}$; notebook 02 shows what happens
#    with any other.
#
# ## One picture
#
# LADDER has eight points, the shifts $\{-1,0,1\}$ and three layers. Each row is a point and shows where the
# adversary can send it; the filled mark is the clean value. A shaded value is reached by both classes: there
# no readout can be right for both. These *conflicts* form a graph, and a readout can be robustly right
# exactly on points between which no conflict is left.


# %%
def figure_reach(model, names):
    """Reachable sets above, conflict graphs below, layer by layer."""
    fig, axes = plt.subplots(2, model.depth + 1, figsize=(9.6, 5.6), height_ratios=(3, 2))
    for j, (above, below) in enumerate(axes.T):
        figures.draw_reach(above, model, j)
        figures.draw_conflicts(below, model, j)
        above.set_title(rf"{names[j]}: $\Gamma^\star_{j}$ = {model.gamma_star(j)}")
        above.set_xlabel(f"value of {names[j]}")
    axes[0, 0].set_ylabel("point (its clean input)")
    entries = {}
    for axis in axes[::-1, -1]:
        entries |= {label: handle for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    fig.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=5)
    return fig


fig = figure_reach(LADDER, ["input", "layer 1", "layer 2", "layer 3"])
data = {"gamma_star": [str(LADDER.gamma_star(j)) for j in range(4)]}
figures.save_figure(fig, "01_ladder", profile=profile, data=data, notebook="01_definition_1")
plt.show()

# %% [markdown]
# ## Without a normalisation, $\gamma$ is one bit
#
# $\Gamma_j(cG)=c\,\Gamma_j(G)$ for $c\ge0$. If some readout has a positive robust correlation then *every*
# $\gamma_j$ is reached; if none has, $G=0$ still gives $\gamma_j=0$. Only the sign of the best value carries
# information. Below: the best readout of layer 2 of LADDER, scaled; and the chain GAUSS ($X\mid y\sim
# N(1.5\,y,1)$, $|\delta|\le0.5$, every further layer adds noise $N(0,1)$), where the scales of the readouts
# $G_j(z)=s_jz$ decide whether $\gamma_j$ rises or falls, while what any readout can do only falls.

# %%
best = LADDER.best_readout(2)
for c in (0, 1, 10, 1000):
    scaled = {z: c * value for z, value in best.items()}
    print(f"LADDER, layer 2, readout {c:4d} G: Gamma_2 = {LADDER.robust_correlation(2, scaled)}")
for scales in ((1, 4, 8), (8, 4, 1)):
    print(f"GAUSS, G_j = s_j z, s = {scales}: Gamma = {[GAUSS.linear_correlation(s) for s in scales]}")
print("GAUSS, best |G| <= 1:             Gamma =", [round(GAUSS.gamma_star(j), 4) for j in (1, 2, 3)])

# %% [markdown]
# ## With $|G|\le1$, soft readouts are no better than labels
#
# For $|G|\le1$, $G=\frac12\int_{-1}^1\operatorname{sign}(G-t)\,dt$ (a layer cake). The input that is worst
# for $yG$ is worst for every slice at once, because $y\operatorname{sign}(G-t)$ does not decrease in $yG$.
# Hence $\Gamma_j(G)=\frac12\int\Gamma_j(\operatorname{sign}(G-t))\,dt$ is a mean over thresholds, some
# threshold does at least as well as $G$, and the literal reading ($G$ a label) and $|G|\le1$ have the same
# best value:
#
# $$\Gamma_j^\star:=\sup_{|G|\le1}\Gamma_j(G)=1-2R_j^\star,$$
#
# where $R_j^\star$ is the least robust 0-1 error of a classifier that sees layer $j$ only.

# %%
soft = {0: Fraction(-1), 1: Fraction(-1, 2), 2: Fraction(1, 4), 3: Fraction(1, 2), 4: Fraction(1)}
cuts, total = sorted(soft.values()), Fraction(0)
for low, high in pairwise(cuts):
    slice_value = LADDER.robust_correlation(2, {z: 1 if g > low else -1 for z, g in soft.items()})
    print(f"thresholds from {low!s:>4} to {high!s:>4}: Gamma_2 of the labels = {slice_value}")
    total += (high - low) * slice_value / 2
print(f"their mean: {total}; Gamma_2 of the soft readout: {LADDER.robust_correlation(2, soft)}")

# %% [markdown]
# ## Theorem: $R_j^\star$ is the weight of a minimum vertex cover of the conflicts
#
# Let $\mathcal R_j(v)$ be what the adversary can make of point $v$ at layer $j$, and join a positive point
# $u$ and a negative point $v$ if $\mathcal R_j(u)\cap\mathcal R_j(v)\neq\emptyset$. *Proof.* (i) Two joined
# points cannot both be robustly right, so the points on which a classifier fails cover all edges. (ii) Take
# any cover; answer $+1$ exactly on what positive points off the cover can reach. No negative point off the
# cover reaches such a value, so all points off the cover are right. (iii) So the least error is the least
# mass of a cover. (iv) The graph has two sides, so by König's theorem (max flow, min cut) this mass is a
# maximum flow, and an adversary who sends both ends of an edge to a common value, in the amounts of that
# flow, leaves no classifier a smaller error: a saddle point. $\square$
#
# Four computations that share nothing but the definition: the cover, all $\pm1$ readouts against all attack
# maps, a linear program over readouts $|G|\le1$, and a linear program over randomised attacks. (A dash: too
# many pairs to enumerate.)


# %%
def brute_force(model, j):
    try:
        return str(enumeration.best_correlation(model, j))
    except ValueError:  # too many pairs to enumerate
        return None


rows = []
for name, model in models.items():
    for j in range(model.depth + 1):
        values = {"model": name, "j": j, "conflicts": len(model.edges(j)), "cover": str(model.zero_one(j))}
        values |= {"exact": str(model.gamma_star(j)), "brute": brute_force(model, j)}
        values["soft"] = round(enumeration.best_soft_correlation(model, j), 12) + 0.0  # never -0
        values["attack"] = round(enumeration.minimax_correlation(model, j), 12) + 0.0
        rows.append(values)
names = {"model": "model", "j": "layer", "conflicts": "conflicts", "cover": "minimum cover $R_j^\\star$"}
names |= {"exact": "$1-2R_j^\\star$", "brute": "all readouts and attacks"}
names |= {"soft": "best soft readout", "attack": "worst random attack"}
display(Markdown(runs.markdown_table(rows, names, {"soft": ".6f", "attack": ".6f"})))

# %% [markdown]
# ## Infimum outside: a constant shift is a weaker adversary
#
# With the infimum outside the expectation, the adversary picks one shift for all points. The best value
# against it is never smaller, and it can be positive where nothing is robust. In a small case, $x=(y,b)$, the
# shift adds 0 or 1 to $b$, and the layer is $10y$ for odd $b$ and 0 for even $b$: every constant shift leaves
# half of the points apart, but an attack map sends all of them to 0. (For SKEW, whose points have two inputs
# each, all take the first or all the second.)


# %%
def against_constant_shifts(model, j):
    """The best of all +-1 readouts where the adversary has one shift for all points."""
    attacks = [model.constant_attack(k) for k in range(len(model.inputs[0]))]
    readouts = enumeration.hard_readouts(model, j)
    return max(min(model.correlation(j, g, attack) for attack in attacks) for g in readouts)


cases = {"x = (y, b)": (LEMMA_1_CONSTANT, 1), "LADDER, layer 3": (LADDER, 3), "SKEW, layer 3": (SKEW, 3)}
for name, (model, j) in cases.items():
    print(
        f"{name:16s} infimum outside: {against_constant_shifts(model, j)!s:5s} inside: {model.gamma_star(j)}"
    )

# %% [markdown]
# ## Where it ends: three classes
#
# Three points of classes 0, 1, 2 can be sent to $\{a,b\}$, $\{b,c\}$, $\{a,c\}$. Each pair is in conflict, so
# a label-valued readout is robustly right on one point of three. A soft one answers "either of the two" at
# every value and is right with probability 1/2 at every point. Hard and soft part, and the vertex cover does
# not give the soft value. On more than two classes one must therefore say which is meant; below, on ten
# classes, $y\,G$ is the margin $\operatorname{clip}(G_y-\max_{k\ne y}G_k,\,-1,\,1)$ of a given probe.

# %%
hard, soft_three = enumeration.multiclass_accuracy(TRIANGLE.labels, TRIANGLE.masses, TRIANGLE.reached)
print(f"three classes, best robust accuracy of labels: {hard}, of soft answers: {soft_three:.6f}")

# %% [markdown]
# ## Robust correlation, cross-entropy and information: one sandwich
#
# The least robust cross-entropy $CE_j^\star$ (bits) has a dual, too: $CE_j^\star=\max_\alpha H(y\mid
# Z_j^\alpha)$ over randomised attacks $\alpha$, so $A_j=H(y)-CE_j^\star$ is the least information about the
# label that an attack leaves in layer $j$. With balanced classes, Hellman and Raviv's inequality and Fano's
# give
#
# $$A_j=1-CE_j^\star\;\le\;\Gamma_j^\star\;\le\;1-2h_b^{-1}(CE_j^\star).$$
#
# Here $h_b^{-1}$ is the inverse of the binary entropy on $[0,\frac12]$. All of these fall with $j$: they
# measure what the layer still knows about the label when attacked.

# %%
exact = {
    name: [(model.gamma_star(j), model.cross_entropy(j).bits) for j in range(4)]
    for name, model in models.items()
}
exact["GAUSS"] = [(GAUSS.gamma_star(j), information.bits(GAUSS.cross_entropy(j))) for j in (1, 2, 3)]
for name, found in exact.items():
    print(f"{name:7s} Gamma*", *(f"{float(gamma):.4f}" for gamma, _ in found), end="   ")
    print("R*", *(f"{(1 - float(gamma)) / 2:.4f}" for gamma, _ in found), end="   ")
    print("CE*", *(f"{bits:.4f}" for _, bits in found), end="   ")
    print("A", *(f"{abs(1 - bits):.4f}" for _, bits in found), "bits")

# %%
fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), sharey=True)
blue, green = figures.COLORS["ours"], figures.COLORS["robust"]
for axis, (name, found) in zip(axes, exact.items(), strict=True):
    first = 1 if name == "GAUSS" else 0
    at = range(first, first + len(found))
    low = [1 - bits for _, bits in found]
    high = [1 - 2 * information.inverse_binary_entropy(min(1.0, bits)) for _, bits in found]
    axis.fill_between(at, low, high, color=green, alpha=0.2, lw=0, label="between the two bounds")
    label = "label information $A_j$ (bits), a lower bound"
    axis.plot(at, [float(gamma) for gamma, _ in found], "o-", color=blue, label=r"$\Gamma^\star_j$, exact")
    axis.plot(at, low, "s--", ms=9, mfc="none", color=green, label=label)
    axis.set(title=name, xlabel="layer $j$", ylim=(-0.04, 1.06))
    axis.set_xticks(at)
fig.suptitle("What an attack leaves of the label brackets the best robust correlation")
axes[0].set_ylabel("correlation; information (bits)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
numbers = {name: [[float(gamma), bits] for gamma, bits in found] for name, found in exact.items()}
figures.save_figure(fig, "01_sandwich", profile=profile, data=numbers, notebook="01_definition_1")
plt.show()

# %% [markdown]
# ## Trained networks: an interval, and only of one probe
#
# On a real network neither supremum nor infimum can be computed. For one readout $G$, a linear probe trained
# adversarially through the frozen layers below it, an attack gives an *upper* bound of $\Gamma_j(G)$ and a
# certificate a *lower* one (here from Lipschitz constants; exact where the probe is affine in the image, at
# the input and behind the first convolution). Layer 0 is the image. Results are computed once and stored.


# %%
def draw_intervals(axis, found):
    """Clean, attacked and certified correlation of the probe of each layer of one network."""
    at, probes = range(len(found["numbers"])), found["correlation"]
    clean, high, low = ([probe[key] for probe in probes] for key in ("clean", "attacked", "certified"))
    colors = figures.COLORS
    axis.vlines(at, low, high, color=colors["clean"], lw=7, alpha=0.5, label=r"$\Gamma_j(G)$ lies here")
    axis.plot(at, clean, "^", color=colors["printed"], label="clean")
    spread = abs(np.array([probe["attacked_interval"] for probe in probes]).T - high)  # [2, layers]
    label = "attacked: upper bound (95 % interval)"
    axis.errorbar(at, high, spread, fmt="o", color=colors["attacked"], label=label)
    axis.plot(at, low, "s", color=colors["robust"], label="certified: lower bound")
    axis.axhline(0, color=colors["printed"], lw=0.8)
    axis.set(xlabel="weight layer $j$ (0: the image)", ylim=(-1.08, 1.08))
    axis.set_xticks(at, found["numbers"])
    kept = zip(found["numbers"], probes, strict=True)
    return max((number for number, probe in kept if not probe["certificate_is_trivial"]), default=None)


# %%
def figure_intervals(outcome):
    """Both networks; the title says behind which layer no certificate is better than -1."""
    fig, axes = plt.subplots(1, 2, figsize=(9.0, 3.8), sharey=True)
    for axis, subject in zip(axes, ("standard", "robust"), strict=True):
        last = draw_intervals(axis, outcome.subjects[subject].metrics)
        axis.set_title(f"{subject}: certificates up to layer {last} only")
    axes[0].set_ylabel(r"robust correlation $\Gamma_j(G)$ of a probe")
    pair = outcome.plan.configs[0].pair
    title = f"Where the robust correlation of a probe can be: {pair.robust.label}, {pair.robust.dataset}"
    fig.suptitle(title + rf", $\epsilon$ = {pair.attack.eps:.3f}")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


# %% tags=["nbval-ignore-output"]
outcome = layerwise.run_plan(layerwise.plans(profile)[0], profile)
shown = [(profile, outcome)]
for where in sorted({"reference", "paper"} - {profile}):  # drawn where stored, never computed here
    shown += [(where, kept) for plan in layerwise.plans(where) if (kept := layerwise.stored(plan, where))]
for where, kept in shown:
    name = "01_networks" if where == profile else f"01_networks_{kept.plan.name}"
    fig = figure_intervals(kept)
    figures.save_figure(fig, name, profile=where, sources=kept.records, notebook="01_definition_1")
plt.show()
for subject in ("standard", "robust"):
    found = outcome.subjects[subject].metrics
    accuracy, attacked = 100 * found["accuracy"], 100 * found["attacked_accuracy"]
    print(f"{subject} network, {found['n_test']} test images: {accuracy:.1f} %, under PGD {attacked:.1f} %")
    for number, probe in zip(found["numbers"], found["correlation"], strict=True):
        where = f"layer {number:2d} ({probe['features']:4d} features)"
        held = f"Gamma_j(G) in [{probe['certified']:+.3f}, {probe['attacked']:+.3f}]"
        print(f"  {where} clean {probe['clean']:+.3f}, {held}, certificate {probe['certificate']}")

# %% [markdown]
# What this says (digits networks): on the standard network the attack pushes every probe behind the first
# layers below zero, and that is proved for these probes, up to the sampling of the images. On the robust
# network it leaves them near zero at first and above it behind later layers (notebook 02 asks whether it
# may). What it does not say:
#
# * *The upper bound is one of a probe, not of $\Gamma_j^\star$.* A low value shows that this probe fails, not
#   that the layer has forgotten.
# * *It is not the value either.* At the input and at layer 1 the certificate is exact, so the gap there is
#   what this attack misses.
# * *The lower bound is vacuous at every layer measured behind the first convolution.* The product of
#   Lipschitz constants is so large that the certificate is $-1$, what $|G|\le1$ says anyway. No layer is
#   shown to be semirobust with a positive $\gamma_j$.
#
# ## What to believe
#
# * **A $\gamma_j$ means nothing without a normalisation.** With $|G|\le1$, and for two classes, "the"
#   $\gamma_j$ of a subnetwork is $\Gamma_j^\star=1-2R_j^\star$, a minimum vertex cover of its conflicts:
#   exact on finite models, and the same for labels and soft readouts.
# * **It is the adversary's map that counts.** Against constant shifts the number can be positive where no
#   layer is robust.
# * **On trained networks trust intervals only.** The attack bounds one probe from above; the certificate is
#   far below it, and nothing in Definition 1 closes the gap.
#
# ## Change one number and run again
#
# The masses of LADDER's points. With one heavy point the cheapest cover changes, and so does
# $\Gamma_2^\star$; try `(1, 1, 3, 3, 1, 1, 1, 1)`.

# %%
weights = (1, 1, 1, 1, 1, 5, 1, 1)
masses = tuple(Fraction(weight, sum(weights)) for weight in weights)
edited = FiniteModel(LADDER.labels, masses, LADDER.inputs, LADDER.layers)
for j in range(4):
    points = [edited.inputs[v][0] for v in sorted(edited.cover(edited.edges(j))[1])]
    print(f"layer {j}: Gamma* = {edited.gamma_star(j)}, minimum cover: points {points or 'none'}")

# %% [markdown]
# ## Checks

# %%
assert [LADDER.gamma_star(j) for j in range(4)] == [1, 1, Fraction(1, 2), 0]
assert [SKEW.gamma_star(j) for j in range(4)] == [1, Fraction(7, 10), Fraction(3, 5), 0]
print("Gamma* of LADDER 1, 1, 1/2, 0 and of SKEW 1, 7/10, 3/5, 0, exactly: ok")
assert all(row["brute"] in (None, row["exact"]) for row in rows)
assert all(abs(row[key] - float(Fraction(row["exact"]))) < 1e-9 for row in rows for key in ("soft", "attack"))
print("cover, enumeration and both linear programs agree to 1e-9: ok")
for model in models.values():
    for j in range(4):
        law = model.label_law(j, model.saddle_attack(j))
        left = sum(abs(law.get((z, 1), 0) - law.get((z, -1), 0)) for z in {z for z, _ in law})
        assert left == model.gamma_star(j)
print("one random attack leaves no more than Gamma*, exactly: ok")
assert total == LADDER.robust_correlation(2, soft)
print("a soft readout is the mean of its thresholds, exactly: ok")
for found in exact.values():
    ends = [(1 - bits, 1 - 2 * information.inverse_binary_entropy(min(1.0, bits))) for _, bits in found]
    assert all(low - 1e-9 <= float(g) <= high + 1e-9 for (low, high), (g, _) in zip(ends, found, strict=True))
print("label information <= Gamma* <= Fano's bound, to 1e-9: ok")
probes = [probe for record in outcome.records for probe in record.metrics["correlation"]]
assert all(
    -1 <= p["certified"] <= p["attacked"] + 1e-6 and p["attacked"] <= p["clean"] + 1e-6 for p in probes
)
print("certified <= attacked <= clean for every probe: ok")
