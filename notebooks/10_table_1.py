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
# # Table 1: robust accuracy regained by fine-tuning $f_b$, under AutoAttack
#
# **Verdict.** As printed, fine-tuning always ends at or above $Acc^*$. Ours ends a few points below it after
# a short fine-tuning, and level with it once validation has stopped rising. Where the printed rows and ours
# are of one kind of network, $Acc_{sr}$, what is kept before any fine-tuning, agrees. The printed $Acc^*$
# column itself does not fit Table 3: for ResNet-18 it is *above* the accuracy under PGD, a weaker attack.

# %% tags=["parameters"]
profile = "quick"

# %%
from itertools import product

import matplotlib.pyplot as plt
from IPython.display import Markdown

from semirobust import attacks, experiments, figures, paths, runs, statistics
from semirobust.experiments import algorithm_1, controls, networks, tables, verdicts
from semirobust.figures import algorithm_1 as draw

figures.use_style()
paths.check_profile(profile)
NOTEBOOK, PROFILES = "10_table_1", list(dict.fromkeys([profile, "reference", "paper"]))
for plan in algorithm_1.plans(profile):
    algorithm_1.run_plan(plan, profile)
rows = tables.side_by_side(PROFILES, ["autoattack"], readings=["sound"])
long = controls.long_rows(["autoattack"])

# %%
names, groups = {"resnet18": "ResNet-18", "wide": "WRN-34"}, []
for dataset, network, source in product(("cifar10", "cifar100", "digits"), names, ("printed", "ours")):
    own = [row for row in rows if row["n_fb"] != 8 and "independent" not in row["network"]]
    own = [row for row in own if row["source"].startswith(source) and row["network"].startswith(network)]
    own = [row for row in own if row["dataset"] == dataset and ", seed" not in row["network"]]
    own = [row for row in own if "mean of" in row["source"]] or own  # over seeds, where there are several
    if own:
        groups.append((f"{names[network]}\n{dataset}\n{source}", own))
fig, axis = plt.subplots(figsize=(10.4, 3.8), layout="constrained")
draw.draw_rows(axis, groups)
figures.save_figure(
    fig,
    "10_table_1",
    profile=profile,
    sources=[],
    notebook=NOTEBOOK,
    data=[row for _, g in groups for row in g],
)
plt.show()

# %% [markdown]
# *Green: $Acc^*$ of $(f_a^*, f_b^*)$. Open: $Acc_{sr}$ of $(f_a^*, f_b)$ before fine-tuning. Filled:
# $\widetilde{Acc}$ after it. Our networks are narrow and our schedules short, so levels differ; compare the
# three numbers of one column.*
#
# ## The rows
#
# *Ours* is the sound reading: held-out images stop a trial, and the interval is that of the paired difference
# on the same images. Means over pairs of networks have an interval over the pairs. The printed differences are
# of the best epoch of ten trials on the test set. Both readings, $\rho$ and all columns are in
# [`results/TABLES.md`](../results/TABLES.md).

# %% tags=["nbval-ignore-output"]
Markdown(tables.compact(rows + long))

# %%
print("not run, or not all of it:\n  " + "\n  ".join(tables.not_run(PROFILES) or ["nothing"]))

# %% [markdown]
# ## The dependence beside it
#
# $\rho$ for $f_b$ of 12 layers. The printed values have no control. Ours is followed by that of pairs
# shuffled within their class: what counts is the difference. No estimate exceeds the cap.

# %% tags=["nbval-ignore-output"]
deep = [row for row in rows if row["n_fb"] == 12]
Markdown(tables.as_markdown(deep, ["source", "network", "dataset", *tables.BACK, "cap"]))

# %% [markdown]
# ## Is the printed AutoAttack as strong as its name?
#
# AutoAttack as published runs its gradient parts for 100 steps; the class of that name in torchattacks 3.5.1,
# the library that the paper names, for 10. So we ran both, on the same images of the same robust networks.
# The differences are paired, with their interval.


