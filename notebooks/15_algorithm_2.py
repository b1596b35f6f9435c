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
# # Algorithm 2: a linear readout that is handed its own targets
#
# Algorithm 2 of the paper replaces $f_b^*$ by one linear map $\lambda$ of all the layers of $f_a^*$, and scores $\lambda$ on the images that
# it was fitted on. This notebook shows what that gives back for features that know nothing (a law, and simulations on it), what it
# gives back on a trained network, and how far the attack in the table is from an attack on the readout. Last, how the same
# readouts are computed without ever holding the matrix of activations.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from semirobust import attacks, figures, layers, paths, readouts
from semirobust.experiments import networks, table_2
from semirobust.readouts import algorithm_2, solve

figures.use_style()
paths.check_profile(profile)
plan = table_2.plans(profile)[0]

# %% [markdown]
# ## The algorithm as printed
#
# $F \in \mathbb R^{n\times d}$ holds, for each image, the outputs of all layers of $f_a^*$ side by side, and $Y$ the outputs of
# $(f_a^*, f_b^*)$. Equation (54) solves $F\lambda = Y$ with an inverse that $F$ does not have; $F_k^+$ is meant, batch by batch, and
#
# $$\lambda^* = \frac1K\sum_k F_k^+ Y_k .$$
#
# A batch has fewer images than features, so that $F_kF_k^+ = I$, and on *its own* batch the average says
#
# $$F_k\lambda^* = \frac1K\Big(Y_k + \sum_{l\ne k} F_kF_l^+Y_l\Big) :$$
#
# the target itself, plus what the other batches have to say. Two images, two batches of one, by hand:

