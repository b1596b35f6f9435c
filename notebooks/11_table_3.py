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
# # Table 3: clean images, FGSM and PGD, and what the printed tables say of the paper's own sentences
#
# Algorithm 1 again, with $Acc^*$, $Acc_{sr}$ and $\widetilde{Acc}$ under three weaker attacks, printed and ours. Then every sentence of the paper
# about these numbers (sections 3.5 and B.2) is counted in the printed rows of Tables 1 and 3 themselves: most hold, with exceptions that are named; one fails under
# AutoAttack, one for the last layer, and one is upside down. Last, what is common to the printed tables and ours: fine-tuning $f_b$ brings most of the robustness back, and seldom all of it.

# %% tags=["parameters"]
profile = "quick"

# %%
from itertools import pairwise, product

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import experiments, figures, paths
from semirobust.experiments import algorithm_1, tables

figures.use_style()
paths.check_profile(profile)
profiles = list(dict.fromkeys([profile, "reference", "paper"]))
for plan in algorithm_1.plans(profile):
    algorithm_1.run_plan(plan, profile)

# %% [markdown]
# ## The rows, printed and ours
#
# Columns, readings and brackets are those of [notebook 10](10_table_1.ipynb). The difference of a printed row has no interval: it is the largest of
# ten trials, chosen on the test set. In the *sound* reading held-out images choose the epoch, and the interval is that of the paired difference on the
# same test images.

# %% tags=["nbval-ignore-output"]
rows = tables.side_by_side(profiles, ["none", "fgsm", "pgd"])
display(Markdown(tables.as_markdown(rows)), Markdown(tables.scales(rows)))

# %% [markdown]
# ## Does all of the robustness come back?
#
# Section 3.5: "many of the experiments for Algorithm 1 ... achieve full network robustness"; B.2: far fewer do on FGSM or PGD. One point is one row of Table 1
# or 3: the best accuracy of $(f_a^*, \tilde f_b)$ less that of $(f_a^*, f_b^*)$.

# %%
ATTACKS = {"none": "clean", "fgsm": "FGSM", "pgd": "PGD", "autoattack": "AutoAttack"}
printed = tables.printed_rows(list(ATTACKS))
for attack, name in ATTACKS.items():
    differences = [row["difference"] for row in printed if row["attack"] == attack]
    reached = sum(difference >= 0 for difference in differences)
    print(
        f"{name:10s} {reached} of {len(differences)} printed rows reach Acc*, median {np.median(differences):+.2f} points"
    )


# %%
def draw_differences(axis, rows, colour, shift, label):
    """Differences by attack, f_b of 4 layers as circles and of 12 as squares; intervals where there are any."""
    for n_fb, marker, side in ((4, "o", -0.04), (12, "s", 0.04)):
        own = [row for row in rows if row["n_fb"] == n_fb]
        nudges = [0.012 * (number % 4 - 1.5) if len(own) > len(ATTACKS) else 0 for number in range(len(own))]
        x = [
            list(ATTACKS).index(row["attack"]) + shift + side + nudge
            for row, nudge in zip(own, nudges, strict=True)
        ]
        y = np.array([row["difference"] for row in own])
        ends = [row["interval"] for row in own]
        bars = None if None in ends else abs(np.array(ends).T - y)
        filled = None if n_fb == 4 else "none"
        style = {"fmt": marker, "ms": 5, "capsize": 2, "color": figures.COLORS[colour], "mfc": filled}
        axis.errorbar(x, y, bars, label=f"{label}, {n_fb} layers", **style)


# %% tags=["nbval-ignore-output"]
stored = experiments.stored_outcomes("algorithm_1", profile)
fig, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
draw_differences(axis, printed, "printed", -0.25, "printed, all networks")
for (where, found), colour, shift in zip(stored, ("ours", "other", "clean"), (0.0, 0.12, 0.24), strict=False):
    sound = tables.our_rows(found, list(ATTACKS), reading="sound", profile=where)
    draw_differences(axis, sound, colour, shift, f"ours, {where}, {found.plan.name}")
axis.axhline(0, color="black", lw=0.8)
axis.set_xticks(range(len(ATTACKS)), list(ATTACKS.values()))
axis.set(
    ylabel=r"$\widetilde{Acc} - Acc^*$ (points)",
    title="Only under AutoAttack do all printed rows reach $Acc^*$",
)
fig.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2, title="size of $f_b$")
sources = [record for _, found in stored for record in found.records]
figures.save_figure(
    fig, "11_differences", profile=profile, sources=sources, notebook="11_table_3", data=printed
)
plt.show()

