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
# # A convolution costs nothing while it forgets nothing; pools and narrow ReLUs cost, a shortcut does not
#
# Figure 11 of the paper on fixed feature extractors shows that the first convolution of a network, taken as a
# linear layer, leaves the bound of the images as it is. This notebook computes that figure exactly, shows
# that the rank of the layer decides and not the number of its features, and goes on where the paper stops:
# which layer of a small network is the first to cost something, and what a max-pool and a residual
# connection do.

# %% tags=["parameters"]
profile = "quick"

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import collisions, conflict, extractors, figures, runs
from semirobust.experiments import bound_curves, extractor_networks, feature_bounds, small_convolutions

figures.use_style()
places = bound_curves.places(profile)
CE, ZERO_ONE = bound_curves.LOSSES

# %% [markdown]
# ## The statement
#
# A convolution is a matrix with many equal entries (Section 3.3), so
# $\varepsilon_f^*(u,v)=\frac12\|V^T(u-v)\|$ with the right singular vectors $V$ of that matrix, as for any
# linear layer. The paper finds "that since the effective dimension of the resulting features is much larger
# than the input dimension for the datasets we consider, the linear convolutional layer does not lead to an
# increase in the lower bound". The bounds below are lower bounds on the loss of every classifier behind the
# layer, on training images (3 against 7, or dress against sneaker, up to 5,000 of each class), exact up to
# rounding: all pairs, closed form. The text of the paper gives no numbers for this figure.

# %% tags=["nbval-ignore-output"]
SHOWN = ("cnn-benign", "cnn-pgd-2", "cnn-trades-2", "fcnn-benign", "fcnn-pgd-2")
records, bounds = {}, {}  # (profile, data set) -> name -> record or bound
for where, dataset in places:
    configs = {name: feature_bounds.linear(where, dataset, name) for name in SHOWN}
    configs["images"] = feature_bounds.linear(where, dataset, "fcnn-benign", layer="input")
    read = bound_curves.read(configs, where, profile=profile)
    if set(configs) <= set(read):
        records[where, dataset] = read
        bounds[where, dataset] = {
            name: bound_curves.bound(record, "input" if name == "images" else "linear_1")
            for name, record in read.items()
        }
for (where, dataset), found in bounds.items():
    n = found["images"].points
    print(f"{where}, {bound_curves.DATASETS[dataset]}, {n[0]:,} and {n[1]:,} images")
    for name in SHOWN:
        sizes = [bound_curves.gap(found[name], found["images"], loss).above for loss in (CE, ZERO_ONE)]
        print(f"  {name:13s} above the images by at most {sizes[0]:.6f} nats, 0-1 loss {sizes[1]:.6f}")
print("not stored: " + (", ".join(f"{a} {b}" for a, b in places if (a, b) not in bounds) or "nothing"))

# %% tags=["nbval-ignore-output"]
for place, found in bounds.items():
    fig, axis = plt.subplots(figsize=(6.4, 3.6))
    for name in ("images", "fcnn-benign", "fcnn-pgd-2"):
        training = name.removeprefix("fcnn-")
        label = name if name == "images" else f"fully connected, {bound_curves.training_name(training)}"
        figures.bounds.draw(axis, found[name], CE, label=label, style=figures.bounds.training_style(training))
    for name, marker, size in zip(SHOWN[:3], "ox.", (9, 6, 5), strict=True):
        training = name.removeprefix("cnn-")
        style = {"ls": "", "marker": marker, "ms": size, "mfc": "none", "zorder": 3}
        style["color"] = figures.bounds.training_style(training)["color"]
        label = f"convolution, {bound_curves.training_name(training)}"
        figures.bounds.draw(axis, found[name], CE, label=label, style=style)
    title = f"The convolutions lie on the images: {bound_curves.DATASETS[place[1]]}"
    figures.bounds.finish(axis, found.values(), CE, title=title)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    sources, name = list(records[place].values()), f"27_convolution_{place[1]}"
    figures.save_figure(fig, name, profile=place[0], sources=sources, notebook="27_convolution")
plt.show()

