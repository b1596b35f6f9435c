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
# # The ceiling: no readout of a layer, however trained, is more semirobust than its collisions allow
#
# Definition 1 of arXiv 2307.03803 calls a layer $\gamma$-semirobust if *some* readout of it keeps a robust
# correlation of $\gamma$. The collisions of the paper on fixed feature extractors say what *no* readout can
# keep. Put together, verified collisions certify a ceiling on $\gamma$, layer by layer, and an attack that
# leaves a readout above it has provably missed perturbations. This happens, and the collisions show which.

# %% tags=["parameters"]
profile = "quick"

# %%
from itertools import chain, product

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display

from semirobust import collisions, extractors, figures, runs
from semirobust.experiments import bound_curves, ceiling, ceiling_curves, extractor_networks, feature_bounds
from semirobust.readouts import clip, l2
from semirobust.theory import instances

figures.use_style()
places = bound_curves.places(profile)
NOTEBOOK = "30_ceiling"

# %% [markdown]
# ## The statement that joins the papers
#
# A readout $G$ of layer $f$ with values in $[-1, 1]$, labels $y = \pm 1$, perturbations $|\delta| \le
# \varepsilon$:
#
# $$\Gamma(G) = \mathbb E\Big[\min_{|\delta|\le\varepsilon} y\,G(f(x + \delta))\Big], \qquad \Gamma^* =
# \sup_{|G|\le 1} \Gamma(G).$$
#
# (Without $|G| \le 1$ any $\gamma > 0$ can be had by scaling, notebook 01.) Two points of different classes
# are in *conflict* if both can be moved to the same features.
#
# **Theorem.** For every set of verified conflicts, with the weight $C$ of its minimum vertex cover,
#
# $$\Gamma(G) \le \Gamma^* \le 1 - 2C \quad\text{for every readout } G,$$
#
# and $\Gamma^* = 1 - 2C$ if the set has all conflicts.
#
# *Proof.* Take disjoint conflicts $(u, v)$. Both points can be sent to common features $z$, where $y\,G(z)$
# is $G(z)$ for one and $-G(z)$ for the other: the two minima add up to at most 0, and all other points give
# at most 1. With equal weights $1/n$ and $M$ pairs, $\Gamma(G) \le 1 - 2M/n$, and by König's theorem the
# largest $M/n$ is the minimum cover $C$ (with other weights: a maximum flow instead of a matching). If all
# conflicts are known, the points outside a minimum cover are independent; answer $+1$ exactly on what its
# positive points can reach. All of them are right under attack, so $\Gamma(G) \ge (1 - C) - C$. $\square$
#
# Three consequences. (1) Missing a conflict can only make the ceiling too high, never wrong. (2) Features
# that agree at one layer agree at all later ones: the ceiling can only fall with depth. (3) An attack gives
# an *upper* bound of $\Gamma(G)$ for one $G$; the ceiling bounds the true value for every $G$. So an attacked
# correlation above the ceiling is a proof that the attack failed.
#
# On the exact models of notebook 01: the best readout of all, found by trying each, and the ceiling; then the
# ceiling if only every other conflict is known.


# %%
def best_of_all(model, j):
    """The largest robust correlation over all readouts of layer j with values -1 and +1."""
    alphabet = model.alphabet(j)
    signs = (dict(zip(alphabet, values, strict=True)) for values in product((-1, 1), repeat=len(alphabet)))
    return max(model.robust_correlation(j, readout) for readout in signs)


exact = []
print("model   layer  conflicts  best readout  ceiling  ceiling from half of them")
for name, model in (("LADDER", instances.LADDER), ("SKEW", instances.SKEW)):
    for j in range(1, model.depth + 1):
        edges = model.edges(j)
        half = 1 - 2 * model.cover(edges[::2])[0]
        exact.append((best_of_all(model, j), 1 - 2 * model.zero_one(j), half))
        print(f"{name:7s} {j:5d}  {len(edges):9d}" + "".join(f"{v!s:>13s}" for v in exact[-1]))