# %%
source = readouts.Matrix(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
goal = torch.tensor([[1.0], [4.0]])
averaged = algorithm_2.algorithm_2(source, goal, batch_size=1)
solved = algorithm_2.least_squares(source, goal)
print("lambda_1 = (1, 0), lambda_2 = (0, 2), mean:", averaged.weight[:, 0].tolist())
print("one solve over both images:", [round(value, 12) for value in solved.weight[:, 0].tolist()])

# %% [markdown]
# The identity on 60 random images of 200 features, in three batches of 20: `out_of_batch` is the sum over $l \ne k$, scaled as a mean.

# %%
generator = torch.Generator().manual_seed(0)
random = readouts.Matrix(torch.randn(60, 200, generator=generator, dtype=torch.float64))
coins = torch.randint(2, (60, 1), generator=generator) * 2.0 - 1
fit = algorithm_2.algorithm_2(random, coins, batch_size=20)
(gram,) = solve.grams(random)
others = solve.out_of_batch(gram, fit.solution, coins.double(), 20)
identity = (random.matrix @ fit.weight - (coins + 2 * others) / 3).abs().max()
print(f"K = 3: largest difference from (Y_k + 2 x others) / 3 is below 1e-12: {bool(identity < 1e-12)}")

# %% [markdown]
# ## What noise scores: a law
#
# Let the features be independent Gaussians and the targets coin flips. The other batches then add a Gaussian of variance
# $|v|^2$ to the sample's own target $\pm1$, with $v = \sum_{l\ne k}F_l^+y_l$, so that it is classified rightly with probability
# $\Phi(1/|v|)$. The mean of the inverse Wishart law gives $\mathbb E|v|^2 = (K-1)B/(d-B-1)$; the cross terms vanish because $F_l$ and
# $-F_l$ have the same law. So the accuracy on the data that was fitted is about
#
# $$\Phi\Big(\sqrt{\tfrac{d-B-1}{(K-1)B}}\Big)$$
#
# for features that know **nothing**. On new data it is 50 %.

# %%
settings = [(400, 20, 10), (2000, 100, 10), (1000, 100, 20), (600, 100, 2), (400, 200, 2), (120, 50, 6)]
simulated = [readouts.simulate_leak(d, b, k, runs=6 if d > 600 else 30) for d, b, k in settings]
print("    d    B   K   law      simulated           held out")
for (d, b, k), found in zip(settings, simulated, strict=True):
    law = readouts.leak_accuracy(d, b, k)
    print(
        f"{d:5d}  {b:3d}  {k:2d}  {law:.4f}   {found.mean:.3f} +- {found.standard_error:.3f}"
        f"    {found.held_out.mean():.2f}"
    )


# %%
def figure_law():
    """In-sample and held-out accuracy of pure noise against the number of spare features."""
    fig, axis = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    spare = np.array([(d - b - 1) / ((k - 1) * b) for d, b, k in settings])
    ratio = np.geomspace(0.2, 8, 200)
    curve = [100 * readouts.leak_accuracy(round(1000 * r) + 1001, 1000, 2) for r in ratio]
    axis.plot(ratio, curve, color=figures.COLORS["robust"], label="law, on the data fitted")
    for name, colour, label in (
        ("in_sample", "attacked", "simulated, on the data fitted"),
        ("held_out", "control", "simulated, new data"),
    ):
        values = np.array([100 * getattr(found, name).mean() for found in simulated])
        errors = [300 * getattr(found, name).std(ddof=1) / len(found.in_sample) ** 0.5 for found in simulated]
        axis.errorbar(spare, values, errors, fmt="o", ms=5, color=figures.COLORS[colour], label=label)
    axis.set(xscale="log", ylim=(40, 102), ylabel="accuracy (%)", xlabel="$(d - B - 1)\\,/\\,((K - 1) B)$")
    axis.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    axis.minorticks_off()
    axis.set_title("Algorithm 2 on pure noise, scored on the data it was fitted on")
    fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


# %% tags=["nbval-ignore-output"]
numbers = [
    {"d": d, "B": b, "K": k, "law": readouts.leak_accuracy(d, b, k), "simulated": found.mean}
    for (d, b, k), found in zip(settings, simulated, strict=True)
]
fig = figure_law()
figures.save_figure(fig, "15_leak_law", profile=profile, data=numbers, notebook="15_algorithm_2")
plt.show()

# %% [markdown]
# At the printed scale ($d = 188{,}416$, 10,000 images) two classes of noise would score more than 99.9 %. The paper's control, a random $\lambda$, scores
# chance in all of this: it cannot see a leak. Permuted targets, noise features and new images can.
#
# ## On a trained network
#
# Real features are not noise. They are close to a low-dimensional set, where $F_kF_l^+$ is far from small, and what leaks is diluted. How
# much then depends on the *targets*. The text has the outputs of the network, which are nearly a linear function of its layers;
# it also speaks of predicting labels. Fitted to the labels of attacked images, a readout also learns to undo that one attack, on new
# images too; see what is left of it below. The images are PGD-attacked for $(f_a^*, f_b^*)$, $f_a^*$ has 17 layers.

# %% tags=["nbval-ignore-output"]
net, _ = networks.trained(plan.network)
n, attack = plan.sizes.test, plan.network.train.attack
test = networks.test_images(plan.network, 2 * n)
budget = {"eps": attack.eps, "step": attack.step, "steps": attack.steps}
attacked = attacks.perturb(net, test.images, test.labels, "pgd", **budget)
names = layers.weight_layers(net)[:17]
fitted = readouts.Activations(net, names, attacked[:n])
new = readouts.Activations(net, names, attacked[n:])
(gram,) = solve.grams(fitted)
goals = {
    kind: algorithm_2.targets(net, attacked[:n], test.labels[:n], kind) for kind in ("outputs", "labels")
}
print(f"{plan.network.label} on {plan.network.dataset}: n = {n} images, d = {sum(fitted.widths):,} features")


# %% tags=["nbval-ignore-output"]
def accuracy(predicted, labels):
    return float((predicted.argmax(1) == labels).double().mean())


features_new = torch.cat([block for _, block in new.rows(64)]).double()  # small enough here
sweep = []
for kind, goal in goals.items():
    for batch in (10, 25, 50, 125):
        fit = algorithm_2.algorithm_2(fitted, goal, batch_size=batch)
        others = solve.out_of_batch(gram, fit.solution, goal, batch)
        scores = {
            "fitted": accuracy(gram @ fit.solution.coefficients, test.labels[:n]),
            "out_of_batch": accuracy(others, test.labels[:n]),
            "new": accuracy(features_new @ fit.weight, test.labels[n:]),
        }
        sweep.append({"targets": kind, "batch": batch} | scores)
        shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in scores.items())
        print(f"targets: {kind:8s} B = {batch:3d}, K = {n // batch:2d}: {shown}")


