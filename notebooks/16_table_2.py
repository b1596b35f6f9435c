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
# # Table 2: the linear readout keeps its accuracy only against the attack on another network
#
# The paper replaces $f_b^*$ by a linear map of all layers of $f_a^*$ and finds accuracies close to, and under AutoAttack 14 points above, those
# of the network. Those numbers are one cell of four: fitted on the scored images, under an attack made for $(f_a^*, f_b^*)$. Here
# are the printed numbers, ours in the same cell, and ours in the other three, with controls that can see a leak.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import experiments, figures, paths, runs, statistics
from semirobust.experiments import algorithm_2, table_2, verdicts

figures.use_style()
paths.check_profile(profile)

# %% [markdown]
# ## The printed table
#
# $\widetilde{Acc}$ rises from 40.4 % under PGD to 48.5 % under AutoAttack, while $Acc^*$ falls from 38.6 % to 34.1 %. A stronger attack that
# leaves more images right is no attack on the network that is scored.

# %%
printed = table_2.printed_rows()
for row in printed:
    if row["n_fa"] == 17:
        print(
            f"{row['attack']:10s} Acc* {row['acc_star']:.2f}, Acc~ {row['acc_tilde']:.2f} ({row['difference']:+.2f})"
        )

# %% [markdown]
# ## Side by side
#
# * *Acc\**: $(f_a^*, f_b^*)$ on images attacked for it. *Acc~*: the printed cell; its difference has the paired interval.
# * *fitted on others*: the readout fitted on as many other images. *attacked itself*: the attack made for the readout. *both*: fitted on others
#   and attacked itself, the only cell to compare with what the network keeps (*Acc\* attacked itself*).
# * *random*: Gaussian $\lambda$, the paper's control. *permuted*: fitted to the targets of other images, and scored on the labels of
#   those: chance, unless targets leak. *noise*: Gaussian features of the same size, fitted to the labels. All on the images fitted,
#   the last two by Algorithm 2.
#
# Accuracies are in per cent; under attack they are upper bounds on robust accuracy.

# %% tags=["nbval-ignore-output"]
for plan in table_2.plans(profile):
    table_2.run_plan(plan, profile)
outcomes = {
    (where, found.plan.name): found for where, found in experiments.stored_outcomes("table_2", profile)
}
profiles = list(dict.fromkeys([profile, "reference", "paper"]))


def side_by_side(readout, *, with_printed):
    rows = list(printed) if with_printed else []
    for (where, _), outcome in outcomes.items():
        rows += table_2.our_rows(outcome, readout, profile=where)
    order = table_2.ATTACKS.index
    rows.sort(key=lambda row: (order(row["attack"]), -row["n_fa"]))
    return runs.markdown_table(rows, table_2.COLUMNS, table_2.FORMATS)


display(Markdown(side_by_side("algorithm_2", with_printed=True)))
display(Markdown("\n".join(f"* ours, {w}: {table_2.scale(o.plan)}." for (w, _), o in outcomes.items())))
print("not run: " + ("; ".join(table_2.not_run(profiles)) or "nothing"))

# %% [markdown]
# ## The same with the true labels as targets
#
# The text takes the network's outputs as targets (above) and speaks of predicting labels. With labels the leak is plain: compare
# *Acc~* with *fitted on others*, and look at *permuted*. (Under AutoAttack there are fewer images, so fewer batches, and more leaks.)

# %% tags=["nbval-ignore-output"]
display(Markdown(side_by_side("algorithm_2_labels", with_printed=False)))

# %% [markdown]
# ## The best linear readout
#
# Ridge on the outputs, its strength chosen on a fifth of the images it is fitted on, comes closest to the network on unattacked images.
# Attacked itself it is the least robust: it leans on whatever direction of the features helps.

# %% tags=["nbval-ignore-output"]
display(Markdown(side_by_side("ridge", with_printed=False)))


# %% [markdown]
# ## The four cells as a picture

# %%
CELLS = [  # colour: whom the attack is made for; filled: fitted on the images scored
    (
        "scored",
        "transfer",
        "ours",
        "s",
        "full",
        "printed cell: fitted on the scored, attack made for the network",
    ),
    ("other", "transfer", "ours", "s", "none", "fitted on others, attack made for the network"),
    ("scored", "adaptive", "attacked", "o", "full", "fitted on the scored, attacked itself"),
    ("other", "adaptive", "attacked", "o", "none", "fitted on others, attacked itself"),
]