# %% [markdown]
# ## On trained networks
#
# A fully connected network with two ReLU layers, two classes (3 against 7; in Fashion-MNIST dress against
# sneaker), $\ell_2$ budgets in pixels. Collisions know no box, so no attack here has one: pixels may leave
# $[0, 1]$. All values are means over the same training images as in notebook 24.
#
# * **Ceiling**: from verified collisions, those of notebook 24 and the ones that the attack below needs.
# * **Readouts**: linear ones and MLPs, trained adversarially at each budget, on training images that are not
#   among the points; and the network itself, which is a readout of each of its layers. The margin is clipped
#   to $[-1, 1]$ at the scale that was best on held-out images under attack.
# * **Attacked**: the worse, point by point, of PGD on the margin and of the collisions as an attack. Two
#   colliding points get one answer from *any* readout; it is wrong for one of them.
# * **Proved**: a lower bound of $\Gamma(G)$ by linear bounds of each ReLU; exact for readouts that are
#   linear in the image.
#
# What a readout of a layer reaches counts for earlier layers too, since it is a readout of those. A constant
# readout has $\Gamma = 0$ in two classes of equal size: values below that are a readout's own fault.

# %% tags=["nbval-ignore-output"]
networks = {}
for where, dataset in places:
    plans = [plan for plan in ceiling.plans(where) if plan.network.dataset == dataset]
    read = [ceiling_curves.read(plan, where, profile=profile) for plan in plans]
    if all(read):
        networks[where, dataset] = read
        for network in read:
            n, counts = sum(network.record.metrics["n"]), network.record.metrics["layers"]["relu_2"]
            extra = "" if network.bounds else ", bounds of notebook 24 not run"
            print(
                f"{where}, {dataset}, {network.training}: {n} points, {counts['collisions']} collisions{extra}"
            )
missing = [" ".join(place) for place in places if place not in networks]
print("not run: " + (", ".join(missing) or "nothing"))


# %% tags=["nbval-ignore-output"]
def figure_ceiling(place):
    """Above: over the budget. Below: layer by layer, at the budget where the ceiling is nearest to 1/2."""
    shown = networks[place]
    budget = ceiling_curves.telling(shown[0])
    fig, axes = plt.subplots(2, 2, figsize=(9, 7.6), sharey=True)
    for (top, bottom), network in zip(axes.T, shown, strict=True):
        figures.ceiling.draw_budgets(top, network)
        figures.ceiling.draw_layers(bottom, network, budget)
        top.set_title(f"training: {bound_curves.training_name(network.training)}; behind the second ReLU")
        bottom.set_title(rf"layer by layer at $\varepsilon$ = {budget:g}")
    for axis in axes[:, 1]:
        axis.set_ylabel("")
    keys = [axis.get_legend_handles_labels() for axis in axes[:, 0]]
    handles, labels = (list(chain.from_iterable(parts)) for parts in zip(*keys, strict=True))
    fig.legend(handles, labels, loc="outside lower center", ncols=3)
    n = sum(shown[0].record.metrics["n"])
    title = f"No readout of a layer gets above its ceiling ({bound_curves.DATASETS[place[1]]}, {n} images)"
    fig.suptitle(title, fontsize=10, fontweight="bold")
    return fig


