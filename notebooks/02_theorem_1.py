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
# # Theorem 1: true, because it says little; robustness never grows along the layers
#
# Theorem 1 says that a subnetwork is semirobust if and only if each of its layers is. One direction assumes
# what it concludes, the other pulls a readout back through the layers; what remains is that the best robust
# correlation never rises from layer to layer. That is true for all readouts and false for linear ones, and it
# never says that the next layer is robust.

# %% tags=["parameters"]
profile = "quick"

# %%
from fractions import Fraction
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np

from semirobust import figures, paths
from semirobust.experiments import layerwise
from semirobust.theory import (
    ARBITRARY_K,
    GAUSS,
    LADDER,
    SKEW,
    XOR,
    FiniteModel,
    enumeration,
    information,
    no_go,
)

figures.use_style()
paths.check_profile(profile)

# %% [markdown]
# ## The statement
#
# $F^{(j)}=f^{(j)}\circ\dots\circ f^{(1)}$ is *$\gamma_j$-semirobust* if some readout $G_j$ has
# $\Gamma_j(G_j)=\mathbb E\big[\inf_{\delta\in S}y\cdot G_j\circ F^{(j)}(X+\delta)\big]\ge\gamma_j$ (equation
# (1)). **Theorem 1:** "The subnetwork $F^{(j)}$ is $\gamma_j$-semirobust if and only if every layer of
# $F^{(j)}$, i.e. $f^{(j)},f^{(j-1)},\dots,f^{(1)}$, is also semirobust with bound parameters
# $\gamma_j,\dots,\gamma_1$ respectively." A layer is called semirobust when (1) holds with $f^{(j)}$ in place
# of $F^{(j)}$ and a mapping $K_{j-1}:\mathcal X\to\mathcal L_{j-1}$ in front of it. We read
# $K_{j-1}=F^{(j-1)}$: then "layer $j$ is semirobust" and "$F^{(j)}$ is semirobust" are one sentence, and this
# is the reading under which the proof works.
#
# ## One picture: a readout travels backwards
#
# Each column shows the values of one layer of LADDER, the arrows are the layers. A readout of layer 3 (right;
# here $G_3(z)=z/3$, written beside the values) is also a readout of layer 2: follow the arrow, then read.
# This is (19), $G_{j-1}=G_j\circ f^{(j)}$. Nothing travels forwards: where arrows from both classes meet,
# what a readout could tell apart before is gone.

# %%
readouts = [{z: Fraction(z, 3) for z in LADDER.alphabet(3)}]
for j in (3, 2, 1):
    steps = zip(LADDER.values(j - 1), LADDER.values(j), strict=True)
    readouts.insert(0, {z: readouts[0][w] for zs, ws in steps for z, w in zip(zs, ws, strict=True)})

fig, axis = plt.subplots(figsize=(7.6, 4.8))
figures.draw_layers(axis, LADDER, readouts)
axis.set_title("Readouts go back along the arrows; merged values stay merged")
fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, markerscale=0.7)
data = [{str(z): str(g) for z, g in readout.items()} for readout in readouts]
figures.save_figure(fig, "02_pull_back", profile=profile, data=data, notebook="02_theorem_1")
plt.show()

# %% [markdown]
# ## Where it holds: the pull-back identity
#
# The same function of the input is read at every layer, so its robust correlation is the same number at every
# layer, whatever the readout.

# %%
for j, readout in enumerate(readouts):
    print(f"layer {j}: Gamma_{j} of the pulled-back readout = {LADDER.robust_correlation(j, readout)}")

# %% [markdown]
# ## What the proof does
#
# * *From layers to subnetwork.* "If $f^{(j)}$ is semirobust, regardless of whether any of
#   $f^{(j-1)},\dots,f^{(1)}$ is semirobust, then $F^{(j)}$ is also semirobust." Of all assumptions it uses
#   one, the conclusion itself: *A and B and ... imply A*.
# * *From subnetwork to layers.* (18) renames $F^{(j)}$ to $f^{(j)}$. (19) is the pull-back, correct, and
#   gives all layers the *same* constant $\gamma_j$. It needs, without saying so, that $G_j\circ f^{(j)}$ is
#   an admissible readout of layer $j-1$.
#
# So two things can go wrong: readouts that are not closed under pull-back, and another $K_{j-1}$. And one
# thing is not said at all.
#
# ## Counterexample 1: linear probes
#
# Inputs are the four corners $(s,t)$ of a square, without perturbations; layer 1 is the identity, layer 2 is
# $s\,t$, and this is the label. A linear probe of layer 2 is perfect, so "layer 2 is 1-semirobust"; no linear
# probe of layer 1 is better than chance. Its pull-back $s\,t$ is a readout of layer 1, but not a linear one.

