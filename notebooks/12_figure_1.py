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
# # Figure 1: the dependence is the same whatever the attack and the size of $f_b$, and whether or not the network is robust
#
# The paper plots $\rho_j$ after fine-tuning for several sizes of $f_b$ (left) and several attacks (right), finds it "largely consistent", and takes that for a
# property of robust networks. Here the same two panels, each with what the figure leaves out: the value for pairs that were shuffled within their class, which have no
# dependence left, and the same network *before* fine-tuning, which is not robust. Both are as consistent.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np

from semirobust import figures, paths
from semirobust.experiments import figure_1

figures.use_style()
paths.check_profile(profile)
NAMES = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack"}
ATTACK_COLOURS = {"none": "clean", "fgsm": "other", "pgd": "ours", "autoattack": "attacked"}
SIZE_COLOURS = {4: "robust", 8: "control", 12: "ours"}

# %% [markdown]
# ## What is measured
#
# For $f_b$ of 4, 8 and 12 layers: $(f_a^*, \tilde f_b)$ of the first trial of Algorithm 1 after its last epoch, and $(f_a^*, f_b)$ before it. Each of the two is
# attacked anew by each attack, and on those images
#
# $$I_j=\sum_y\pi(y)\,I\big(f^{(j-1)};f^{(j)}\mid y\big)$$
#
# is estimated along $f_b$, in bits, with the mean of five shuffles as its control. The paper averages over the trials that reach $Acc^*$; at our scale few do, so
# the trial counts whatever it reached, and its accuracy stands below.

# %% tags=["nbval-ignore-output"]
records = {record.config["n_fb"]: record for record in figure_1.run(profile)}
for n_fb, record in sorted(records.items()):
    for when in ("before", "after"):
        found = {attack: record.metrics[when][attack]["accuracy"] for attack in figure_1.ATTACKS}
        shares = [f"{NAMES[attack]} {100 * summary['accuracy']:.1f} %" for attack, summary in found.items()]
        print(f"f_b of {n_fb:2d} layers, {when:6s}: {', '.join(shares)} (n = {record.metrics['n']})")


# %%
def along(record, when, attack, what="bits"):
    """The dependence (or its control) of each pair of layers along f_b, from its first to n."""
    name = {"bits": "bits", "control": "control_bits"}[what]
    return np.array([item[name] for item in record.metrics[when][attack]["dependence"]])


def positions(values):
    """Layers counted from the end: the last pair is 0."""
    return np.arange(len(values)) - len(values) + 1


def draw(axis, record, when, attack, colour, label):
    """One curve, and its control as a dotted one."""
    values, control = along(record, when, attack), along(record, when, attack, "control")
    axis.plot(positions(values), values, "o-", ms=4, color=figures.COLORS[colour], label=label)
    axis.plot(positions(control), control, "x:", ms=4, color=figures.COLORS[colour])


# %%
def finish(axes, title, depth):
    """Common axes: layers from the end of the network, bits; dotted is the control everywhere."""
    axes[0].plot([], [], "x:", color="black", label="shuffled within the class")
    for axis in axes:
        axis.set_xticks(range(1 - depth, 1, 2), [f"n-{-k}" if k else "n" for k in range(1 - depth, 1, 2)])
        axis.set(xlabel="layer $j$ of the pair $(j-1, j)$; $n$ is the output", ylim=(0, None))
    axes[0].set_ylabel("$I_j$ (bits)")
    fig = axes[0].figure
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    fig.suptitle(title)


# %% [markdown]
# ## Left panel: the size of $f_b$
#
# On PGD images. The sizes share the layers that they have in common, so a curve for a smaller $f_b$ is compared with the same layers of a larger one.


# %%
def figure_sizes(records):
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True, layout="constrained")
    for axis, when in zip(axes, ("after", "before"), strict=True):
        for n_fb, record in sorted(records.items()):
            draw(axis, record, when, "pgd", SIZE_COLOURS[n_fb], f"$f_b$ of {n_fb}")
        axis.set_title(f"{when} fine-tuning")
    finish(axes, "Dependence by the size of $f_b$: alike, and alike when not robust", max(records))
    return fig