# %%
def draw_attack(axis, outcome, attack, readout):
    """The four cells under one attack, for each size of f_a*, beside the network."""
    cells = [outcome.row(attack, n_fa)["readouts"][readout] for n_fa in (9, 13, 17)]
    star = outcome.star(attack)
    low, high = (100 * bound for bound in star["interval"])
    axis.axhspan(low, high, color=figures.COLORS["robust"], alpha=0.15, lw=0)
    label = "$Acc^*$ of the network, 95 % interval"
    axis.axhline(100 * star["accuracy"], color=figures.COLORS["robust"], label=label)
    for number, (fit, made, colour, marker, fill, label) in enumerate(CELLS):
        summaries = [cell[fit][made] for cell in cells]
        y = 100 * np.array([summary["accuracy"] for summary in summaries])
        ends = 100 * np.array([summary["interval"] for summary in summaries])
        style = {"fmt": marker, "fillstyle": fill, "ms": 5, "capsize": 2, "color": figures.COLORS[colour]}
        axis.errorbar(np.arange(3) + 0.16 * (number - 1.5), y, abs(ends.T - y), label=label, **style)
    axis.set_xticks(range(3), ["9", "13", "17"])
    title = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD-10", "autoattack": "AutoAttack"}[attack]
    axis.set(title=title, xlabel="layers of $f_a^*$", xlim=(-0.5, 2.5), ylim=(0, 100))


# %%
def figure_cells(outcome, readout="algorithm_2"):
    fig, axes = plt.subplots(1, 4, figsize=(9.6, 4.0), sharey=True, layout="constrained")
    for axis, attack in zip(axes, table_2.ATTACKS, strict=True):
        draw_attack(axis, outcome, attack, readout)
        if outcome.plan.network.dataset == "cifar10":
            y = {row["n_fa"]: row["acc_tilde"] for row in printed if row["attack"] == attack}
            style = {
                "ms": 6,
                "color": figures.COLORS["printed"],
                "label": "printed $\\widetilde{Acc}$ (width 64)",
            }
            axis.plot(range(3), [y[n_fa] for n_fa in (9, 13, 17)], "x", **style)
    axes[0].set_ylabel("accuracy (%)")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    network, sizes = outcome.plan.network, outcome.plan.sizes
    where = f"{network.label}, {network.dataset}, {sizes.test:,} images, AutoAttack {sizes.autoattack:,}"
    fig.suptitle(f"Attacked itself, the readout of Algorithm 2 falls below the network\n({where})")
    return fig


# %% tags=["nbval-ignore-output"]
for (where, name), outcome in outcomes.items():
    numbers = table_2.our_rows(outcome, "algorithm_2", profile=where)
    sources = list(outcome.records.values())
    fig = figure_cells(outcome)
    figures.save_figure(
        fig, f"16_table_2_{name}", profile=where, sources=sources, data=numbers, notebook="16_table_2"
    )
plt.show()

# %% [markdown]
# ## Where the points above $Acc^*$ come from
#
# Take the printed cell apart: leave out each image's own batch (the same readouts, no leak), fit on other images, then attack
# the readout itself. In points of accuracy above $(f_a^*, f_b^*)$ under the same attack:

# %% tags=["nbval-ignore-output"]
for (where, name), outcome in outcomes.items():
    print(f"{where}, {name}, f_a* of 17 layers")
    for attack in table_2.ATTACKS:
        cells = outcome.row(attack, 17)["readouts"]["algorithm_2"]
        star, own = (outcome.star(attack, made)["accuracy"] for made in ("transfer", "adaptive"))
        shown = [cells["scored"]["transfer"], cells["scored"]["out_of_batch"], cells["other"]["transfer"]]
        gains = [100 * (summary["accuracy"] - star) for summary in shown]
        both = 100 * (cells["other"]["adaptive"]["accuracy"] - own)
        print(
            f"  {attack:10s} printed cell {gains[0]:+6.1f}, own batch left out {gains[1]:+6.1f}, "
            f"fitted on others {gains[2]:+6.1f}, and attacked itself {both:+6.1f}"
        )