# %% tags=["nbval-ignore-output"]
for place, shown in networks.items():
    fig, sources = figure_ceiling(place), [source for network in shown for source in network.sources]
    figures.save_figure(fig, f"30_ceiling_{place[1]}", profile=place[0], sources=sources, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# Read it as a map. **Hatched**: proved impossible behind the second ReLU. **Grey**: impossible for any
# classifier, even on the images. What lies between the two was lost by the layers, not by the attack or the
# training of the readout. **Green**: a readout is proved to reach it. **White**: open. The filled markers
# are attacked readouts: each true value is at the marker or below it. Markers on the lower edge lie below it.
#
# The ceiling in numbers, beside the best that any tested readout of the layer is left with (at least 0, that
# of the constant readout):


# %% tags=["nbval-ignore-output"]
def table(network):
    """A row for each layer: ceiling / best attacked readout, at each budget."""
    rows = []
    for layer, name in feature_bounds.NAMES.items():
        best = network.reached(layer)
        cells = {
            f"{budget:g}": f"{network.ceiling(layer, budget):.2f} / {value:.2f}"
            for budget, value in zip(network.budgets, best, strict=True)
        }
        rows.append({"layer": name} | cells)
    heads = {f"{budget:g}": rf"$\varepsilon$ = {budget:g}" for budget in network.budgets}
    return runs.markdown_table(rows, {"layer": "layer"} | heads)


for (_, dataset), shown in networks.items():
    for network in shown:
        title = f"**{bound_curves.DATASETS[dataset]}, {bound_curves.training_name(network.training)}**"
        display(Markdown(f"{title}: ceiling / best attacked readout\n\n{table(network)}"))

# %% [markdown]
# ## When an attack says more than is possible
#
# The ceiling needs no attack on the readout, so it can judge one. Two kinds of readouts put it to the test:
#
# * **Trained readouts.** Adversarial training can teach a readout to fool the attack that it is trained with,
#   by gradients that lead nowhere. Listed is every trained readout that PGD leaves above the ceiling, with
#   what ten restarts of twice the steps leave of it.
# * **Readouts that hide their gradient by construction**: the network's answers $\pm 1$ instead of its
#   margin, and the mean label of the five nearest training images in the features. PGD that follows the
#   answers finds gradient zero; neighbours have none to follow, so that random perturbations stand in.
#
# The collisions know nothing of the readout, and bring every one of them below the ceiling that they prove.
# (Drawn is the smaller of that and the one from notebook 24, whose collisions were not tried on readouts.)
# Whoever sees the margin behind the answers can do without: PGD on it, printed last, can find more.

# %% tags=["nbval-ignore-output"]
suspects, HIDDEN = {}, {"answers": "hard answers", "neighbours": "neighbours"}
for place, shown in networks.items():
    budget = ceiling_curves.telling(shown[0])
    found = [one for network in shown for one in ceiling_curves.passed(network)]
    found.sort(key=lambda one: one.ceiling - one.followed)
    blind = [one for network in shown for one in ceiling_curves.hidden(network, budget)]
    suspects[place] = found[:3] + blind
    tested = sum(len(network.readouts(layer)) for network in shown for layer in feature_bounds.LAYERS)
    print(
        f"{place[1]}: {len(found)} of {tested * len(shown[0].budgets)} readouts, each at one budget, are above their ceiling under PGD"
    )
    for one in found:
        print(
            f"  {one.training}, {feature_bounds.NAMES[one.layer]}, {one.name} at {one.budget:g}: PGD {one.followed:.3f},"
            + ("" if one.longer is None else f" longer PGD {one.longer:.3f},")
            + f" ceiling {one.ceiling:.3f}, with collisions {one.collisions:.3f}"
        )
    for network, (key, name) in product(shown, HIDDEN.items()):
        left = network.record.metrics["hidden"][key]["logits"][network.budgets.index(budget)]
        print(
            f"  {network.training}, {name} at {budget:g}, under PGD on the margin of the network: {left:.3f}"
        )

# %% tags=["nbval-ignore-output"]
for place, found in suspects.items():
    fig, axis = plt.subplots(figsize=(9, 4))
    figures.ceiling.draw_passed(axis, found)
    title = "Attacks report the impossible, collisions find what they missed"
    title += f" ({bound_curves.DATASETS[place[1]]})"
    axis.set_title(title)
    fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    sources = [source for network in networks[place] for source in network.sources]
    figures.save_figure(fig, f"30_passed_{place[1]}", profile=place[0], sources=sources, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# Whoever reports a hollow marker here may do so in good faith: PGD
# ran, and got stuck. The ceiling needs no better attack to tell. The converse fails: below the ceiling an
# attack can be just as wrong, unnoticed.
#
# ## What to believe
#
# - **Certain**: on these points no readout of the layer is above its ceiling, whatever its size, training or
#   answer to attacks. The collisions behind it are verified in float64.
# - **An upper bound only**: every attacked value, for its readout. The gap between the best marker and the
#   ceiling is open: better readouts, or more collisions, may close it.
# - **Not claimed**: anything on other points (these are training images, as in the paper), with the box
#   $[0, 1]$ (the adversary is weaker, so these ceilings do not hold), or with more than two classes (conflicts
#   of pairs still bound the loss, but no longer tightly).
#
# ## Change one number and run again
#
# At the budget below, collisions of the first ReLU layer are searched now, and tried on three readouts of it:
# the network itself, its hard answers, and a random one. All stay below the ceiling (with fewer collisions than
# above it can be a little higher).

# %% tags=["nbval-ignore-output"]
budget = 2.5
plan = ceiling.plan("quick", "digits", "fcnn-benign")
layers = extractors.as_layers(extractor_networks.trained(plan.network)[0], (1, 28, 28))
three, seven = feature_bounds.points(plan.bounds)
found = collisions.find_transfer(layers[:1], three, seven, [budget])
own = l2.own_readout(layers)
direction = np.random.default_rng(0).standard_normal(len(layers[0][1]))
readouts = {
    "the network": lambda x: clip(own(torch.from_numpy(x))).numpy(),
    "its hard answers": lambda x: own(torch.from_numpy(x)).sign().numpy(),
    "a random readout": lambda x: np.tanh(np.maximum(x @ layers[0][0].T + layers[0][1], 0) @ direction),
}
x, y = np.concatenate([three, seven]), np.repeat([1.0, -1.0], [len(three), len(seven)])
live = {
    name: np.minimum(y * answer(x), found.lowest(answer, budget)).mean() for name, answer in readouts.items()
}
print(f"{len(found.within(budget).pairs)} collisions within {budget:g}: ceiling {found.ceiling(budget):.3f}")
print(", ".join(f"{name} {value:.3f}" for name, value in live.items()))

# %% [markdown]
# ## Checks

# %%
assert all(best == top <= half for best, top, half in exact)
print("exact models: the best of all readouts is at the ceiling, fewer conflicts raise it: ok")
for network in (network for shown in networks.values() for network in shown):
    _, tops = network.ceilings
    ordered = np.array([tops[layer] for layer in feature_bounds.LAYERS])
    assert (np.diff(ordered, axis=0) <= 0).all() and (np.diff(ordered, axis=1) <= 0).all()
    for layer, row in network.record.metrics["layers"].items():
        for readout in network.readouts(layer).values():
            sent, left, low = (readout[key] for key in ("collisions", "attacked", "certified"))
            assert (np.array(sent) <= np.array(row["ceiling"]) + 1e-6).all()
            assert all(p is None or p <= a + 1e-9 for p, a in zip(low, left, strict=True))
print("ceilings fall with depth and budget: ok")
print("under the collisions no readout is above the ceiling that these prove, to 1e-6: ok")
print("no certificate above an attacked value: ok")
for network in (network for shown in networks.values() for network in shown):
    for budget_shown in network.budgets:
        for one in ceiling_curves.hidden(network, budget_shown):
            row = network.record.metrics["layers"]["relu_2"]["ceiling"]
            assert one.collisions <= row[network.budgets.index(budget_shown)] + 1e-6
assert all(value <= found.ceiling(budget) + 1e-6 for value in live.values())
print("nor are readouts without a gradient, nor those of the last cell: ok")
