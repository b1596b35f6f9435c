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
# # Linear collisions: what the first layer forgets costs robustness
#
# A linear layer cannot see perturbations along its kernel, so two images can be made equal to it more cheaply
# than they can be made equal. This notebook computes the least budget, the induced distance of Definition 2,
# in closed form: first for examples that a reader can check by hand, then for all pairs of digits 3 against
# 7 behind the first layer of trained networks. The message: from these distances alone follows a loss that
# no network with that first layer can beat, and how it compares with the loss that the images themselves
# allow.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from semirobust import collisions, extractors, figures, paths
from semirobust.experiments import extractor_networks
from semirobust.extractors import as_layers

figures.use_style()
paths.check_profile(profile)
networks = extractor_networks.NETWORKS[profile]
dataset = {"quick": "digits"}.get(profile, "mnist")

# %% [markdown]
# ## The statement
#
# **Definition 2 (eq. 2).** $\varepsilon_f^*(u,v) = \inf\{\max(d(u,\tilde u), d(v,\tilde v)) : f(\tilde u) =
# f(\tilde v)\}$: the smallest budget at which $u$ and $v$ are in conflict.
#
# **Section 3.1.** For $f(x) = Lx + k$, $L = U\Sigma V^T$ without zero singular values, and the $\ell_2$ norm:
# $$\varepsilon_f^*(u,v) = \tfrac12\|V^T(u-v)\|_2,\qquad \delta = \tfrac12VV^T(v-u) = -\delta'.$$
#
# *Proof.* From any feasible $(\delta,\delta')$, the pair $(\pm\frac12(\delta-\delta'))$ is feasible and no
# longer. So minimise $\|\delta\|$ subject to $L\delta = \frac12L(v-u)$. $U\Sigma$ is injective, so this says
# $V^T\delta = \frac12V^T(v-u)$, and the shortest solution lies in the row space. $\square$ The bias plays no
# part. Four layers by hand: one row; a coordinate dropped; rank one with two rows; nothing dropped.

# %%
EXAMPLES = {
    "L = (1, 1)": ([[1, 1]], (0, 0), (2, 0), 0.5**0.5),
    "L = [I_2 | 0]": ([[1, 0, 0], [0, 1, 0]], (3, 4, 7), (0, 0, 0), 2.5),
    "L = (1 2; 2 4)": ([[1, 2], [2, 4]], (1, 1), (0, 0), 1.5 / 5**0.5),
    "L = I_2": ([[1, 0], [0, 1]], (1, 4), (9, -5), 145**0.5 / 2),
}
by_hand = {}
for name, (weight, u, v, expected) in EXAMPLES.items():
    found = collisions.linear_collision(np.array(weight, float), np.array([u], float), np.array([v], float))
    by_hand[name] = (found.epsilon[0], expected)
    plain = np.linalg.norm(np.subtract(u, v)) / 2
    print(
        f"{name:15s} epsilon = {found.epsilon[0]:.6f} (by hand {expected:.6f}); without a layer {plain:.6f}"
    )

# %% [markdown]
# ## One picture
#
# $L=(1,1)$, $u=(0,0)$, $v=(2,0)$. All points of one fibre $f^{-1}(z)$ look the same. The cheapest collision
# lies on the fibre of the midpoint: both points take the shortest way to it, and neither has to reach the
# midpoint itself.

# %%
found = collisions.linear_collision(np.array([[1.0, 1.0]]), np.zeros((1, 2)), np.array([[2.0, 0.0]]))
fig, axis = plt.subplots(figsize=(6.8, 3.1))
for z in np.arange(-2, 4.5, 0.5):
    axis.plot([z - 3, z + 3], [3, -3], "-", color="0.85", lw=0.8, zorder=0)