# %%
def weak_attack(outcome):
    """PGD and AutoAttack of ten steps less the published AutoAttack, in points, on the images all three had."""
    star = outcome.baseline.metrics["accuracy"]["robust"]
    n, shown = star["autoattack"]["n"], {"network": outcome.plan.name}
    for attack in ("pgd", "autoattack-10"):
        found = statistics.paired_difference(
            verdicts.verdicts(star[attack])[:n], verdicts.verdicts(star["autoattack"])
        )
        shown[attack] = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * value for value in found))
    return shown | {"autoattack": 100 * star["autoattack"]["accuracy"], "n": n}


stored = [found for _, found in experiments.stored_outcomes("algorithm_1", profile)]
stored = [found for found in stored if found.plan.pair.robust.dataset != "digits"]
names = {"network": "pair", "autoattack": "AutoAttack (%)", "pgd": "PGD-10 less it"}
names |= {"autoattack-10": "AutoAttack of 10 steps less it", "n": "n"}
Markdown(
    runs.markdown_table([weak_attack(found) for found in stored], names, {"autoattack": ".1f", "n": ","})
)

# %% [markdown]
# Ten steps leave about as much as a hundred. So they do not explain why AutoAttack as printed is the weaker
# attack.
#
# ## Warnings of gradient masking
#
# An evaluation warns where gradients vanish or a black-box attack beats the gradient attacks. `attacks.sanity`
# asks more of a network: accuracy must fall as the budget grows, to chance where all images can become grey.

# %% tags=["nbval-ignore-output"]
for found in stored:
    for name, by_attack in found.baseline.metrics["accuracy"].items():
        for attack, summary in by_attack.items():
            for warning in summary["warnings"]:
                print(f"{found.plan.name}, {name}, {attack}: {warning}")
first = algorithm_1.plans(profile)[0].pair.robust
robust, test = networks.trained(first)[0], networks.test_images(first, 100)
report = attacks.sanity(robust, test.images, test.labels, eps_values=(0.02, 0.1, 0.3, 0.5), queries=200)
found = ", ".join(
    f"{item.attack} at {item.eps:g}: {100 * item.accuracy:.0f} %" for item in report.evaluations
)
print(f"{first.label} on {first.dataset}: {found}; findings: {'; '.join(report.findings) or 'none'}")

# %% [markdown]
# ## What is not known
#
# Attacked accuracy is an upper bound on robust accuracy. The trials of one row share a pair of networks, and
# on CIFAR-10 few pairs have been run: how much pairs differ is open there. On digits five pairs give the
# interval.
#
# ## Checks

# %%
table_1 = tables.printed(1)
wrong = [row for row in table_1 if abs(row["acc_tilde"] - row["acc_star"] - row["diff"]) > 0.011]
print(
    f"printed differences that are not Acc~ - Acc*: {[(r['network'], r['dataset'], r['n_fb']) for r in wrong]}"
)
assert len(table_1) == 8 and all(row["acc_tilde"] >= row["acc_star"] for row in table_1)
print("every printed row reaches Acc*: ok")
ours = [row for row in rows if row["source"].startswith("ours")]
assert all(row["n"] >= 100 and len(row["rho_n"]) == 2 and row["cap"] is not None for row in ours)
print("every row of ours has its n, its shuffled controls and its cap: ok")
assert all(row["acc_sr"] <= row["acc_tilde"] for row in ours)
print("fine-tuning never lowered the robust accuracy of the semirobust network: ok")
for found in stored:
    star = found.baseline.metrics["accuracy"]["robust"]
    assert star["autoattack"]["interval"][0] <= star["pgd"]["interval"][1]
print("AutoAttack accuracy is not above PGD accuracy beyond their intervals: ok")
assert all(row["interval"][0] <= 0 <= row["interval"][1] for row in long if row["n_fb"] == 4)
print("trained until validation stops, an f_b of 4 layers ends level with Acc*: ok")