# %% [markdown]
# ## The sentences about accuracy, in the printed rows
#
# * **A**, B.2: "Larger semirobust subnetwork $f_a^*$ sizes consistently yielded higher values" of $\widetilde{Acc}$ (4 layers of $f_b$ against 12), with
#   "a few cases in PGD" the other way.
# * **B**: an attack that is stronger leaves less: clean $\ge$ FGSM $\ge$ PGD $\ge$ AutoAttack for $Acc^*$ of one network. It is no sentence of the paper; it is
#   what the numbers must satisfy if each attack was run on the same networks with comparable effort.
# * **C**: the printed difference is $\widetilde{Acc} - Acc^*$, up to rounding.


# %%
def key(row, *names):
    return tuple(row[name] for name in names)


table = {key(row, "attack", "network", "dataset", "n_fb"): row for row in printed}
settings = list(product(("resnet18", "wideresnet34_10"), ("cifar10", "cifar100")))


def count(title, cases):
    """One line: in how many of the (name, holds) cases it holds, and the names of the exceptions."""
    cases = list(cases)
    held = sum(holds for _, holds in cases)
    usual = 2 * held >= len(cases)
    rest = ", ".join(name for name, holds in cases if holds != usual)
    print(f"{title}: {held} of {len(cases)}" + (f" ({'not' if usual else 'only'} {rest})" if rest else ""))
    return held, len(cases)


# %%
def accuracies(first, second, column):
    """(setting, whether the first row has the larger accuracy); a row is (attack, size of f_b)."""
    for where in settings:
        rows = [table[attack, *where, n_fb] for attack, n_fb in (first, second)]
        yield " ".join(where), rows[0][column] > rows[1][column]


order = list(ATTACKS)
larger = {
    a: count(f"A, {name}: f_b of 4 layers above f_b of 12", accuracies((a, 4), (a, 12), "acc_tilde"))
    for a, name in ATTACKS.items()
}
ordered = [
    count(f"B, {ATTACKS[weak]} above {ATTACKS[strong]}", accuracies((weak, 4), (strong, 4), "acc_star"))
    for weak, strong in pairwise(order)
]

# %%
ROUNDING = {True: 0.016, False: 0.106}  # accuracies are printed to 0.01 in Table 1 and to 0.1 in Table 3
errors = {k: abs(row["acc_tilde"] - row["acc_star"] - row["difference"]) for k, row in table.items()}
within = ((" ".join(map(str, k)), error <= ROUNDING[k[0] == "autoattack"]) for k, error in errors.items())
arithmetic = count("C, differences", within)

# %% [markdown]
# **A** holds without exception on clean images and under FGSM, in half of the settings under PGD, and in *one of four* under AutoAttack, the attack of
# Table 1: there the smaller $f_a^*$ ends higher. **B** fails for two of the four networks at the last step: ResNet-18 is more accurate under AutoAttack than under PGD, on both data
# sets. AutoAttack starts with a gradient attack that is at least as strong, so the two columns cannot be the same networks at comparable effort; notebook 10
# measures what the ten steps of the library's AutoAttack account for.
#
# ## The sentences about dependence, in the printed rows
#
# * **D**, B.2: "similar $\rho$ values across different attacks".
# * **E**, B.2: "smaller sizes of $f_b$ yielding higher $\rho$ values for a given layer".
# * **F**, B.2: "lower values being reported for CIFAR-100 and ResNet-18".
# * **G**, 3.5: "for deeper layers in the network within $\tilde f_b$, $\rho$ tends to take higher values".

# %%
RHO = ("rho_n", "rho_n3", "rho_n7", "rho_n11")


def pairs(first, second, names=RHO):
    """(name, first, second) of each dependence that both rows print."""
    for name in names:
        if first[name] is not None and second[name] is not None:
            yield name, first[name], second[name]


def spread(attacks):
    """The largest difference of one dependence between the attacks, and where it is."""
    found = []
    for net, data, n_fb, name in product(*(set(part) for part in zip(*settings, strict=True)), (4, 12), RHO):
        values = [table[attack, net, data, n_fb][name] for attack in attacks]
        values = [value for value in values if value is not None]
        if values:
            found.append((max(values) - min(values), f"{name} {net} {data} {n_fb}"))
    return max(found)


for attacks in (order[:3], order):
    widest, place = spread(attacks)
    print(f"D, {', '.join(ATTACKS[a] for a in attacks)}: at most {widest:.2f} bits apart ({place})")

# %%
SIZES, NETWORKS, DATA = (4, 12), ("resnet18", "wideresnet34_10"), ("cifar10", "cifar100")
smaller = count(
    "E, f_b of 4 layers above f_b of 12",
    (
        (f"{name} {' '.join(w)} {ATTACKS[a]}", four > twelve)
        for a, w in product(ATTACKS, settings)
        for name, four, twelve in pairs(table[a, *w, 4], table[a, *w, 12])
    ),
)