# %%
linear = [round(enumeration.best_linear_correlation(XOR, j), 9) + 0.0 for j in (1, 2)]
fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.2))
for v, label in enumerate(XOR.labels):
    colour, marker = figures.CLASS_COLORS[label], figures.CLASS_MARKERS[label]
    name = f"$y = {label:+d}$" if v < 2 else None
    axes[0].scatter(*XOR.values(1)[v][0], 110, colour, marker=marker, zorder=3, label=name)
    axes[1].scatter(XOR.values(2)[v][0], 0, 110, colour, marker=marker, zorder=3)
axes[1].axvline(0, color=figures.COLORS["printed"], ls="--")
axes[1].annotate("a linear probe", (0, 1.0), (6, 0), textcoords="offset points")
for j, axis in enumerate(axes, start=1):
    axis.set_title(f"layer {j}: best linear probe {linear[j - 1]:.0f}")
    axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[-1, 0, 1], yticks=[-1, 0, 1] if j == 1 else [])
axes[0].set(xlabel="$s$", ylabel="$t$")
axes[1].set_xlabel("$s\\,t$")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
data = {"best linear probe": linear}
figures.save_figure(fig, "02_linear_probes", profile=profile, data=data, notebook="02_theorem_1")
plt.show()
for j in (1, 2):
    print(f"layer {j}: best linear probe {linear[j - 1]:.6f}, best of all readouts {XOR.gamma_star(j)}")

# %% [markdown]
# ## Counterexample 2: any other mapping in front of a layer
#
# $x=y=\pm1$, $f^{(1)}(x)=(x,0)$ and $f^{(2)}(s,t)=t$. Layer 2 fed by $K(x)=(0,x)$ instead of by layer 1 is
# perfect, and so is layer 1. The subnetwork is constant. Both layers are "semirobust", $F^{(2)}$ is not.

# %%
titles = {
    "f1": "$f^{(1)}$",
    "f2 after K": "$f^{(2)}$ behind $K$",
    "f2 after f1": "$f^{(2)}$ behind $f^{(1)}$",
}
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.3))
for axis, (name, model) in zip(axes, ARBITRARY_K.items(), strict=True):
    figures.draw_reach(axis, model, model.depth)
    axis.set_title(rf"{titles[name]}: $\Gamma^\star$ = {model.gamma_star(model.depth)}")
    axis.set_xlabel("value of the last layer")
axes[0].set_ylabel("input $x$")
fig.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=3)
data = {name: str(model.gamma_star(model.depth)) for name, model in ARBITRARY_K.items()}
figures.save_figure(fig, "02_arbitrary_k", profile=profile, data=data, notebook="02_theorem_1")
plt.show()
print("Gamma* of", ", ".join(f"{name}: {value}" for name, value in data.items()))

# %% [markdown]
# ## What is not said: anything about the next layer
#
# A robust $F^{(j-1)}$ does not make layer $j$ robust. For every pair $0\le\gamma_j\le\gamma_{j-1}\le1$ there
# is a layer that takes the best value from $\gamma_{j-1}$ to $\gamma_j$; and however much the two layers
# depend on each other, given the label, changes nothing (below: at least 3 bits in each case).

# %%
for before, after in ((1, 1), (1, Fraction(1, 2)), (1, 0), (Fraction(2, 3), Fraction(1, 3))):
    model = no_go(after, before, bits=3)
    ends = [str(model.gamma_star(j)) for j in (0, 1)]
    bits = information.bits(model.dependence(1))
    print(f"Gamma_0* = {ends[0]:3s}, Gamma_1* = {ends[1]:3s}, I(Z_0; Z_1 | y) = {bits:.4f} bits")