axis.plot([-2, 4], [3, -3], "-", color=figures.COLORS["attacked"], label="fibre of the midpoint")
starts, ends = ((0, 0), (2, 0)), (found.u[0], found.v[0])
for start, end, colour, name in zip(starts, ends, ("ours", "other"), "uv", strict=True):
    axis.add_patch(plt.Circle(start, found.epsilon[0], color=figures.COLORS[colour], alpha=0.15, lw=0))
    arrow = {"arrowstyle": "->", "color": figures.COLORS[colour], "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=arrow)
    axis.plot(*start, "o", color=figures.COLORS[colour])
    side = -1 if name == "u" else 1
    axis.annotate(f"${name}$", start, (13 * side, -4), textcoords="offset points", ha="center")
    axis.annotate(
        rf"$\tilde {name}$", end, (-12 * side, -4 - 4 * side), textcoords="offset points", ha="center"
    )
axis.plot(1, 0, "x", color=figures.COLORS["printed"], label="midpoint")
axis.plot([], [], "-", color="0.85", label="other fibres, along\nthe kernel of $L$")
axis.set(xlim=(-1.1, 3.1), ylim=(-1.25, 1.25), aspect="equal", xlabel="$x_0$", ylabel="$x_1$")
axis.grid(visible=False)
axis.legend(loc="center left", bbox_to_anchor=(1.02, 0.5))
axis.set_title(f"Meeting on a fibre costs {found.epsilon[0]:.4f}, meeting in a point 1")
shown = {"epsilon": found.epsilon[0]}
figures.save_figure(fig, "21_fibre", profile=profile, data=shown, notebook="21_linear_collisions")
plt.show()

# %% [markdown]
# ## A repair: "the infimum is achieved" needs a bounded ball
#
# The paper lets $\mathcal B$ be any nonempty, closed, convex, symmetric set, and says that
# $\{(\varepsilon,\delta):\delta\in\varepsilon\mathcal B\}$ is a closed cone. It is not closed at
# $\varepsilon=0$ when $\mathcal B$ is unbounded. Take the slab $\mathcal B=\{|\delta_1|\le1\}$, $L=(0,1)$,
# $u=0$, $v=(0,1)$: $\delta=(0,\frac12)$ is allowed at every $\varepsilon>0$, but $0\cdot\mathcal B=\{0\}$.
# With an empty interior, such as the segment $\delta_2=0$, no budget is enough. For a bounded ball with
# nonempty interior, such as every $\ell_p$ ball, the statement is true.


# %%
def allowed(delta, epsilon, body):
    """delta in epsilon B, by the definition of the scaled set."""
    return body(delta / epsilon) if epsilon > 0 else not delta.any()


slab, segment = (lambda d: abs(d[0]) <= 1), (lambda d: abs(d[0]) <= 1 and d[1] == 0)
needed = np.array(
    [0.0, 0.5]
)  # L delta = L (v - u) / 2 asks for delta_2 = 1/2; delta_1 = 0 is the best choice
feasible = {e: (allowed(needed, e, slab), allowed(needed, e, segment)) for e in (1, 1e-3, 1e-9, 0, 1e9)}
for epsilon, (in_slab, in_segment) in feasible.items():
    print(f"budget {epsilon:>7g}: collision within the slab {in_slab!s:5}, within the segment {in_segment}")

# %% [markdown]
# ## Not a metric (Appendix B)
#
# Let $f(x)=\arctan(x_1/x_0)$, the angle of the line through $x$. Moving along a line is free, and near the
# origin all angles are close by. So the detour $u\to\alpha u\to\alpha v\to v$ costs $0+\alpha\,
# \varepsilon_f^*(u,v)+0$: the triangle inequality fails by any factor. For equal norms $r$ and an angle
# $\theta\le\frac\pi2$ between them, $\varepsilon_f^*=r\sin(\theta/2)$; below it is found by trying all lines.


# %%
LINES = np.linspace(0, np.pi, 72_001)  # contains 45, 30 and 15 degrees
NORMALS = np.stack([-np.sin(LINES), np.cos(LINES)])


def by_angle(u, v):
    """Least budget to bring both onto one line through the origin."""
    return np.maximum(abs(np.asarray(u) @ NORMALS), abs(np.asarray(v) @ NORMALS)).min()


u, v = np.array([1.0, 0.0]), np.array([0.0, 1.0])
direct = by_angle(u, v)
alphas = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 1])
detours = np.array([by_angle(u, a * u) + by_angle(a * u, a * v) + by_angle(a * v, v) for a in alphas])
print(f"direct {direct:.6f}; detour at 1/100 {detours[0]:.6f}")
sines = {}
for theta in (90, 60, 30):
    turned = np.array([np.cos(np.radians(theta)), np.sin(np.radians(theta))])
    sines[theta] = (by_angle(u, turned), np.sin(np.radians(theta / 2)))
    print(f"{theta} degrees: {sines[theta][0]:.6f}, sin(theta/2) = {sines[theta][1]:.6f}")