def fewer_classes(name):
    """(network, size and attack, whether CIFAR-100 has less of one dependence)."""
    for a, net, n_fb in product(ATTACKS, NETWORKS, SIZES):
        ten, hundred = (table[a, net, data, n_fb] for data in DATA)
        for _, more, less in pairs(ten, hundred, (name,)):
            yield f"{net} {n_fb} {ATTACKS[a]}", less < more


classes = {name: count(f"F, {name}: CIFAR-100 below CIFAR-10", fewer_classes(name)) for name in RHO}

# %%
networks = count(
    "F, ResNet-18 below WideResNet",
    (
        (f"{name} {data} {n_fb} {ATTACKS[a]}", narrow < wide)
        for a, data, n_fb in product(ATTACKS, DATA, SIZES)
        for name, narrow, wide in pairs(*(table[a, net, data, n_fb] for net in NETWORKS))
    ),
)
deeper = count(
    "G, the later layer of two higher",
    (
        (f"{later} {' '.join(map(str, where))}", row[later] > row[earlier])
        for where, row in table.items()
        for later, earlier in pairwise(RHO)
        if row[later] is not None and row[earlier] is not None
    ),
)

# %% [markdown]
# **D** and **E** hold, with AutoAttack and CIFAR-100 as the exceptions. **F** holds for the earlier layers and fails for $\rho_n$, the layer furthest below the cap of
# the estimator: of one class CIFAR-100 has 100 test images and CIFAR-10 1,000, which caps the estimate at 6.64 and 9.97 bits. [Notebook 08](08_edge.ipynb) shows what
# fewer images alone do to it. **G** is upside down, or "deeper" means nearer to the input: the later of two layers has the *lower* value nearly everywhere. That is what a
# class-conditional measure does where classes collapse: the more a layer forgets of everything but the label, the less it has in common with the one before, given the label.
#
# ## The same sentences in our rows
#
# Means over the trials of the sound reading. AutoAttack is run on fewer images than the other attacks.

# %% tags=["nbval-ignore-output"]
for where, found in stored:
    own = tables.our_rows(found, order, reading="sound", profile=where)
    by = {key(row, "attack", "n_fb"): row for row in own}
    print(f"{where}, {found.plan.name}")
    above = ((ATTACKS[a], by[a, 4]["acc_tilde"] > by[a, 12]["acc_tilde"]) for a in order)
    count("  A, f_b of 4 layers above f_b of 12", above)
    falling = (
        (f"{ATTACKS[s]} after {ATTACKS[w]}", by[w, 4]["acc_star"] >= by[s, 4]["acc_star"])
        for w, s in pairwise(order)
    )
    count("  B, each attack leaves at most what the weaker left", falling)
    four, twelve = by["pgd", 4], by["pgd", 12]
    count("  E, f_b of 4 layers above f_b of 12", ((n, f[0] > t[0]) for n, f, t in pairs(four, twelve)))
    steps = [(a, twelve[a][0] > twelve[b][0]) for a, b in pairwise(RHO)]
    count("  G, the later layer of two higher, f_b of 12 layers", steps)
    shares = [f"{name} {100 * twelve[name][1] / twelve[name][0]:.0f} %" for name in RHO]
    print(f"  share of the estimate that shuffled pairs have too: {', '.join(shares)}")

# %% [markdown]
# ## What to believe
#
# * Most of the robustness comes back and, but for AutoAttack as printed, seldom all of it. As a printed difference is the best of ten trials on the test set, "reached" is the
#   generous word.
# * The printed AutoAttack column does not fit the printed PGD column, and Table 1 rests on it.
# * What the paper reads from $\rho$ across data sets and layers is in its numbers except for the last layer and for "deeper"; what causes it is another question, which
#   the cap and the shuffled control answer in notebooks 08 and 09.
#
# ## Checks

# %%
assert len(printed) == 32 and arithmetic == (31, 32)
print("one printed difference is not that of its columns: ok")
assert [larger[attack][0] for attack in ATTACKS] == [4, 4, 2, 1]
print("a larger f_a* ends higher on clean and FGSM images, not under PGD and AutoAttack: ok")
assert ordered == [(4, 4), (4, 4), (2, 4)]
print("two printed networks are more accurate under AutoAttack than under PGD: ok")
assert classes["rho_n"][0] < classes["rho_n"][1] / 2 and all(
    classes[name][0] == classes[name][1] for name in RHO[1:]
)
print("CIFAR-100 has less dependence in all printed pairs of layers but the last: ok")
assert deeper[0] <= deeper[1] / 10
print("later layers have less dependence, not more: ok")
