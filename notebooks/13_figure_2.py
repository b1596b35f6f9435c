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
# # Figure 2: $\rho$ across networks and data (left), and during fine-tuning (right)
#
# **Verdict.** Left: data sets and networks differ, as printed; the data sets by about as much as the caps of
# the estimator do. Right: "fine-tuning progressively increases the connectivity in each layer" is wrong for
# our estimates, which fall on CIFAR-10, and right for what counts there: their excess over shuffled pairs
# rises in most layers. It is small, and on digits it does not rise. The paper's other remark, that $\rho$ is
# often *higher* before fine-tuning, holds for the estimates.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from semirobust import experiments, figures, paths, runs
from semirobust.experiments import algorithm_1, tables
from semirobust.figures import algorithm_1 as draw

figures.use_style()
paths.check_profile(profile)
NOTEBOOK = "13_figure_2"
for plan in algorithm_1.plans(profile):
    algorithm_1.run_plan(plan, profile)
stored = {found.plan.name: found for _, found in experiments.stored_outcomes("algorithm_1", profile)}
stored = {name: found for name, found in stored.items() if "independent" not in name}
cifar = {name: found for name, found in stored.items() if name.startswith("cifar") and name.endswith("seed0")}
printed = [row for row in tables.printed_rows(["pgd"]) if row["n_fb"] == 12]

# %%
fig, axes = plt.subplots(1, 3, figsize=(10.4, 3.8), layout="constrained")
draw.draw_printed_rho(axes[0], printed)
for (name, found), colour in zip(cifar.items(), ("ours", "robust", "control"), strict=False):
    draw.draw_four_layers(axes[1], found, 12, colour, name.removesuffix("-seed0"))
axes[1].set_title("ours: excess over shuffled pairs")
axes[1].set_ylim(0, None)
axes[1].legend(fontsize="x-small")
draw.draw_epochs(axes[2], stored["cifar10-seed0"], 12)
fig.suptitle("Figure 2: printed networks and data, ours as excess, and the epochs of fine-tuning")
sources = [record for found in cifar.values() for record in found.trials[12]]
figures.save_figure(fig, "13_figure_2", profile="reference", sources=sources, notebook=NOTEBOOK, data=printed)
plt.show()

# %% [markdown]
# *Left: $f_b$ of 12 layers under PGD (Table 3); dots: the cap, $\log_2$ of the images of a class. Middle: mean
# and range over trials after the last epoch. Right: one colour a layer, with its shuffled control dotted;
# epoch 0 is before fine-tuning.*
#
# ## Left: what the caps explain
#
# The printed value of each layer as a share of its cap. CIFAR-10 has 1,000 test images of a class, CIFAR-100
# has 100.

# %%
RHO = {"rho_n11": "n-11", "rho_n7": "n-7", "rho_n3": "n-3", "rho_n": "n"}
for row in printed:
    shares = [f"{RHO[name]} {100 * row[name] / row['cap']:.0f} %" for name in RHO if row[name] is not None]
    print(f"{row['network']:16s} {row['dataset']:9s} {', '.join(shares)}")

# %% [markdown]
# For the early layers the shares of the two data sets are nearly equal, while the values differ by 2 to 3
# bits. That alone is no proof: [notebook 08](08_edge.ipynb) cuts CIFAR-10 to 100 images of a class, and the
# same network then loses what the printed rows lose.
#
# ## Right: in how many layers does it rise?
#
# "The finetuning of $f_b$ ... progressively increases the connectivity in each layer" (3.4): the share of
# (trial, layer) in which the estimate, and its excess, end above where they were, and the mean excess.


# %%
def values(outcome, n_fb, epoch, excess):
    """[trials, layers] at an epoch: the estimate, or its excess over shuffled pairs; bits."""
    trials = outcome.trajectories(n_fb)
    if excess:
        return draw.excess(trials, epoch)
    return np.array([trial[epoch].dependence_bits for trial in trials])


# %% tags=["nbval-ignore-output"]
rows = []
for name, found in stored.items():
    for n_fb in (4, 12):
        row = {"pair": name, "n_fb": n_fb, "trials": len(found.trials[n_fb])}
        for key, start, excess in (("e1", 1, False), ("e0", 0, False), ("x1", 1, True), ("x0", 0, True)):
            ends, starts = (values(found, n_fb, epoch, excess) for epoch in (-1, start))
            row[key] = f"{100 * (ends > starts).mean():.0f} %"
        first, last = (values(found, n_fb, epoch, True).mean() for epoch in (0, -1))
        rows.append(row | {"mean": f"{first:.2f} to {last:.2f}"})
names = {"pair": "pair", "n_fb": "f_b layers", "trials": "trials", "e1": "estimate, above epoch 1"}
names |= {"e0": "above the start", "x1": "excess, above epoch 1", "x0": "above start", "mean": "mean excess"}
Markdown(runs.markdown_table(rows, names, {}))

# %% [markdown]
# ## What to believe
#
# * Data sets and networks differ in $\rho$; what the number of images does to it is as large.
# * On CIFAR-10 fine-tuning raises the *excess* above its start in most layers: what the paper looks for is
#   there, small beside $\rho$, which is mostly its control. On digits, with 40 images of a class, it is not
#   seen.
# * It is no measure of robustness: [notebook 09](09_algorithm_1.ipynb) has a network that is not robust with as
#   much of it, and [notebook 31](31_dependence_measures.ipynb) asks which measures predict success.
#
# ## Checks

# %%
by = {(row["network"], row["dataset"]): row for row in printed}
for network in ("resnet18", "wideresnet34_10"):
    ten, hundred = (by[network, data] for data in ("cifar10", "cifar100"))
    assert abs(ten["rho_n11"] / ten["cap"] - hundred["rho_n11"] / hundred["cap"]) < 0.1
    assert ten["rho_n11"] - hundred["rho_n11"] > 2
print("the first layer differs by over 2 bits between data sets, and by under 10 % of the caps: ok")
main = stored["cifar10-seed0"]
assert (values(main, 12, -1, True) > values(main, 12, 0, True)).mean() > 0.5
print("the excess ends above its start in most layers of f_b (12 layers, CIFAR-10): ok")
for found in stored.values():
    rows = [row for n_fb in found.trials for r in found.trials[n_fb] for row in r.metrics["epochs"]]
    assert all(np.all(np.array(row["dependence_bits"]) <= np.array(row["cap_bits"]) + 1e-9) for row in rows)
print("no estimate exceeds its cap: ok")