# %% [markdown]
# ## Why: rank, not the number of features
#
# The claim is true. The reason needs a word: the layer has more numbers than there are pixels, but it has at
# most as many *independent* ones, and what counts is that it has all of them. Then it is injective, and every
# distance is that of the images. More numbers alone do nothing: the same filter many times over has as many
# features and the rank of one.
#
# Injective is all that a collision can see. A small singular value means that two inputs are told apart by
# little, which a bound for every classifier does not charge for.

# %% tags=["nbval-ignore-output"]
where, dataset = places[0]
config = extractor_networks.NETWORKS[where][f"{dataset}-cnn-benign"]
model, _ = extractor_networks.trained(config)
shape = extractor_networks.images(config, "train").shape
operator = extractors.as_layers(model, shape, depth=1)[0][0]
matrix = operator @ np.eye(operator.shape[1])  # [filters 24 24, 784]
width, size = config.width, len(matrix) // config.width  # filters, rows of one
fully, _ = extractor_networks.trained(extractor_networks.NETWORKS[where][f"{dataset}-fcnn-benign"])
layers = {f"{k} filter" + "s" * (k > 1): matrix[: k * size] for k in (1, 2, 3, width)}
layers[f"one filter {width} times"] = np.tile(matrix[:size], (width, 1))
layers["fully connected"] = extractors.as_layers(fully, shape, depth=1)[0][0]
rows = []
for name, layer in layers.items():
    values = np.linalg.svd(layer, compute_uv=False)
    rank = int((values > 1e-9 * values[0]).sum())
    rows.append({"name": name, "numbers": len(layer), "rank": rank, "ratio": values[rank - 1] / values[0]})
columns = {
    "name": "layer",
    "numbers": "features",
    "rank": "rank",
    "ratio": "smallest / largest singular value",
}
display(Markdown(runs.markdown_table(rows, columns, {"numbers": ",", "ratio": ".1e"})))

# %% [markdown]
# ## What a lower rank costs
#
# The same trained filters, fewer of them. Behind one filter, 576 numbers are left of 784, and the bound
# rises; six copies of it are no better. Two filters keep 752, enough for these images.

# %% tags=["nbval-ignore-output"]
points = feature_bounds.points(feature_bounds.linear(where, dataset, "cnn-benign"))
few = [side[:500] for side in points]
grid = feature_bounds.budgets(dataset)
curves = {
    name: conflict.curve(collisions.linear_distances(layer, *few), grid) for name, layer in layers.items()
}
ranks = {row["name"]: row["rank"] for row in rows}
fig, axis = plt.subplots(figsize=(6.4, 3.6))
looks = dict(zip(layers, ("attacked", "control", "other", "robust", "printed", "clean"), strict=True))
WIDTHS = {"2 filters": 6, "3 filters": 3.5, f"one filter {width} times": 3}
for name, curve in curves.items():
    line = {"ls": ":" if "times" in name else "-", "lw": WIDTHS.get(name, 1.6)}
    label = f"{name} (rank {ranks[name]})"
    axis.plot(grid, curve.cross_entropy_nats, color=figures.COLORS[looks[name]], label=label, **line)
axis.set(xlim=(1, 4.5) if dataset == "digits" else (1.5, 5.5), ylim=(0, None), xlabel=figures.bounds.BUDGET)
axis.set(ylabel=bound_curves.LOSSES[CE], title="A low rank costs, and copies of a filter do not raise it")
axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
numbers = {"budgets": list(grid), "ranks": ranks}
numbers["cross_entropy_nats"] = {name: list(curve.cross_entropy_nats) for name, curve in curves.items()}
figures.save_figure(fig, "27_rank", profile=profile, data=numbers, notebook="27_convolution")
plt.show()

# %% [markdown]
# ## Beyond the paper: where is the first loss?
#
# The paper leaves max-pools to future work; its framework, it says, can handle skip connections, but it
# computes none. Both fit the same search for collisions,
# because $\max(a,b)=(a-b)^++b$ and a shortcut is a set of units that carry a value on: a network with them is
# compiled into a chain of matrices and ReLUs that computes the same.
#
# Four networks for digits 3 against 7 of 8 x 8 pixels, trained on clean images. Two have a convolution of 144
# numbers with BatchNorm and ReLU, then a 2 x 2 max-pool or average pool (36 numbers). Two have a convolution
# of 96 numbers with BatchNorm and ReLU, then a block conv-BN-ReLU-conv-BN with or without a shortcut, and a
# ReLU. Behind ReLUs every collision is proved, but not the cheapest: the bound can be too low, never too
# high.
# *rank*: directions of 64 that change the features near an image (median). *missed*: of the pairs thought
# hopeless, those searched as an audit, and how many of them would have mattered.