# %% tags=["nbval-ignore-output"]
shown = {profile: records}
for where in ("reference", "paper"):
    if where != profile and (found := figure_1.stored(where)) is not None:
        shown[where] = {record.config["n_fb"]: record for record in found}
for where, group in shown.items():
    figures.save_figure(
        figure_sizes(group), "12_sizes", profile=where, sources=group.values(), notebook="12_figure_1"
    )
plt.show()
print("also shown: " + (", ".join(where for where in shown if where != profile) or "nothing; not run yet"))

# %% [markdown]
# ## Right panel: the attack
#
# With $f_b$ of 12 layers. An attack that leaves half of the accuracy of another leaves the dependence where it was.


# %%
def figure_attacks(record):
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.6), sharey=True, layout="constrained")
    for axis, when in zip(axes, ("after", "before"), strict=True):
        for attack in figure_1.ATTACKS:
            draw(axis, record, when, attack, ATTACK_COLOURS[attack], NAMES[attack])
        axis.set_title(f"{when} fine-tuning")
    finish(axes, "Dependence by attack: alike, and alike when not robust", record.config["n_fb"])
    return fig


# %% tags=["nbval-ignore-output"]
for where, group in shown.items():
    figures.save_figure(
        figure_attacks(group[12]), "12_attacks", profile=where, sources=[group[12]], notebook="12_figure_1"
    )
plt.show()

# %% [markdown]
# ## How consistent is consistent?
#
# For each pair of layers the largest difference between attacks, and between sizes of $f_b$; their mean over the layers, for the estimate and for its control. Then how
# far fine-tuning moves the estimate, and the share of it that shuffled pairs have too.


# %%
def spread(curves):
    """Mean over layers of the largest difference between curves, on the layers that all have; bits."""
    shared = min(map(len, curves))
    aligned = np.array([curve[-shared:] for curve in curves])
    return float((aligned.max(0) - aligned.min(0)).mean())


# %% tags=["nbval-ignore-output"]
for where, group in shown.items():
    for when in ("after", "before"):
        for what in ("bits", "control"):
            by_attack = spread([along(group[12], when, attack, what) for attack in figure_1.ATTACKS])
            by_size = spread([along(record, when, "pgd", what) for record in group.values()])
            name = {"bits": "estimate", "control": "shuffled"}[what]
            print(f"{where}, {when:6s} {name}: attacks {by_attack:.2f} bits apart, sizes {by_size:.2f}")
    values = {when: along(group[12], when, "pgd") for when in ("after", "before")}
    share = along(group[12], "after", "pgd", "control").sum() / values["after"].sum()
    moved = abs(values["after"] - values["before"]).mean()
    print(
        f"{where}: fine-tuning moves the estimate by {moved:.2f} bits a layer; {100 * share:.0f} % of it is there when shuffled"
    )

# %% [markdown]
# ## What to believe
#
# The printed panels are right as drawings: the curves lie close together. But a number that hardly depends on the attack, on the size of $f_b$ and on whether the pairs are
# shuffled says little about robustness, which depends on the first two very much. What the curves share is the number of images of a class and the widths of the layers, which
# set the estimate ([notebook 08](08_edge.ipynb)).
#
# ## Checks

# %%
rows = [
    item
    for record in records.values()
    for when in ("before", "after")
    for attack in figure_1.ATTACKS
    for item in record.metrics[when][attack]["dependence"]
]
assert len(rows) == 2 * len(NAMES) * sum(figure_1.N_FB)
assert all(
    0 <= row["control_bits"] <= row["cap_bits"] + 1e-9 and row["bits"] <= row["cap_bits"] + 1e-9
    for row in rows
)
print("every dependence has its control and is within its cap: ok")
after, before = (along(records[12], when, "pgd") for when in ("after", "before"))
gained = [records[12].metrics[when]["pgd"]["accuracy"]["accuracy"] for when in ("before", "after")]
assert gained[1] > gained[0] + 0.1 and after.mean() < before.mean() + 0.5
print("fine-tuning makes the network more robust, and at most half a bit more dependent: ok")
assert along(records[12], "after", "pgd", "control").sum() > 0.5 * after.sum()
print("most of the estimate is there for shuffled pairs: ok")
