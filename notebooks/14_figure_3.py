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
# # Figure 3: does the dependence depend on the seed of the pretrained networks?
#
# The trials of Algorithm 1 share one pair of pretrained networks. Figure 3 repeats them for three pairs that
# differ in their seed, under FGSM, and calls the curves "generally similar", with "significant differences" for
# ResNet-18.
#
# **Verdict.** Both halves hold. The curves have one shape; and pairs differ from each other by more than the
# trials of one pair do, in most layers. So the spread over the trials of one pair, the only one in the printed
# tables, is too small to be the error of a table row.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from scipy import stats

from semirobust import figures, paths, runs, statistics
from semirobust.experiments import figure_1
from semirobust.figures import algorithm_1 as draw

figures.use_style()
paths.check_profile(profile)
records = figure_1.stored_by_seed("reference")


# %%
def values(records, what="excess"):
    """[trials, layers] under FGSM after fine-tuning: "bits", "control_bits" or the excess of the first."""
    rows = [record.metrics["after"]["fgsm"]["dependence"] for record in records]
    bits, control = (
        np.array([[row[key] for row in trial] for trial in rows]) for key in ("bits", "control_bits")
    )
    return {"bits": bits, "control_bits": control, "excess": bits - control}[what]


kinds = {"CIFAR-10": "cifar10-seed", "digits": "digits-seed"}
groups = {
    label: {name.removeprefix(start[:-4]): found for name, found in records.items() if name.startswith(start)}
    for label, start in kinds.items()
}
groups = {label: group for label, group in groups.items() if len(group) > 1}  # others are not run yet

# %%
fig, axes = plt.subplots(2, len(groups), figsize=(9.6, 5.6), squeeze=False, sharex=True, layout="constrained")
for column, (label, group) in zip(axes.T, groups.items(), strict=True):
    for axis, what in zip(column, ("bits", "excess"), strict=True):
        by_pair = {name: values(found, what) for name, found in group.items()}
        draw.draw_seeds(axis, by_pair, f"{label}: {'estimate' if what == 'bits' else 'excess'}")
    column[0].set_xlabel("")
    column[1].legend(fontsize="x-small", title="pair")
axes[0, 0].set_ylabel("estimate (bits)")
axes[1, 0].set_ylabel("excess over\nshuffled pairs (bits)")
fig.suptitle("One shape, and pairs that differ by more than their trials (FGSM, $f_b$ of 12 layers)")
sources = [record for found in records.values() for record in found]
figures.save_figure(fig, "14_figure_3", profile="reference", sources=sources, notebook="14_figure_3")
plt.show()

# %% [markdown]
# *ResNet-18 of width 8 on digits; CIFAR-10 (width 16) as soon as two pairs are stored. Mean over the trials of
# a pair, and their range. The paper has WideResNet-34-10 too; that is not run.*
#
# ## How much of the spread is the pair, and how much the trial?
#
# For each layer: the standard deviation of a pair's mean over pairs, and of a trial within its pair. Their
# means over layers stand below. The last column counts the layers in which pairs differ by more than their
# trials explain (one-way analysis of variance; corrected for the twelve layers by Holm's method).


# %%
rows = []
for label, group in groups.items():
    for what, name in (("bits", "estimate"), ("excess", "excess")):
        by_pair = [values(found, what) for found in group.values()]
        pairs = np.std([array.mean(0) for array in by_pair], axis=0, ddof=1).mean()
        row = {"data": label, "what": name, "pairs": len(by_pair), "between": pairs}
        row |= {"trials": min(map(len, by_pair)), "within": None, "layers": ""}
        if row["trials"] > 1:
            row["within"] = np.mean([array.std(0, ddof=1).mean() for array in by_pair])
            found = [stats.f_oneway(*(array[:, j] for array in by_pair)).pvalue for j in range(12)]
            row["layers"] = f"{int((np.array(statistics.holm(found)) < 0.05).sum())} of 12"
        rows.append(row)
names = {"data": "data", "what": "bits of", "pairs": "pairs", "trials": "trials of each"}
names |= {"between": "SD of pairs", "within": "SD of trials", "layers": "layers where pairs differ"}
Markdown(runs.markdown_table(rows, names, {"between": ".3f", "within": ".3f"}))

# %% [markdown]
# ## What to believe
#
# * "Generally similar": the correlation of two pairs' curves over the layers is printed below.
# * "Significant differences": pairs differ by more than trials. An error bar over trials is that of one pair.
# * "Much less than between networks or datasets": true of the printed rows. The number of images of a class
#   alone moves the estimate by more ([notebook 08](08_edge.ipynb)).
#
# ## Checks

# %%
for label, group in groups.items():
    means = [values(found, "bits").mean(0) for found in group.values()]
    lowest = min(np.corrcoef(means)[np.triu_indices(len(means), 1)])
    assert lowest > 0.8
    print(f"{label}: the curves of any two pairs correlate by more than 0.8 over the layers: ok")
digits = {name: values(found, "bits") for name, found in groups["digits"].items()}
between = np.std([array.mean(0) for array in digits.values()], axis=0, ddof=1)
within = np.mean([array.std(0, ddof=1) for array in digits.values()], axis=0)
assert (between > within).mean() > 0.5
print("digits: pairs differ by more than trials in most layers: ok")