# %% tags=["nbval-ignore-output"]
NAMES = {"input": "images", "bn": "convolution, BN", "relu": "ReLU", "pool": "pool", "out": "block and ReLU"}
SEEDS = {"max_pool": (0,), "average_pool": (0,), "residual": (0, 1, 2), "plain": (0, 1, 2)}
small, kept = {}, {}
rows = []
for network, seeds in SEEDS.items():
    for seed in seeds:
        config = small_convolutions.config(network, seed=seed)
        record = kept[network, seed] = small_convolutions.run_config(config, profile)
        small[network, seed] = {layer: bound_curves.bound(record, layer) for layer in config.layers}
    for layer, bound in small[network, 0].items():
        found = kept[network, 0].metrics["layers"][layer]
        row = {"network": network, "layer": NAMES[layer], "rank": found["rank"]}
        row |= {"forced": bound_curves.crossing(bound, 0.25, CE), "searched": found["searched"]}
        rows.append(row | {"missed": f"{found['audit']['missed']} of {found['audit']['searched']}"})
columns = {"network": "network", "layer": "behind", "rank": "rank", "forced": "0.25 nats forced at"}
columns |= {"searched": "pairs searched", "missed": "missed"}
n = kept["max_pool", 0].metrics["n"]
print(f"{n[0]} and {n[1]} images, {n[0] * n[1]} pairs")
display(Markdown(runs.markdown_table(rows, columns, {"rank": ".0f", "forced": ".2f"})))


# %%
def draw_network(axis, network, title):
    """The bounds behind each layer of one network."""
    looks = {name: figures.bounds.layer_style(kind) for name, kind in LAYER_KINDS.items()}
    for layer, bound in small[network, 0].items():
        style = looks[layer] | {"lw": {"input": 5, "bn": 3}.get(layer, 1.6)}
        style["alpha"] = 0.5 if layer == "input" else 1
        figures.bounds.draw(axis, bound, CE, label=NAMES[layer], style=style)
    figures.bounds.finish(axis, small[network, 0].values(), CE, title=title, note=network == "max_pool")
    axis.set(xlim=(0.6, 1.7), xlabel="", ylabel="")


LAYER_KINDS = {"input": "input", "bn": "linear_1", "relu": "relu_1", "pool": "linear_2", "out": "relu_2"}
TITLES = {
    "max_pool": "Max-pool: the first loss",
    "average_pool": "Average pool: the first loss too",
    "residual": "ReLU costs, the residual block hardly",
    "plain": "Without its shortcut the block costs",
}

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(2, 2, figsize=(8.2, 6.0), sharex=True, sharey=True)
for axis, (network, title) in zip(axes.flat, TITLES.items(), strict=True):
    draw_network(axis, network, title)
    axis.legend(loc="upper left", bbox_to_anchor=(0, 0.9))
fig.supxlabel(figures.bounds.BUDGET, fontsize=9)
fig.supylabel(bound_curves.LOSSES[CE], fontsize=9)
sources = [kept[network, 0] for network in TITLES]
figures.save_figure(fig, "27_first_loss", profile=profile, sources=sources, notebook="27_convolution")
plt.show()

# %% [markdown]
# ## What a shortcut keeps
#
# The block with and without its shortcut, three seeds each. How much smaller does the budget become that
# forces a loss, on average over all losses?

# %% tags=["nbval-ignore-output"]
lost = {}
for network in ("residual", "plain"):
    for seed in SEEDS[network]:
        found = small[network, seed]
        steps = (("relu", "bn"), ("out", "relu"))
        lost[network, seed] = [bound_curves.budget_lost(found[a], found[b], CE) for a, b in steps]
    values = ", ".join("{:.3f} + {:.3f}".format(*lost[network, seed]) for seed in SEEDS[network])
    print(f"{network:8s} budget lost by the first ReLU + by the block: {values}")