# %%
fig, (plane, axis) = plt.subplots(1, 2, figsize=(7.8, 3.3), width_ratios=(1, 1.35))
plane.plot([0, 1.1], [0, 1.1], color=figures.COLORS["attacked"], label="one common angle")
for start, name, colour in ((u, "u", "ours"), (v, "v", "other")):
    for scale in (1, 0.25):
        way = np.stack([scale * start, np.full(2, scale / 2)])
        plane.plot(*way.T, "-o", markevery=[0], color=figures.COLORS[colour])
        text, shift = (
            (f"${name}$" if scale == 1 else f"$\\alpha {name}$"),
            (9, 9) if name == "v" else (0, -15),
        )
        plane.annotate(text, scale * start, shift, textcoords="offset points", ha="center")
    plane.plot(*np.stack([0.25 * start, start]).T, ":", color=figures.COLORS["printed"])
plane.set(xlim=(-0.12, 1.3), ylim=(-0.22, 1.5), aspect="equal", xlabel="$x_0$", ylabel="$x_1$")
plane.set(xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], title="Dotted moves are free")
plane.legend(loc="upper right")
axis.plot(
    alphas, detours, "o-", color=figures.COLORS["attacked"], label=r"detour by $\alpha u$ and $\alpha v$"
)
axis.axhline(direct, color=figures.COLORS["ours"], ls="--", label=r"direct, $\varepsilon_f^*(u, v)$")
axis.set(xlabel=r"$\alpha$", ylabel="budget", xlim=(0, 1.03), ylim=(0, 0.8))
axis.legend(loc="lower right")
axis.set_title("The detour is cheaper: no metric")
numbers = {"alpha": list(alphas), "detour": list(detours), "direct": direct}
figures.save_figure(fig, "21_no_metric", profile=profile, data=numbers, notebook="21_linear_collisions")
plt.show()

# %% [markdown]
# ## Trained networks: all pairs at once
#
# The fully connected network of the paper (on digits 3/10 as wide), for 3 against 7 at 28 x 28, trained on
# clean images, with PGD and with TRADES at an $\ell_2$ budget of 2. Its first layer keeps as many of the 784
# directions as it has rows. The points are projected onto its row space once; then all distances are one
# matrix product. "Images" is the layer $L=I$. The networks are trained on first use and stored.

# %% tags=["nbval-ignore-output"]
TRAINED = {"benign": "fcnn-benign", "PGD at 2": "fcnn-pgd-2", "TRADES at 2": "fcnn-trades-2"}
LOOKS = {
    "images": figures.bounds.training_style("images"),
    **{name: figures.bounds.training_style(key.removeprefix("fcnn-")) for name, key in TRAINED.items()},
}
config = networks[f"{dataset}-fcnn-benign"]
sets = [extractor_networks.images(config, split) for split in ("train", "test")]
pixels = torch.cat([part.images for part in sets]).double().flatten(1).numpy()  # [N, 784]
labels = torch.cat([part.labels for part in sets]).numpy()
threes, sevens = (pixels[labels == label][:500] for label in (0, 1))
layers = {"images": np.eye(pixels.shape[1])}
for name, key in TRAINED.items():
    model, _ = extractor_networks.trained(networks[f"{dataset}-{key}"])
    layers[name] = as_layers(model, sets[0].shape, depth=1)[0][0]
distances = {name: collisions.linear_distances(layer, threes, sevens) for name, layer in layers.items()}
print(f"{len(threes)} threes, {len(sevens)} sevens, {threes.shape[0] * sevens.shape[0]:,} pairs")
for name, values in distances.items():
    ratio = np.median(values / distances["images"])
    low, middle = values.min(), np.median(values)
    print(
        f"{name:12s} {layers[name].shape[0]} rows: smallest {low:.3f}, median {middle:.3f}, ratio {ratio:.3f}"
    )

# %% tags=["nbval-ignore-output"]
fig, axis = plt.subplots(figsize=(6.8, 3.3))
bins = np.linspace(0.9, 6.1, 53)
for name, values in distances.items():
    style = {"color": LOOKS[name]["color"], "histtype": "step", "lw": 1.8, "ls": "-"}
    axis.hist(values.ravel(), bins, weights=np.full(values.size, 100 / values.size), label=name, **style)
