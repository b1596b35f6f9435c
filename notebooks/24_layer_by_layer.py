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
# # Layer by layer: the first layer and its ReLU cost the most, what follows little that can be proved
#
# No classifier behind a layer of a trained network does better than the bound of that layer, and no layer
# gives back what an earlier one lost. This notebook draws the bounds behind all layers of a fully connected
# network, trained benignly (Figures 3 and 8 of the paper on fixed feature extractors) and with PGD at 2
# (Figures 4 and 9), and says what each layer costs. It also shows what these bounds do not prove, how few
# pairs of images they need, and what the attack that the paper compares with would have found.

# %% tags=["parameters"]
profile = "quick"

# %%
import itertools
import time

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import collisions, extractors, figures, runs
from semirobust.experiments import bound_curves, extractor_networks, feature_bounds, other_images
from semirobust.statistics import wilson

figures.use_style()
places = bound_curves.places(profile)
TRAININGS = {"fcnn-benign": "benign", "fcnn-pgd-2": "PGD at 2"}
NAMES, LOSSES = feature_bounds.NAMES, bound_curves.LOSSES
LOSS = "cross_entropy_nats"
WIDTHS = {"relu_1": {"lw": 4, "alpha": 0.45}}  # so that the curves upon it are seen
WIDTHS |= {"linear_2": {"ls": (0, (3, 3))}, "relu_2": {"ls": (3, (3, 3))}}
NOTEBOOK = "24_layer_by_layer"

# %% [markdown]
# ## What is bounded
#
# $f$ is the network up to some layer, held fixed; the points are training images of two classes, 3 and 7 (in
# Fashion-MNIST dress and sneaker), all equally likely. Two images of different classes are in conflict at
# the $\ell_2$ budget $\varepsilon$ if both can be moved by at most $\varepsilon$ to the same features. Lemma
# 1 of the paper: a classifier on these features answers rightly on $u$ and $v$ with probabilities $q_u + q_v
# \le 1$ for every conflict, and every such $q$ is reached by some classifier. The least loss over these $q$
# is the bound: 0-1 loss (at most 1/2) or cross-entropy in nats (at most $\ln 2$).
#
# * A bound is a *lower* bound on the loss of *every* classifier on these features, on these points: training
#   images, as in the paper.
# * *Images* and *first linear layer* are closed forms, exact up to rounding: the difference of their curves
#   is what that layer costs.
# * Behind ReLUs the conflicts are those that a search found and proved. There may be more, so those curves
#   can only be too low.
# * How many images, and which budgets, is our choice; the text of the paper names neither, nor any number of
#   these figures.

# %% tags=["nbval-ignore-output"]
records, bounds = {}, {}
for where, dataset in places:
    plans = {name: feature_bounds.deep(where, dataset, name) for name in TRAININGS}
    for name, record in bound_curves.read(plans, where, profile=profile).items():
        records[where, dataset, name] = record
        bounds[where, dataset, name] = {layer: bound_curves.bound(record, layer) for layer in NAMES}
        first, second = record.metrics["n"]
        width = record.config["network"]["width"]
        print(f"{where}, {dataset}, {TRAININGS[name]}: width {width}, {first} + {second} images")
shown = [place for place in places if all((*place, name) in records for name in TRAININGS)]
print("not run: " + (", ".join(" ".join(place) for place in places if place not in shown) or "nothing"))


# %% tags=["nbval-ignore-output"]
def figure_layers(place):
    """Cross-entropy (Figures 3 and 4) above, 0-1 loss (Figures 8 and 9) below; a column for each training."""
    fig, axes = plt.subplots(2, 2, figsize=(8.6, 6.4), sharex=True, sharey="row")
    every = [bound for name in TRAININGS for bound in bounds[*place, name].values()]
    for (loss, name), axis in zip(itertools.product(LOSSES, TRAININGS), axes.flat, strict=True):
        for layer, bound in bounds[*place, name].items():
            style = figures.bounds.layer_style(layer) | WIDTHS.get(layer, {})
            figures.bounds.draw(axis, bound, loss, label=NAMES[layer], style=style)
        title = TRAININGS[name] + " training" if name == "fcnn-benign" else TRAININGS[name]
        figures.bounds.finish(axis, every, loss, title=title[0].upper() + title[1:])
        axis.label_outer()
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    title = f"The first layer and its ReLU cost the most ({bound_curves.scale(place[1], every[0])})"
    fig.suptitle(title, fontsize=10, fontweight="bold")
    return fig


