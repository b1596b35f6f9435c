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
# # Table 1: robust accuracy regained by fine-tuning $f_b$, and the dependence beside it
#
# Printed and measured side by side: the accuracy $Acc^*$ of the adversarially trained network $(f_a^*, f_b^*)$ under AutoAttack,
# $Acc_{sr}$ of the semirobust $(f_a^*, f_b)$, and $\widetilde{Acc}$ after $f_b$ was fine-tuned with $f_a^*$ frozen. Every number of ours
# comes from a stored result; every dependence of ours is followed by its shuffled control in brackets, and by the cap of the estimator.
# The rows of Table 3 (clean, FGSM, PGD) are in [notebook 11](11_table_3.ipynb).

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import experiments, figures, paths
from semirobust.experiments import algorithm_1, tables

figures.use_style()
paths.check_profile(profile)
plans = algorithm_1.plans(profile)

# %% [markdown]
# ## How to read the rows
#
# * *printed*: the paper's numbers, on 10,000 test images. Two things about them do not fit: 39.45 % under AutoAttack (Table 1) is above
#   38.5 % under PGD (Table 3) for one network, although AutoAttack is the stronger attack; and 34.11 % (Table 2) is another value of
#   the same quantity.
# * *ours, printed reading*: the algorithm as printed. The test accuracy stops a trial, the largest one is reported, and $\rho$ is the
#   smallest value among the trials that succeeded, or the largest of all where none did.
# * *ours, sound reading*: PGD accuracy on held-out training images stops a trial; accuracy and $\rho$ are means over all trials. The
#   interval is that of the paired difference on the same test images; it says nothing about other pretrained networks.
#
# Before comparing with the paper look at the scales below the table. AutoAttack is run where PGD accuracy stops a trial (the paper ran it after
# every epoch). Our PGD leaves an image at the first step that breaks it, which is at least as strong as taking all ten steps.
# Dependence is estimated class by class on the PGD-attacked test images, so *cap* is $\log_2$ of the images of a class.

# %% tags=["nbval-ignore-output"]
outcomes = [algorithm_1.run_plan(plan, profile) for plan in plans]
profiles = list(dict.fromkeys([profile, "reference", "paper"]))
rows = tables.side_by_side(profiles, ["autoattack"])
display(Markdown(tables.as_markdown(rows)), Markdown(tables.scales(rows)))

# %% tags=["nbval-ignore-output"]
print("not run: " + ("; ".join(tables.not_run(profiles)) or "nothing"))

# %% [markdown]
# ## The table as a picture
#
# For each size of $f_b$: where the semirobust network starts, where fine-tuning takes it, and the robust
# network it is measured against. The bars are Wilson intervals.


# %%
def groups(outcome, attack):
    """(label, colour, summaries for each size of f_b) of the three kinds of network."""
    accuracy, sizes = outcome.baseline.metrics["accuracy"], outcome.plan.n_fb
    before = [[accuracy[f"semirobust_{n}"][attack]] for n in sizes]
    after = [
        [
            tables.summary_at(r.metrics, r.metrics["stops"]["sound"], attack, "sound")
            for r in outcome.trials[n]
        ]
        for n in sizes
    ]
    yield "semirobust $(f_a^*, f_b)$", "attacked", before
    yield r"fine-tuned $(f_a^*, \tilde f_b)$, each trial", "ours", after
    yield "robust $(f_a^*, f_b^*)$", "robust", [[accuracy["robust"][attack]] for _ in sizes]


# %%
def draw_attack(axis, outcome, attack):
    """Accuracies under one attack with their Wilson intervals."""
    for number, (label, colour, summaries) in enumerate(groups(outcome, attack)):
        for where, group in enumerate(summaries):
            x = where + 0.27 * (number - 1) + 0.06 * (np.arange(len(group)) - (len(group) - 1) / 2)
            y = 100 * np.array([summary["accuracy"] for summary in group])
            ends = 100 * np.array([summary["interval"] for summary in group])  # [trials, 2]
            style = {"fmt": "o", "ms": 4, "capsize": 2, "color": figures.COLORS[colour]}
            axis.errorbar(x, y, abs(ends.T - y), label=label if where == 0 else None, **style)
    axis.set_xticks(range(len(outcome.plan.n_fb)), [f"{n} layers" for n in outcome.plan.n_fb])
    title = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD-10", "autoattack": "AutoAttack"}[attack]
    axis.set(title=title, ylim=(0, 100), xlim=(-0.5, len(outcome.plan.n_fb) - 0.5), xlabel="size of $f_b$")