# %% [markdown]
# What is different about AutoAttack? It leaves alone what is misclassified, and leaves an image where it first breaks it, just beyond
# the boundary of *its* network. The PGD of the table takes all its steps on every image. So run one and the same PGD with both rules
# to end; $Acc^*$ is the same, and only the images differ that the readout gets to see.


# %% tags=["nbval-ignore-output"]
def gain(cells, name):
    """Points above (f_a*, f_b*) with their 95 % interval."""
    pair = verdicts.verdicts(cells[name]), verdicts.verdicts(cells["star"])
    middle, low, high = (100 * share for share in statistics.paired_difference(*pair))
    return f"{middle:+5.1f} [{low:+.1f}, {high:+.1f}]"


for (where, name), outcome in outcomes.items():
    for images, record in outcome.stopping.items():
        print(f"{where}, {name}, {images} images in batches of {outcome.plan.sizes.batch}")
        for rule, cells in record.metrics.items():
            named = {
                "scored": "printed cell",
                "out_of_batch": "own batch left out",
                "other": "fitted on others",
            }
            shown = ", ".join(f"{label} {gain(cells, key)}" for key, label in named.items())
            print(f"  {rule.replace('_', ' '):13s} {shown}")

# %% [markdown]
# ## Signs of gradient masking
#
# Is a readout's accuracy under its own attack too high because its gradients mislead? What the evaluations noted:

# %% tags=["nbval-ignore-output"]
notes = []
for (where, name), outcome in outcomes.items():
    for attack, record in outcome.records.items():
        for row in record.metrics["rows"]:
            for readout, cells in row["readouts"].items():
                for fit in algorithm_2.FITS:
                    label = f"{where}, {name}, {attack}, {row['n_fa']} layers, {readout}, fitted on {fit}"
                    notes += [f"{label}: {warning}" for warning in cells[fit]["adaptive"]["warnings"]]
print("\n".join(notes) or "none")

# %% [markdown]
# ## What to believe
#
# * A linear map of the layers of a robust network predicts nearly what the network predicts, on new images too. That part of the claim holds.
# * It is not as robust. Attacked itself, it loses many times what it loses in the printed cell, and the fewer layers it reads the more.
# * That $\widetilde{Acc}$ rises above $Acc^*$ under AutoAttack comes in part from where AutoAttack stops, and in part from the leak (few
#   batches). PGD with the same rule to end shows a part of the gain, and PGD without it none; the rest of the printed +14.4 points is open.
#
# Not settled here: training $\lambda$ adversarially might give a robust readout; Algorithm 2 does not. Nor do least-squares weights that
# fail show that there are none: Definition 1 asks for existence.
#
# ## Change one number and run again
#
# The same figure for another readout: `"ridge"` or `"algorithm_2_labels"` (where AutoAttack was aimed at it).

# %% tags=["nbval-ignore-output"]
chosen = "ridge"
for (where, name), outcome in outcomes.items():
    rows = [row for row in table_2.our_rows(outcome, chosen, profile=where) if row["n_fa"] == 17]
    for row in rows:
        print(
            f"{where}, {name}, {row['attack']:10s} printed cell {row['acc_tilde']:.1f} %, "
            f"fitted on others and attacked itself {row['other_adaptive']:.1f} %, network {row['star_adaptive']:.1f} %"
        )

# %% [markdown]
# ## Checks

# %%
assert all(abs(row["acc_tilde"] - row["acc_star"] - row["difference"]) < 0.011 for row in printed)
print("printed differences are Acc~ - Acc*: ok")
every = [row for key, o in outcomes.items() for row in table_2.our_rows(o, "algorithm_2", profile=key[0])]
attacked = [row for row in every if row["attack"] != "none"]
assert all(row["other_adaptive"] < row["other_transfer"] for row in attacked)
assert all(row["scored_adaptive"] < row["acc_tilde"] for row in attacked)
print("the attack made for the readout is stronger than the one made for the network, in every row: ok")
assert all(row["other_adaptive"] < row["star_adaptive"] - 5 for row in attacked)
print("fitted on others and attacked itself, every readout is over five points below the network: ok")
assert all(row["noise"] > 95 for row in every)
assert all(row["random"] < 20 for row in every)
print("noise features score above 95 % on the images fitted, where random weights are near chance: ok")