# %%
def figure_targets():
    """The same readouts on the images fitted, on those images without their own batch, and on new ones."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.4), sharey=True, layout="constrained")
    for axis, kind in zip(axes, goals, strict=True):
        rows = [row for row in sweep if row["targets"] == kind]
        for key, colour, label in (
            ("fitted", "attacked", "images fitted"),
            ("out_of_batch", "ours", "the same, own batch left out"),
            ("new", "control", "new images"),
        ):
            points = [row["batch"] for row in rows], [100 * row[key] for row in rows]
            axis.plot(*points, "o-", color=figures.COLORS[colour], label=label)
        axis.set(title=f"targets: {kind} of the network" if kind == "outputs" else "targets: true labels")
        axis.set(xscale="log", xlabel="images in a batch $B$")
        axis.set_xticks([10, 25, 50, 125], ["10", "25", "50", "125"], minor=False)
        axis.minorticks_off()
    axes[0].set_ylabel("accuracy on attacked images (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    fig.suptitle("Labels leak into Algorithm 2; outputs of the network hardly do")
    return fig


# %% tags=["nbval-ignore-output"]
fig = figure_targets()
figures.save_figure(fig, "15_targets", profile=profile, data=sweep, notebook="15_algorithm_2")
plt.show()

# %% [markdown]
# ## The attack
#
# The images above were attacked for the network, and the readout is another network. `LinearReadout` is differentiable from image to
# logits, so the same attack can be made for it. Accuracy under attack is an upper bound on robust accuracy.

# %% tags=["nbval-ignore-output"]
sources = {"algorithm_2": algorithm_2.algorithm_2(fitted, goals["outputs"], batch_size=25)}
sources["least_squares"] = algorithm_2.least_squares(fitted, goals["outputs"])
sources["ridge"] = algorithm_2.ridge(fitted, goals["outputs"], validation=torch.arange(n) % 5 == 4)
subject = test.images[n:], test.labels[n:]
own = attacks.evaluate(net, *subject, "pgd", **budget)
accuracies = {}
print(f"the network itself: clean {100 * own.clean_accuracy:.1f} %, PGD {100 * own.accuracy:.1f} %")
for name, fit in sources.items():
    readout = fit.readout(net)
    with torch.no_grad():
        transfer = accuracy(readout(attacked[n:]), subject[1])
    found = attacks.evaluate(readout, *subject, "pgd", **budget)
    accuracies[name] = found.accuracy
    print(
        f"{name:13s} new images: clean {100 * found.clean_accuracy:.1f} %, PGD made for the network "
        f"{100 * transfer:.1f} %, for the readout {100 * found.accuracy:.1f} %; "
        f"rank {fit.solution.rank}, condition number {fit.solution.condition:.0f}"
    )

# %% [markdown]
# ## Without the matrix of activations
#
# With $d > n$ all three readouts have the form $\lambda = F^\top A$. $A$ follows from $FF^\top$ ($n\times n$), which is summed over blocks of
# columns in float64, and $\lambda$ from one more pass: the minimum-norm solution at any $d$. Only where both $n$ and $d$ are large must
# something give. Then a random projection to $m$ columns (one $\pm1$ per feature) comes in, tested here where the exact answer fits.

# %% tags=["nbval-ignore-output"]
exact = features_new @ sources["least_squares"].weight
rows = {"exact": accuracy(exact, subject[1])}
for m in (500, 1000, 2000, 4000):
    rough = features_new @ algorithm_2.sketched(fitted, goals["outputs"], size=m).weight
    rows[m] = accuracy(rough, subject[1])
    error = float((rough - exact).norm() / exact.norm())
    print(f"m = {m:4d}: outputs differ by {100 * error:.0f} % of their norm, accuracy {100 * rows[m]:.1f} %")
print(f"exact, d = {features_new.shape[1]}: accuracy {100 * rows['exact']:.1f} %")
for width, d in ((16, 47_104), (64, 188_416)):
    print(f"width {width}, 2,000 images: F takes {8 * 2000 * d / 2**20:,.0f} MiB in float64, F F^T 31 MiB")

# %% [markdown]
# ## What to believe
#
# * The score of Algorithm 2 on the data it was fitted on says little by itself: noise reaches any score that the number of features allows.
# * With the network's outputs as targets, as the text has it, a trained network leaks little; with labels it leaks much.
# * A linear readout of robust layers is **not** as robust as the network. Attacked itself it falls well below, and the better it fits
#   the outputs, the further.
#
# ## Change one number and run again
#
# How many features does noise need to score 90 % on 1,000 images?

# %%
images, batch, wanted = 1000, 100, 0.90
needed = next(
    d for d in range(batch + 2, 10**6) if readouts.leak_accuracy(d, batch, images // batch) >= wanted
)
print(
    f"{needed} features of pure noise score {100 * wanted:.0f} % on the {images} images they were fitted on"
)

# %% [markdown]
# ## Checks

# %%
assert identity < 1e-12
print("F_k lambda = (Y_k + sum over other batches) / K within 1e-12: ok")
for (d, b, k), found in zip(settings, simulated, strict=True):
    assert abs(found.mean - readouts.leak_accuracy(d, b, k)) <= 3 * found.standard_error
    assert abs(found.held_out.mean() - 0.5) < 0.03
print("noise scores what the law says within three standard errors, and chance on new data: ok")
assert readouts.leak_accuracy(188_416, 500, 20) > 0.999
print("at the printed scale noise would score above 99.9 %: ok")
labels_25 = next(row for row in sweep if row["targets"] == "labels" and row["batch"] == 25)
assert labels_25["fitted"] > labels_25["out_of_batch"] + 0.03
print("labels leak: the own batch adds more than three points: ok")
assert all(value < own.accuracy - 0.05 for value in accuracies.values())
print("attacked itself every readout is more than five points below the network: ok")