for place in shown:
    fig, sources = figure_layers(place), [records[*place, name] for name in TRAININGS]
    name = f"24_layers_{place[1]}"
    figures.save_figure(fig, name, profile=place[0], sources=sources, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# ## What each step costs
#
# Two numbers for the step from one layer to the next. **Budget lost**: how much less the adversary needs to
# force a loss, on average over all losses from zero to guessing. It is the area between both curves over
# $\ln 2$, in pixels. **Rise**: the largest loss that is added at one budget, in nats, and in images that
# have to be got wrong (0-1 loss times images).
#
# *Other images*: the budget lost once more, from the next images of each class. What changes there is the
# choice of images.


# %% tags=["nbval-ignore-output"]
def costs(layers):
    """The budget that each layer loses against the one before."""
    steps = itertools.pairwise(layers.values())
    return {after.layer: bound_curves.budget_lost(after, before, LOSS) for before, after in steps}


again, rows = {}, []
for key, layers in bounds.items():
    read = other_images.run_config if key[0] == profile else other_images.stored
    if (other := read(feature_bounds.deep(*key), tuple(NAMES), key[0])) is not None:
        again[key] = {layer: bound_curves.bound(other, layer) for layer in NAMES}
    for before, after in itertools.pairwise(layers.values()):
        rise, hard = (bound_curves.gap(after, before, loss) for loss in LOSSES)
        row = {"data": key[1], "training": TRAININGS[key[2]], "step": NAMES[after.layer]}
        row |= {"lost": costs(layers)[after.layer], "rise": rise.above, "at": rise.above_at}
        row["again"] = costs(again[key])[after.layer] if key in again else None
        rows.append(row | {"images": round(hard.above * sum(after.points))})
columns = {"data": "data", "training": "training", "step": "step to", "lost": "budget lost"}
columns |= {"again": "other images", "rise": "largest rise (nats)", "at": "at budget", "images": "images"}
formats = {"lost": "z.3f", "again": "z.3f", "rise": "z.3f", "at": ".2f"}
display(Markdown(runs.markdown_table(rows, columns, formats)))


# %% tags=["nbval-ignore-output"]
def figure_costs(place):
    """The budget that each step gives away, for both trainings, from both sets of images."""
    fig, axis = plt.subplots(figsize=(7.2, 3.2))
    for name, colour, shift in zip(TRAININGS, ("clean", "robust"), (-0.18, 0.18), strict=True):
        own, heights = costs(bounds[*place, name]), np.arange(4) + shift
        axis.barh(heights, list(own.values()), 0.34, color=figures.COLORS[colour], label=TRAININGS[name])
        if (*place, name) in again:
            other = list(costs(again[*place, name]).values())
            label = "other images" if shift > 0 else None
            axis.plot(other, heights, "D", ms=5, mfc="white", mec="black", ls="", label=label, clip_on=False)
    axis.set_yticks(range(4), [NAMES[layer] for layer in own])
    axis.set(xlim=(0, None), ylim=(3.5, -0.5), xlabel=r"mean budget lost ($\ell_2$, pixels in [0, 1])")
    axis.legend(loc="lower right")
    axis.grid(visible=False, axis="y")
    step, size = NAMES[max(own, key=own.get)], bound_curves.scale(place[1], bounds[*place, name]["input"])
    fig.suptitle(f"The {step} gives away the most ({size})", fontsize=10, fontweight="bold")
    return fig


for place in shown:
    numbers = {name: costs(bounds[*place, name]) for name in TRAININGS}
    sources, name = [records[*place, name] for name in TRAININGS], f"24_costs_{place[1]}"
    fig = figure_costs(place)
    figures.save_figure(fig, name, profile=place[0], sources=sources, data=numbers, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# ## Other images, and more of them
#
# The same curves from the next images of each class, and the exact curve behind the first linear layer from
# all images (up to 5,000 a class). The curves need not move together, least of all that of the images with
# those behind the layers: compare networks and layers on the same images only. More images give a higher
# bound on average: take the $q$ that is optimal for all of them; on a random part it is still allowed, and
# its loss there is on average the bound of all. So the bound of a part is on average at most that.

# %% tags=["nbval-ignore-output"]
place = shown[0]
plans = {name: feature_bounds.linear(*place, name) for name in TRAININGS}
many = bound_curves.read(plans, place[0], profile=profile)
fig, axes = plt.subplots(1, 2, figsize=(8.6, 3.9), sharey=True)
for axis, name in zip(axes, TRAININGS, strict=True):
    own, other = bounds[*place, name], again[*place, name]
    for layer in ("input", "linear_1", "relu_2"):
        style = figures.bounds.layer_style(layer) | {"ls": "-"}
        figures.bounds.draw(axis, own[layer], LOSS, label=NAMES[layer], style=style)
        label = "other images" if layer == "input" else None
        figures.bounds.draw(axis, other[layer], LOSS, label=label, style=style | {"ls": "--", "lw": 1})
    every = bound_curves.bound(many[name], "linear_1")
    label = f"first linear layer, {every.points[0]} + {every.points[1]} images"
    figures.bounds.draw(axis, every, LOSS, label=label, style={"color": figures.COLORS["ours"], "ls": ":"})
    figures.bounds.finish(axis, [*own.values(), *other.values(), every], LOSS, title=TRAININGS[name])
    axis.label_outer()
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
title = f"The same bounds from other images ({bound_curves.scale(place[1], own['input'])})"
fig.suptitle(title, fontsize=10, fontweight="bold")
sources = [*(records[*place, name] for name in TRAININGS), *many.values()]
figures.save_figure(fig, "24_other_images", profile=place[0], sources=sources, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# ## Why the second linear layer adds so little
#
# Let $S$ be the units of the first ReLU that are open at $\tilde u$ or at $\tilde v$, and $L^{(2)}_S$ those
# columns of the second matrix. If they are linearly independent, $L^{(2)} h(\tilde u) = L^{(2)} h(\tilde v)$
# leaves only $h(\tilde u) = h(\tilde v)$: a collision behind the second linear layer was one behind the
# first ReLU. So a new one needs more open units than that matrix has rank (unless columns are dependent).
# How many are open?


# %% tags=["nbval-ignore-output"]
def network(name, depth):
    """The first layers of a trained network, the images of both classes, and the budgets."""
    config = feature_bounds.deep(profile, places[0][1], name)
    model, _ = extractor_networks.trained(config.network)
    shape = extractor_networks.images(config.network, "train").shape
    return extractors.as_layers(model, shape, depth=depth), *feature_bounds.points(config), config.budgets


openness = {}
for name, training in TRAININGS.items():
    layers, positive, negative, _ = network(name, 2)
    rank = np.linalg.matrix_rank(layers[1][0])
    first, second = (collisions.Network.of(layers).pre_activations(x)[0] > 0 for x in (positive, negative))
    either = (first[:, None] | second).sum(axis=2)  # [N+, N-]
    openness[name] = either.max(), rank
    print(
        f"{training}: {first.shape[1]} units, open on an image {first.sum(1).mean():.1f}, on either image of "
        f"a pair {either.mean():.1f} and at most {either.max()}; the second layer has rank {rank}"
    )

# %% [markdown]
# This explains, and does not prove: an adversary may open more units. But the paper's own reason, the
# "particular architecture" with a wide second layer, becomes a number. The ReLU has closed so many units
# that the next matrix has room for all that are left.
#
# ## Few pairs are enough
#
# The closed forms need no search. Behind a ReLU each pair is a search of its own, and only some are
# searched. **Why that is enough.** Take the conflicts found so far and the $q$ that is optimal for them. If
# $q_u + q_v \le 1$ on every pair, searched or not, then $q$ obeys all conflicts that there could be. More
# conflicts can only raise the least loss, and $q$ has the loss it had: it is optimal for all of them.
# $\square$ So a pair is searched only where $q_u + q_v > 1$ at some budget, until none is left.
#
# One guess remains. Among those pairs, the ones that look too distant to collide at that budget are skipped,
# by a fit to the pairs that were searched. Skipping cannot make a bound wrong, only too low. The audit
# searches random skipped pairs (they count as searched, too); *missed* are those that were conflicts and would
# have mattered. The last
# column is the upper end of a 95 % interval for the share missed.

# %% tags=["nbval-ignore-output"]
rows = []
for key, record in records.items():
    for layer in ("relu_1", "linear_2", "relu_2"):
        found = record.metrics["layers"][layer]
        audit = found["audit"]
        row = {"data": key[1], "training": TRAININGS[key[2]], "layer": NAMES[layer], "pairs": found["pairs"]}
        row |= {"searched": found["searched"], "share": 100 * found["searched"] / found["pairs"]}
        row |= {"skipped": audit["excluded"], "audited": audit["searched"], "missed": audit["missed"]}
        if audit["searched"]:
            row["limit"] = 100 * wilson(audit["missed"], audit["searched"])[1]
        rows.append(row)
columns = dict(zip(rows[0], rows[0], strict=True))
columns |= {"share": "searched (%)", "limit": "missed, at most (%)"}
display(Markdown(runs.markdown_table(rows, columns, {"share": ".1f", "limit": ".1f"})))

# %% [markdown]
# The same live: the first 12 + 12 images behind the first ReLU, where all pairs can be searched. Both ways
# give the same bound.


# %% tags=["nbval-ignore-output"]
def both_ways(name, count):
    """The search of all pairs and that of few, from the first images of each class, behind the first ReLU."""
    layers, positive, negative, budgets = network(name, 1)
    whole, few = (
        collisions.search(layers, positive[:count], negative[:count], budgets, every=every, audited=0)
        for every in (True, False)
    )
    difference = np.abs(few.curve.cross_entropy_nats - whole.curve.cross_entropy_nats).max()
    print(
        f"{TRAININGS[name]}, {count} + {count} images: {few.searched.sum()} of {few.searched.size} pairs "
        f"searched, largest difference of the two bounds {difference:.0e} nats"
    )
    return whole, few


demonstration = both_ways("fcnn-pgd-2", 12)

# %% [markdown]
# ## The attack that the paper compares with
#
# "We also experimented with a modification of the Auto-PGD algorithm to find collisions at deeper layers
# with fixed budgets ... this was less effective and more expensive" (section 4.1). Here is one: Auto-PGD on
# the distance of the features, from the linear collision, at budgets that are bisected for each pair. It
# ends near a collision, and near proves nothing. So Newton steps move its best point onto an exact one,
# which the paper does not mention; without them the attack is the last line. Budgets that a method does not
# improve are those of the linear collision. For each of the first 12 images of one class, its nearest image
# of the other:

# %% tags=["nbval-ignore-output"]
METHODS = {"search": {}, "Auto-PGD and Newton": {"method": "apgd"}}
METHODS |= {"Auto-PGD alone": {"method": "apgd", "newton": 0}}
attacked = {}
for depth, layer in ((1, "first ReLU"), (2, "second ReLU")):
    layers, positive, negative, _ = network("fcnn-benign", depth)
    distance = collisions.linear_distances(layers[0][0], positive[:12], negative)
    u, v = positive[:12], negative[distance.argmin(axis=1)]
    for name, options in METHODS.items():
        begun = time.process_time()
        found = collisions.find_collisions(layers, u, v, **options)
        spent = 1e3 * (time.process_time() - begun) / len(u)
        attacked[layer, name] = found.epsilon
        print(
            f"{layer}, {name}: {spent:.0f} ms a pair, mean budget {found.epsilon.mean():.3f} (linear "
            f"{distance.min(axis=1).mean():.3f}); conflicts at 1.75, 2, 2.25: "
            + ", ".join(f"{(found.epsilon <= b).sum()}" for b in (1.75, 2, 2.25))
        )

# %% [markdown]
# ## The statements of the paper
#
# In the order of its section 4.2, with the budget lost by benign training and by PGD at 2. The paper judges
# by "how much larger the corresponding lower bounds are", so its comparison of both networks is judged by
# the largest rise, too. *Noise* is how much a budget lost changes with other images, the larger of both
# trainings, where that was run. The cost of the first linear layer is exact. That of the first ReLU is at
# least what is shown. Behind it both curves are lower bounds: their difference is what the search sees of a
# layer. The last line is our question.


# %% tags=["nbval-ignore-output"]
def lost(made, place):
    """step -> the budget lost in it, in pixels: [benign, PGD]."""
    found = [costs(made[*place, name]) for name in TRAININGS]
    return {step: np.array([one[step] for one in found]) for step in found[0]}


def statements(place, noise):
    """(statement, its parts, numbers) for one data set."""
    steps = lost(bounds, place)
    first, relu_1, linear_2, relu_2 = steps.values()
    text = {step: f"{pair[0]:z.3f} and {pair[1]:z.3f} px" for step, pair in steps.items()}
    text |= {step: f"{text[step]}, noise {value:.3f}" for step, value in noise.items()}
    pairs = [[bounds[*place, name][layer] for layer in ("relu_2", "linear_2")] for name in TRAININGS]
    rises = [bound_curves.gap(*pair, LOSS).above for pair in pairs]
    leads = [bound_curves.gap(*(bounds[*place, n][layer] for n in TRAININGS), LOSS) for layer in steps]
    worst, best = min(lead.below for lead in leads), max(lead.above for lead in leads)
    yield "the first ReLU contributes significantly", relu_1 > noise.get("relu_1", 0), text["relu_1"]
    yield "the second linear layer adds little", linear_2 < relu_1 / 10, text["linear_2"]
    yield "the second ReLU has a measurable impact", relu_2 > noise.get("relu_2", 0), text["relu_2"]
    more = f"{text['relu_2']}; largest rise {rises[0]:.3f} and {rises[1]:.3f} nats"
    yield "and more so for the benign network", [relu_2[0] > relu_2[1], rises[0] > rises[1]], more
    both = f"benign bound minus PGD bound from {worst:z.3f} to {best:.3f} nats"
    yield "layers trained with PGD are more robust, at every budget", [worst >= -1e-9], both
    yield "(ours) the first ReLU costs more than the first layer", relu_1 > first, text["linear_1"]


# %% tags=["nbval-ignore-output"]
for place in shown:
    noise, measured = {}, all((*place, name) in again for name in TRAININGS)
    if measured:
        own, other = (lost(made, place) for made in (bounds, again))
        noise = {step: np.abs(own[step] - other[step]).max() for step in own}
    print(*place)
    for statement, parts, numbers in statements(place, noise):
        verdict = "true" if np.all(parts) else "mixed" if np.any(parts) else "false"
        print(f"  {verdict:5s} {statement}: {numbers}")

# %% [markdown]
# ## What to believe
#
# * The first matrix loses the most: exact for these images, for benign training and for PGD.
# * Its ReLU comes next, and contributes significantly, as the paper says: more than all that follows. What a
#   ReLU has closed, the next matrix need not remove: the second linear layer costs nothing that is seen.
# * The second ReLU has a measurable impact on MNIST and Fashion-MNIST, and hardly any on digits. It is larger
#   for benign training, as the paper says, on Fashion-MNIST; on MNIST that depends on how it is measured.
# * That later layers cost little is what the search sees. A lower bound that hardly rises does not prove
#   that the loss hardly rises. A better search can only raise the curves behind ReLUs; Auto-PGD is not one.
# * A bound holds for every classifier behind its layer, so for the rest of this network too. It says nothing
#   about other images.
#
# ## Change one number and run again
#
# The first 8 images of each class, behind the first ReLU of the benign network:

# %% tags=["nbval-ignore-output"]
count = 8
others = both_ways("fcnn-benign", count)

# %% [markdown]
# ## Checks

# %%
for layers in bounds.values():
    for loss in LOSSES:
        for bound in layers.values():
            assert (np.diff(bound.loss(loss)) >= -1e-9).all() and bound.loss(loss)[-1] <= bound.guessing(
                loss
            ) + 1e-9
        for before, after in itertools.pairwise(layers.values()):
            assert (after.loss(loss) >= before.loss(loss) - 1e-9).all()
print("no curve falls with the budget, or from one layer to the next, to 1e-9: ok")
assert all(layers["input"].loss(LOSS)[-1] > 0.99 * np.log(2) for layers in bounds.values())
print("every curve reaches guessing, so budgets lost are whole areas: ok")
for whole, few in (demonstration, others):
    assert whole.searched.all() and not few.searched.all()
    assert np.abs(few.curve.zero_one - whole.curve.zero_one).max() < 1e-9
    assert np.abs(few.curve.cross_entropy_nats - whole.curve.cross_entropy_nats).max() < 1e-9
print("few pairs give the bound of all pairs, to 1e-9 nats: ok")
for layer in ("first ReLU", "second ReLU"):
    search, newton, alone = (attacked[layer, name] for name in METHODS)
    assert search.mean() < newton.mean() < alone.mean()
print("the search finds cheaper collisions on average than Auto-PGD, with Newton steps and without: ok")