axis.set(xlabel=r"least budget $\varepsilon_f^*(u, v)$ of a pair ($\ell_2$, pixels in [0, 1])")
axis.set(ylabel="pairs (%)", xlim=(bins[0], bins[-1]))
axis.legend(loc="upper right")
axis.set_title("The first linear layer brings all pairs closer")
summary = {name: np.quantile(values, [0, 0.05, 0.5, 0.95, 1]).tolist() for name, values in distances.items()}
figures.save_figure(fig, "21_distances", profile=profile, data=summary, notebook="21_linear_collisions")
plt.show()

# %% [markdown]
# ## The closest pair, drawn
#
# For each network the pair of images that collides first. $\tilde u$ and $\tilde v$ look different, and
# the first layer gives both the same numbers up to rounding; so does everything behind it. As in the paper,
# perturbed pixels may leave [0, 1] (they are clipped for display only).

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(3, 4, figsize=(5.6, 4.6))
residuals, agreement, closest = {}, {}, {}
for row, name in zip(axes, TRAINED, strict=True):
    i, j = np.unravel_index(distances[name].argmin(), distances[name].shape)
    found = collisions.linear_collision(layers[name], threes[[i]], sevens[[j]])
    closest[name], residuals[name] = found.epsilon[0], found.residual[0]
    agreement[name] = abs(found.epsilon[0] - distances[name][i, j])
    shown = {"$u$": threes[i], r"$\tilde u$": found.u[0], r"$\tilde v$": found.v[0], "$v$": sevens[j]}
    for axis, (text, image) in zip(row, shown.items(), strict=True):
        axis.imshow(image.reshape(sets[0].shape[1:]).clip(0, 1), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
        axis.set_title(text if name == "benign" else "", loc="center", fontsize=11)
    row[0].set_ylabel(f"{name}\n" + rf"$\varepsilon$ = {closest[name]:.2f}")
    print(f"{name:12s} epsilon {found.epsilon[0]:.3f}, features agree up to {found.residual[0]:.1e}")
fig.suptitle("The middle two images of each row have the same features", weight="bold")
figures.save_figure(fig, "21_closest_pairs", profile=profile, data=closest, notebook="21_linear_collisions")
plt.show()

# %% [markdown]
# ## From distances to losses
#
# A pair is in conflict at a budget when its distance is at most the budget, so one set of distances gives
# the conflict graph at every budget. Its least losses bound *every* classifier behind the layer from below,
# whatever follows: the 0-1 loss by a vertex cover, the cross-entropy by its dual value. The data are the
# points themselves, all with the same weight: the bounds say nothing about other images.

# %% tags=["nbval-ignore-output"]
budgets = np.linspace(0.75, 4.25, 29)
bounds = {name: np.zeros((2, len(budgets))) for name in distances}  # 0-1 loss, cross-entropy in nats
for name, values in distances.items():
    for k, budget in enumerate(budgets):
        graph = collisions.graph(values, True, budget)
        bounds[name][:, k] = graph.minimum_cover().lower_bound, graph.cross_entropy().dual_lower_bound
for budget in (2.0, 2.5, 3.0):
    at = [f"{name} {bound[0][np.isclose(budgets, budget)][0]:.3f}" for name, bound in bounds.items()]
    print(f"0-1 loss at least, at {budget}: " + ", ".join(at))

# %% tags=["nbval-ignore-output"]
fig, axes = plt.subplots(1, 2, figsize=(8.2, 3.4), layout="constrained")
titles, shares = ("0-1 loss", "cross-entropy (nats)"), np.array([len(threes), len(sevens)])
shares = shares / shares.sum()
blind = shares.min(), -shares @ np.log(shares)
for axis, number, title, top in zip(axes, (0, 1), titles, blind, strict=True):
    for name, values in bounds.items():
        axis.plot(budgets, values[number], label=name, **LOOKS[name])
    axis.axhline(top, color=figures.COLORS["printed"], lw=0.8, ls="--")
    axis.annotate("guessing", (budgets[0], top), (2, 3), textcoords="offset points")
    axis.set(xlabel=r"budget $\varepsilon$ ($\ell_2$, pixels in [0, 1])", ylabel=f"{title}, at least")
    axis.set(xlim=(budgets[0], budgets[-1]), ylim=(0, top * 1.12))
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
fig.suptitle("No network with the same first layer does better", weight="bold")
numbers = {"budgets": budgets.tolist(), "bounds": {name: value.tolist() for name, value in bounds.items()}}
figures.save_figure(fig, "21_bounds", profile=profile, data=numbers, notebook="21_linear_collisions")
plt.show()

# %% [markdown]
# ## A convolution as an operator
#
# The paper casts a convolution as a matrix. Its row space can be had without: apply the convolution and its
# adjoint to unit images. On 8 x 8 images both ways agree. The trained first convolution of the CNN would
# be a matrix of thousands of rows. It has full rank, so it is injective: it forgets nothing, and every
# distance is that of the images. What the CNN loses, it loses behind this layer.

# %% tags=["nbval-ignore-output"]
kernel = np.random.default_rng(0).normal(size=(2, 1, 5, 5))
small = torch.nn.Conv2d(1, 2, 5, stride=2).requires_grad_(False)
small.weight.copy_(torch.from_numpy(kernel))
operator = extractors.ConvOperator(small, (1, 8, 8))
pair = np.random.default_rng(1).random((2, 5, 64))
both = [collisions.linear_distances(layer, *pair) for layer in (operator, operator @ np.eye(64))]
print(f"operator and matrix {operator.shape}: largest difference {abs(both[0] - both[1]).max():.1e}")
cnn, _ = extractor_networks.trained(networks[f"{dataset}-cnn-benign"])
convolution = as_layers(cnn, sets[0].shape, depth=1)[0][0]
through = collisions.linear_distances(convolution, threes, sevens)
change = abs(through - distances["images"]).max()
print(f"trained convolution {convolution.shape}: all distances as those of the images, up to {change:.1g}")

# %% [markdown]
# ## What to believe
#
# * For linear layers and $\ell_2$ the closed form is exact, cheap and true as printed; the existence of a
#   minimum needs a bounded ball, and the induced distance is not a metric in general.
# * The bound for a layer is at or above that of the images at every budget. The gap is what this layer
#   costs *at least*; a small bound does not say that the network is robust.
# * The networks with adversarial training keep most pairs further apart than the benign one here, not always
#   the closest, and their first layer still forgets. One seed, one small data set: notebook 23 has more.
#
# ## Change one number and run again
#
# How much of the distance survives a layer that was not trained? A Gaussian layer of `kept` rows shrinks
# it to about $\sqrt{\mathtt{kept}/784}$ of the images'. With as many rows as the trained layers have, compare
# it with the ratios above: trained rows lie much more in the directions in which the images differ.

# %% tags=["nbval-ignore-output"]
kept = layers["benign"].shape[0]
gaussian = np.random.default_rng(2).normal(size=(kept, pixels.shape[1]))
random_ratio = collisions.linear_distances(gaussian, threes, sevens) / distances["images"]
print(f"{kept} directions: {np.median(random_ratio):.3f}; sqrt(kept/784) = {(kept / 784) ** 0.5:.3f}")

# %% [markdown]
# ## Checks

# %%
assert all(abs(value - expected) < 1e-9 for value, expected in by_hand.values())
print("the four examples agree with the values by hand: ok")
assert feasible[1e-9] == (True, False) and feasible[0] == (False, False) and not feasible[1e9][1]
print("the slab does not attain its infimum, the segment has no budget: ok")
assert all(abs(value - expected) < 1e-4 for value, expected in sines.values()) and detours[0] < direct / 50
print("angle feature: r sin(theta/2), and no triangle inequality: ok")
assert all((values <= distances["images"] + 1e-9).all() for values in distances.values())
assert max(agreement.values()) < 1e-9 and max(residuals.values()) < 1e-9
print("a layer never raises a distance; collisions are exact up to rounding: ok")
assert all((np.diff(value, axis=1) >= -1e-12).all() for value in bounds.values())
assert all((value >= bounds["images"] - 1e-12).all() for value in bounds.values())
print("bounds grow with the budget and are at least those of the images: ok")
assert abs(both[0] - both[1]).max() < 1e-9 and both[0].min() > 0
print("a convolution as an operator agrees with its matrix: ok")