# %%
def figure_table(outcome):
    """All four attacks side by side."""
    fig, axes = plt.subplots(1, 4, figsize=(9.6, 3.4), sharey=True, layout="constrained")
    for axis, attack in zip(axes, ("none", "fgsm", "pgd", "autoattack"), strict=True):
        draw_attack(axis, outcome, attack)
    axes[0].set_ylabel("accuracy (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    plan = outcome.plan
    sizes = f"{plan.sizes.test} test images, AutoAttack on {plan.sizes.autoattack}"
    fig.suptitle(f"Fine-tuning $f_b$ alone: {plan.pair.robust.label}, {plan.pair.robust.dataset} ({sizes})")
    return fig


# %% tags=["nbval-ignore-output"]
shown = experiments.stored_outcomes("algorithm_1", profile)
for where, stored in shown:
    fig, name = figure_table(stored), f"10_table_1_{stored.plan.name}"
    numbers = tables.our_rows(stored, ["none", "fgsm", "pgd", "autoattack"], reading="sound", profile=where)
    figures.save_figure(fig, name, profile=where, sources=stored.records, data=numbers, notebook="10_table_1")
plt.show()

# %% [markdown]
# ## AutoAttack with 10 steps
#
# AutoAttack as published runs its gradient parts for 100 steps. The class of that name in torchattacks 3.5.1, the library the paper
# names, runs them for 10. The robust networks under PGD, under AutoAttack with 10 steps, and with the steps and queries that the
# tables use:

# %% tags=["nbval-ignore-output"]
for where, stored in shown:
    accuracy, sizes = stored.baseline.metrics["accuracy"]["robust"], stored.plan.sizes
    print(f"{where}, {stored.plan.name}: AutoAttack of {sizes.steps} steps and {sizes.queries} queries")
    for attack in ("pgd", "autoattack-10", "autoattack"):
        summary = accuracy[attack]
        low, high = (100 * bound for bound in summary["interval"])
        print(
            f"  {attack:14s} {100 * summary['accuracy']:5.1f} % [{low:.1f}, {high:.1f}], n = {summary['n']}"
        )

# %% [markdown]
# ## Signs of gradient masking
#
# An evaluation warns where gradients vanish or a black-box attack beats the gradient attacks. What was stored:

# %% tags=["nbval-ignore-output"]
for where, stored in shown:
    for name, found in stored.baseline.metrics["accuracy"].items():
        for attack, summary in found.items():
            for warning in summary["warnings"]:
                print(f"{where}, {stored.plan.name}, {name}, {attack}: {warning}")

# %% [markdown]
# ## What is certain and what is not
#
# Attacked accuracy is an upper bound on robust accuracy: a better attack may lower it. The trials of one row
# share their two pretrained networks, so their spread says nothing about other pretrained networks. Three
# trials estimate no minimum: the $\rho$ of the printed reading is the smallest of a few numbers.

# %% [markdown]
# ## Checks

# %%
table_1 = tables.printed(1)
assert (
    len(table_1) == 8 and abs(table_1[0]["acc_tilde"] - table_1[0]["acc_star"] - table_1[0]["diff"]) < 0.011
)
wrong = [row for row in table_1 if abs(row["acc_tilde"] - row["acc_star"] - row["diff"]) > 0.011]
print(
    f"printed differences that are not Acc~ - Acc*: {[(row['network'], row['dataset'], row['n_fb']) for row in wrong]}"
)
for outcome in outcomes:
    accuracy = outcome.baseline.metrics["accuracy"]["robust"]
    assert accuracy["autoattack"]["interval"][0] <= accuracy["pgd"]["interval"][1]
print("AutoAttack accuracy is not above PGD accuracy beyond their intervals: ok")
ours = [row for row in rows if row["source"].startswith("ours")]
assert ours and all(row["n"] >= 100 and len(row["rho_n"]) == 2 and row["cap"] is not None for row in ours)
print("every row of ours has its n, its shuffled controls and its cap: ok")
assert all(row["acc_sr"] <= row["acc_tilde"] for row in ours)
print("fine-tuning never lowered the robust accuracy of the semirobust network: ok")