# %% [markdown]
# ## A collision of the max-pool, drawn
#
# $\tilde u$ and $\tilde v$ have the same pooled features, checked with the network itself.

# %% tags=["nbval-ignore-output"]
model, _ = small_convolutions.trained(small_convolutions.config("max_pool").network)
pooled = small_convolutions.chain(model, "pool")
threes, sevens = small_convolutions.points(small_convolutions.config("max_pool"))
i, j = np.unravel_index(np.linalg.norm(threes[:, None] - sevens, axis=2).argmin(), (len(threes), len(sevens)))
found = collisions.find_collisions(pooled.layers, threes[[i]], sevens[[j]], rectified=pooled.rectified)
residual = small_convolutions.difference(model, "pool", found.u, found.v)
fig, axes = plt.subplots(1, 4, figsize=(6.4, 2.1))
shown = {"$u$": threes[i], r"$\tilde u$": found.u[0], r"$\tilde v$": found.v[0], "$v$": sevens[j]}
for axis, (text, image) in zip(axes, shown.items(), strict=True):
    axis.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_title(text, loc="center", fontsize=11)
    axis.spines[:].set_visible(False)
    axis.grid(visible=False)
half = np.linalg.norm(threes[i] - sevens[j]) / 2
fig.suptitle(
    f"Alike behind the max-pool at budget {found.epsilon[0]:.2f}, as images at {half:.2f}", weight="bold"
)
shown = {"epsilon": found.epsilon[0], "half": half}
figures.save_figure(fig, "27_max_pool_pair", profile=profile, data=shown, notebook="27_convolution")
plt.show()
print(f"budget {found.epsilon[0]:.4f}; features of the network differ by at most {residual:.1e}")

# %% [markdown]
# ## What to believe
#
# * Figure 11 is right, and exactly so: the trained first convolutions are injective, and their bound is that
#   of the images to the last digit, however they were trained. The first layer of the fully connected
#   network has fewer units than there are pixels, and costs robustness at once.
# * The number of features is not the reason. Copies of one filter have as many and cost what one filter
#   costs.
# * In the small networks the first loss comes where far fewer than 64 directions are left: behind the pool
#   in one pair, behind the first ReLU in the other. Max-pool and average pool both cost; a shortcut hands the
#   block's input on, and the block adds little where without it each seed loses more. These are small
#   networks on a few images: they show what can happen, not how much it is elsewhere.
#
# ## Change one number and run again
#
# How many filters does the convolution need?

# %% tags=["nbval-ignore-output"]
filters = 2
half = collisions.linear_distances(np.eye(matrix.shape[1]), *few)
ratio = collisions.linear_distances(matrix[: filters * size], *few) / half
print(
    f"{filters} filters: distances are {np.median(ratio):.4f} of those of the images (median), least {ratio.min():.4f}"
)

# %% [markdown]
# ## Checks

# %%
for found in bounds.values():
    for loss in (CE, ZERO_ONE):
        assert all(abs(bound_curves.gap(found[n], found["images"], loss).above) < 1e-6 for n in SHOWN[:3])
        assert all(bound_curves.gap(found[n], found["images"], loss).above > 0.1 for n in SHOWN[3:])
print("convolutions cost nothing, to 1e-6; fully connected layers cost more than 0.1: ok")
assert ranks["1 filter"] == size and ranks[f"{width} filters"] == matrix.shape[1]
one, copies = curves["1 filter"], curves[f"one filter {width} times"]
assert np.abs(one.cross_entropy_nats - copies.cross_entropy_nats).max() < 1e-6
print("one filter has the rank of its numbers, all filters that of the pixels, copies add nothing: ok")
for found in small.values():
    for loss in (CE, ZERO_ONE):
        assert abs(bound_curves.gap(found["bn"], found["input"], loss).above) < 1e-9
        layers = list(found.values())
        assert all(bound_curves.gap(b, a, loss).below > -1e-9 for a, b in itertools.pairwise(layers))
print("a layer never lowers a bound, and the small convolutions keep that of the images: ok")
assert all(lost["residual", seed][1] < lost["plain", seed][1] for seed in SEEDS["plain"])
print("the block costs more without its shortcut, in each seed: ok")
assert residual < 1e-9
print("the collision of the max-pool is one of the network, to 1e-9: ok")