# %% [markdown]
# ## Corrected theorem
#
# *Let $\mathcal G_{j-1}\supseteq\{G\circ f^{(j)}:G\in\mathcal G_j\}$ at every layer (for example all readouts
# with $|G|\le1$), and $\Gamma_j^\star=\sup_{G\in\mathcal G_j}\Gamma_j(G)$. Then*
#
# $$\Gamma_0^\star\ge\Gamma_1^\star\ge\dots\ge\Gamma_n^\star,$$
#
# *and for $|G|\le1$ and two classes layer $j$ loses nothing, $\Gamma_j^\star=\Gamma_{j-1}^\star$, if and only
# if the conflict graphs of layers $j-1$ and $j$ have minimum covers of the same weight; in particular if
# $f^{(j)}$ is injective on what the adversary can reach.*
#
# *Proof.* (i) For every $G\in\mathcal G_j$ the readout $G\circ f^{(j)}$ is admissible at layer $j-1$ and has
# the value $\Gamma_j(G)$, so the supremum there is at least as large. (ii) $\Gamma_j^\star=1-2R_j^\star$, and
# $R_j^\star$ is the weight of a minimum vertex cover of the conflicts $E_j$ (notebook 01); so equal values
# are equal covers. (iii) Points that meet before the layer meet behind it, $E_{j-1}\subseteq E_j$; an
# injective layer makes no new meeting, so $E_j=E_{j-1}$. $\square$
#
# Three layers that lose nothing, and one that does. New conflicts may be free: what is covered already can
# take more edges.

# %%
points = {"a": ("p", "q"), "b": ("r",), "c": ("p",), "d": ("s",)}  # what the adversary can make of each point
cases = {
    "injective": dict(zip("pqrs", "4321", strict=True)),
    "merges q and r (one class)": dict(zip("pqrs", "1223", strict=True)),
    "merges q and s: d meets a": dict(zip("pqrs", "1232", strict=True)),
    "merges r and s: d meets b": dict(zip("pqrs", "1233", strict=True)),
}
found = {}
for name, layer in cases.items():
    masses = (Fraction(1, 4),) * 4
    model = FiniteModel((1, 1, -1, -1), masses, tuple(points.values()), (layer,))
    sizes, covers = [len(model.edges(j)) for j in (0, 1)], [model.zero_one(j) for j in (0, 1)]
    found[name] = [model.gamma_star(j) for j in (0, 1)]
    print(
        f"{name:26s} conflicts {sizes[0]} -> {sizes[1]}, cover {covers[0]} -> {covers[1]}, "
        f"Gamma* {found[name][0]} -> {found[name][1]}"
    )
for name, values in {
    "LADDER": [LADDER.gamma_star(j) for j in range(4)],
    "SKEW": [SKEW.gamma_star(j) for j in range(4)],
    "GAUSS": [f"{GAUSS.gamma_star(j):.6f}" for j in (1, 2, 3)],
}.items():
    print(f"Gamma* of {name}: {', '.join(map(str, values))}")

# %% [markdown]
# ## Trained networks: linear probes rise with depth
#
# A linear probe, trained adversarially through the frozen layers below it, at each layer of three networks.
# Solid: the correlation that an attack leaves, an upper bound of $\Gamma_j(G)$ of this probe. Dashed: the
# largest solid value from this layer on. Each later probe, pulled back, is a readout of this layer, so the
# dashed curve is what the attack left to *some readout known to us*; it cannot rise, as in the theorem.


# %%
def figure_probes(outcome):
    """Attacked correlation of the probes by depth, and its running maximum from the right."""
    last = max(name for name in outcome.subjects if name.startswith("fine_tuned"))
    names = {"standard": "standard", "robust": "robust", last: r"$(f_a^*, \tilde f_b)$"}
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 3.6), sharey=True)
    numbers = outcome.subjects["robust"].metrics["numbers"]
    for axis, (subject, title) in zip(axes, names.items(), strict=True):
        found = outcome.subjects[subject].metrics
        at = [numbers.index(number) for number in found["numbers"]]
        high = [probe["attacked"] for probe in found["correlation"]]
        spread = abs(np.array([p["attacked_interval"] for p in found["correlation"]]).T - high)  # [2, layers]
        looks = {"fmt": "o-", "color": figures.COLORS["attacked"]}
        axis.errorbar(at, high, spread, **looks, label="linear probe under attack (95 % interval)")
        ahead = np.maximum.accumulate(high[::-1])[::-1]
        axis.plot(at, ahead, "--", color=figures.COLORS["ours"], label="best of this and the later probes")
        axis.axhline(0, color=figures.COLORS["printed"], lw=0.8)
        axis.set(title=title, xlabel="weight layer $j$ (0: the image)")
        every = 2 if len(numbers) > 10 else 1
        axis.set_xticks(range(0, len(numbers), every), numbers[::every])
        axis.set_xlim(-0.4, len(numbers) - 0.6)
    axes[0].set_ylabel("robust correlation, upper bound")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


# %% tags=["nbval-ignore-output"]
shown = [(profile, layerwise.run_plan(layerwise.plans(profile)[0], profile))]
for where in sorted({"reference", "paper"} - {profile}):  # drawn where stored, never computed here
    shown += [(where, kept) for plan in layerwise.plans(where) if (kept := layerwise.stored(plan, where))]
for where, outcome in shown:
    fig = figure_probes(outcome)
    pair = outcome.plan.configs[0].pair
    where_from = f"{pair.robust.label}, {pair.robust.dataset}"
    fig.suptitle(f"Linear probes can rise with depth, the best readout cannot ({where_from})")
    name = "02_probes" if where == profile else f"02_probes_{outcome.plan.name}"
    figures.save_figure(fig, name, profile=where, sources=outcome.records, notebook="02_theorem_1")
plt.show()
for where, outcome in shown:
    for subject, record in outcome.subjects.items():
        numbers, probes = record.metrics["numbers"], record.metrics["correlation"]
        high = [probe["attacked"] for probe in probes]
        rises = sum(after > before for before, after in pairwise(high))
        ends = f"layer {numbers[0]:2d} {high[0]:+.3f}, layer {numbers[-1]} {high[-1]:+.3f}"
        print(f"{where}, {subject:13s} {ends}; {rises} of {len(high) - 1} steps rise")

# %% [markdown]
# On the digits networks the robust network's probes rise with depth, from about zero at the image to their
# largest value at the logits; those of the standard network fall far below zero; those of $(f_a^*,\tilde
# f_b)$ stay within their intervals of where $f_a^*$ left them. A rising curve is no contradiction: the
# network itself, read at the logits, is a readout of the image, only not a linear one. Nor is it a proof of
# growth: at the image and behind the first convolution the true value of the probe is known (notebook 01),
# but every later value is an upper bound, with a certificate of $-1$ below it. What can be said without
# linear probes is the dashed curve, and it is flat or falls.
#
# ## What to believe
#
# * **Theorem 1 is true and nearly a definition.** With $K_{j-1}=F^{(j-1)}$ its two sides are one statement at
#   layer $j$; the rest is data processing.
# * **What is useful is monotonicity:** $\Gamma_0^\star\ge\dots\ge\Gamma_n^\star$, with equality exactly where
#   the minimum covers agree. No layer can be more robust than what it is fed, and a robust layer says nothing
#   about the next one.
# * **A curve of probes is not $\Gamma_j^\star$.** Linear probes are not closed under pull-back and may rise;
#   do not read a rise as robustness gained.
#
# ## Change one number and run again
#
# The third layer of LADDER, as the images of the values 0 to 4 of layer 2. The original is `(0, 1, 2, 1, 3)`;
# `(0, 1, 2, 3, 4)` is injective.

# %%
images = (0, 1, 2, 2, 3)
edited = FiniteModel(
    LADDER.labels, LADDER.masses, LADDER.inputs, (*LADDER.layers[:2], dict(enumerate(images)))
)
print("Gamma*:", ", ".join(str(edited.gamma_star(j)) for j in range(4)))
print("conflicts that layer 3 adds:", len(set(edited.edges(3)) - set(edited.edges(2))))

# %% [markdown]
# ## Checks

# %%
pulled = [LADDER.robust_correlation(j, readout) for j, readout in enumerate(readouts)]
assert pulled == [Fraction(-1, 12)] * 4
print("the pulled-back readout has -1/12 at every layer, exactly: ok")
assert all(
    model.gamma_star(j) <= model.gamma_star(j - 1) for model in (LADDER, SKEW, edited) for j in (1, 2, 3)
)
assert GAUSS.gamma_star(3) < GAUSS.gamma_star(2) < GAUSS.gamma_star(1)
print("Gamma* never rises: ok")
assert np.allclose(linear, [0, 1], atol=1e-9) and XOR.gamma_star(1) == XOR.gamma_star(2) == 1
print("linear probes of XOR rise from 0 to 1, all readouts stay at 1 (to 1e-9): ok")
assert [model.gamma_star(model.depth) for model in ARBITRARY_K.values()] == [1, 1, 0]
print("with another K both layers are robust and the subnetwork is not: ok")
half = Fraction(1, 2)
assert list(found.values()) == [[half, half], [half, half], [half, half], [half, 0]]
print("equal covers, and only they, keep Gamma*: ok")
if profile == "quick":
    outcome = shown[0][1]
    robust = [p["attacked"] for p in outcome.subjects["robust"].metrics["correlation"]]
    standard = [p["attacked"] for p in outcome.subjects["standard"].metrics["correlation"]]
    assert robust[-1] > robust[0] and standard[-1] < standard[0]
    print("from image to logits the robust network's probes rise and the standard network's fall: ok")
