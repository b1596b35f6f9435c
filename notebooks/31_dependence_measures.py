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
# # Which dependence predicts success? Several do; so does knowing which learning rates are good
#
# The paper asks (its first open question) which measure of dependence between layers tells whether
# fine-tuning $f_b$ behind a robust $f_a^*$ succeeds. Here several measures are logged on every layer of
# $f_b$ at every epoch, in trials that succeed and in trials that fail, and tested with permutations, a
# correction for the number of tests, and fresh trials. Some predict success in fresh trials; nearness to a
# good learning rate, known beforehand, predicts it as well, and between trials of nearly equal rates their
# AUC is close to chance.

# %% tags=["parameters"]
profile = "quick"

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from semirobust import dependence, figures, paths, runs, statistics
from semirobust.dependence import Gaussian, Merging
from semirobust.edge import edge
from semirobust.experiments import prediction, replication
from semirobust.theory import LADDER, corrected_bounds

figures.use_style()
paths.check_profile(profile)
plan = prediction.plans(profile)[0]
LAYERS = ("n-3", "n-2", "n-1", "n")  # of f_b; the pair of layer n is (last before it, output)

# %% [markdown]
# ## The measures
#
# All take the outputs of two layers for the same images, $x$ and $y$, and are read beside a control: the
# same for pairs shuffled (within the class, where the measure is class-conditional). The cap is the largest
# value that 1,000 samples of 512 coordinates allow.

# %%
WORDS = {
    "edge": ("[0.001, cap]", "the paper's choice; any dependence of cells", "in many dimensions: little but n"),
    "ksg": ("any", "smooth dependence in few dimensions", "many dimensions: far too low"),
    "classes": ("[0, cap]", "dependence of 10 clusters", "anything inside a cluster"),
    "conditional_entropy": ("[0, cap]", "what y leaves open of the cells of x; small is dependent", "too small for few samples"),
    "linear_cka": ("[0, 1]", "linear dependence, weighted by variance", "anything not linear; n must exceed d"),
    "hsic": ("0 to about 1/4", "any dependence, given enough samples", "its size has no meaning of its own"),
    "correlation": ("[0, 1]", "linear dependence of single coordinates", "anything not linear, and sums of coordinates"),
    "label_information": ("[0, cap]", "what 10 clusters of one layer know of the label", "information about anything but the label"),
    "sensitivity": ("[0, infinity)", "how far the attack moves one layer", "which way, and whether it matters"),
}  # fmt: skip
caps = {name: measure.cap(1000, 512, 512) for name, measure in dependence.MEASURES.items()}
caps["label_information"] = float(np.log2(10))
units = {name: measure.unit or "none" for name, measure in dependence.MEASURES.items()}
units |= {"label_information": "bits", "sensitivity": "none"}
table = [
    {"measure": name, "unit": units[name], "range": span, "cap": caps.get(name), "sees": sees, "blind": blind}
    for name, (span, sees, blind) in WORDS.items()
]
columns = {key: key for key in ("measure", "unit", "range", "cap", "sees")} | {"blind": "does not see"}
display(Markdown(runs.markdown_table(table, columns, {"cap": ".3f"})))

# %% [markdown]
# What each sees and does not see, on 500 samples: value, and in parentheses the control. The parabola
# $y=x^2+$ noise has no linear correlation; the two last laws have 32 dimensions, one with 6.64 bits of
# information and one with none.

# %%
rng = np.random.default_rng(0)
z, noise = rng.standard_normal((500, 1)), rng.standard_normal((500, 1))
laws = {"line": (z, 0.8 * z + 0.6 * noise), "parabola": (z, z**2 + 0.1 * noise)}
laws |= {"32-d, dependent": Gaussian(32, 0.5).sample(500, rng)}
laws |= {"32-d, independent": Gaussian(32, 0.0).sample(500, rng)}
table = []
for name, measure in dependence.MEASURES.items():
    digits = "z.2f" if measure.unit else "z.3f"
    found = {law: measure(x, y, shuffles=3) for law, (x, y) in laws.items()}
    cells = {law: f"{result.value:{digits}} ({result.control:{digits}})" for law, result in found.items()}
    table.append({"measure": name} | cells)
display(Markdown(runs.markdown_table(table, {"measure": "measure"} | {law: law for law in laws})))

# %% [markdown]
# ## The measure that a theorem needs
#
# A corrected form of Theorem 2 makes dependence count: if $F^{(a)}$ is $\gamma_a$-semirobust and
# $H(Z_{j-1}\mid Z_j)\le\eta_j$ bits under *every* randomised attack, then $F^{(n)}$ is semirobust with
#
# $$\gamma_n=1-h_b\Big(\frac{1-\gamma_a}2\Big)-\sum_{j=a+1}^n\eta_j .$$
#
# The quantity is what layer $j$ leaves open of layer $j-1$: a threshold on the dependence relative to
# $H(Z_{j-1})$, not a raw $\rho$. On the finite model LADDER it is exact, and tight from layer 1 to layer 2;
# from the input to layer 1 it says nothing, although nothing is lost. Estimated from samples it is right
# where cells hold many samples, and far too small where they hold few: for independent sides the truth is
# $H(Z_{j-1})$ itself.

# %%
for a in (1, 0):
    bounds = corrected_bounds(LADDER, a, a + 1)
    print(
        f"LADDER, layer {a} to {a + 1}: eta = {bounds.etas[0].high:.4f} bits, bound {bounds.dependency:z.4f}, truth {bounds.gamma_star}"
    )
measure = dependence.conditional_entropy()
for n in (100, 1000):
    merged = measure(*Merging(8, 2).sample(n, np.random.default_rng(0)))
    print(f"8 symbols merged in pairs, n = {n:4d}: H(x | y) = {merged.value:.3f} bits, truth 1")
for n in (100, 1000):
    x, y = Gaussian(32, 0.0).sample(n, np.random.default_rng(0))
    entropy = edge(x, y).entropy_x_bits
    value = measure(x, y).value
    print(f"independent, 32-d,         n = {n:4d}: H(x | y) = {value:.3f} bits, truth H(x) = {entropy:.3f}")

# %% [markdown]
# ## The trials
#
# A trial fine-tunes $f_b$ of 4 layers on a small set of digits by adversarial training. Trials differ in
# their learning rate, drawn log-uniformly over three decades, and in the order of the images; an epoch is a
# success if the *validation* accuracy under PGD is within $k$ = 10 points of the robust network's (the paper
# prints no $k$). The quick profile computes a few trials; the reference profile has more of the same kind,
# stored.
#
# **How this came to be.** $k$ was fixed before any trial was measured. The range of rates and the number of
# images were changed after a first run. The epochs were later cut from three to two, for time. In sets of 8
# trials nothing that one set found was significant in another; sets of 16 mostly found other scores each
# time (below). So 48 trials were searched together, and what they found was tested on 32 new ones, which
# were measured only after that was decided. Two things came later still: the comparisons with the learning
# rate, and a repair of the comparison with $k$, which rounding had spoilt where an accuracy lies exactly at
# the margin (fewer findings since, the same conclusions).

# %% tags=["nbval-ignore-output"]
small = prediction.run_plan(plan, profile)
large = prediction.plans("reference")[0]
records, where = prediction.stored(large, "reference"), "reference"
if records is None:
    large, records, where = plan, small, profile
won, rates = replication.outcomes(records, large.k), replication.rates(records)
found_small = replication.replicate(small, plan.k, plan.first)
for name, screening in ((f"first {plan.first}", found_small.first), ("others", found_small.rest)):
    best = min(screening.tests, key=lambda test: 1 if test.p_value is None else test.p_value)
    words = "no success, or no failure, to compare with"
    if best.p_value is not None:
        words = f"best: {best.name}, p = {best.p_value:.4f}, after Holm {best.p_holm:.3f}"
    print(
        f"{profile}, {name}: {screening.successes} successes, {screening.failures} failures, {len(screening.tests)} tests; "
        f"smallest p possible {screening.smallest_p:.5f}, after Holm {screening.smallest_holm:.3f}; {words}"
    )
for start in range(0, len(records) - 15, 16):  # what sets of 16 find
    screening = replication.read(records[start : start + 16], large.k, permutations=10_000)
    names = [test.name for test in screening.tests if test.p_holm is not None and test.p_holm <= 0.05]
    print(
        f"{large.name}, trials {start} to {start + 15}: significant after Holm: {', '.join(names) or 'none'}"
    )

# %% [markdown]
# The quick profile alone cannot answer anything: its smallest possible p-value, times the number of tests,
# is the best that any measure could have reached.
#
# ## Success follows the learning rate
#
# Too small a rate leaves $f_b$ as it was, too large a rate spoils it. So whatever changes with the amount of
# training will "predict" success. A measure that is to be of use must beat what is known without measuring:
# the rate, and how near it is to rates that have succeeded.

# %% tags=["nbval-ignore-output"]
accuracy = np.array([[row["validation_accuracy"] for row in r.metrics["epochs"]] for r in records])
acc_star = records[0].metrics["acc_star_validation"]
fig, axes = plt.subplots(1, accuracy.shape[1] - 1, figsize=(7.2, 3.2), sharey=True)
for epoch, axis in enumerate(axes, start=1):
    for chosen, colour, label in (
        (won[:, epoch], "robust", "success"),
        (~won[:, epoch], "attacked", "failure"),
    ):
        values = 100 * accuracy[chosen, epoch]
        axis.plot(rates[chosen], values, "o", ms=4, color=figures.COLORS[colour], label=label)
    axis.axhline(100 * acc_star, color=figures.COLORS["printed"], lw=1, label="$Acc^*$ of the robust network")
    axis.axhline(
        100 * (acc_star - large.k), color=figures.COLORS["printed"], lw=1, ls="--", label="$Acc^* - k$"
    )
    axis.axhline(
        100 * accuracy[0, 0], color=figures.COLORS["control"], lw=1, ls=":", label="before fine-tuning"
    )
    axis.set(xscale="log", title=f"epoch {epoch}", xlabel="learning rate")
axes[0].set_ylabel("validation accuracy\nunder PGD-10 (%)")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
fig.suptitle(f"Success needs a rate in between, and another one at each epoch ({len(records)} trials)")
figures.save_figure(fig, "31_rates", profile=where, sources=records, notebook="31_dependence_measures")
plt.show()

# %% [markdown]
# ## Which measure predicts it?
#
# The AUC is the probability that, of two trials at the *same* epoch, the one that succeeds has the larger
# value (1/2: no information; ties count half). Its null band comes from handing the trials' outcomes to each
# other in 10,000 orders. All (measure, layer) pairs are tested in the first trials and corrected by Holm's
# method; those with a corrected $p\le0.05$ are tested again on fresh trials, corrected for their own number.
# `edge_excess` is EDGE minus its control. The last column takes only pairs of a success and a failure whose
# rates differ by less than half.

# %% tags=["nbval-ignore-output"]
named = dict(zip((later for _, later in records[0].metrics["layers"]), LAYERS, strict=True))
result = replication.replicate(records, large.k, large.first, permutations=10_000)
near, equal = replication.at_equal_rate(records, large.k)
known = {name: v[large.first :] for name, v in replication.rate_scores(records, large.k, large.first).items()}
by_rate = statistics.screen(known, won[large.first :], permutations=10_000)
fresh = {test.name: test for test in (result.again.tests if result.again else ())}
held = {test.name for test in result.held}
order = sorted(result.first.tests, key=lambda test: test.within)
height = {test.name: i for i, test in enumerate(order)}
for name, screening in (("first", result.first), ("fresh", result.rest)):
    print(
        f"{name} trials: {screening.successes} successes, {screening.failures} failures; smallest p possible {screening.smallest_p:.5f}, "
        f"times {len(screening.tests)} tests {screening.smallest_holm:.4f}"
    )
print(f"significant in the first {large.first}: {len(fresh)}; of these again in the fresh ones: {len(held)}")
print(
    f"pairs with nearly equal rates: {near}; AUC of all {len(equal)} scores on them {min(equal.values()):.2f} to {max(equal.values()):.2f}"
)


# %% tags=["nbval-ignore-output"]
def label(name):
    """`measure, layer` with the paper's name of the layer."""
    measure, _, layer = name.partition(", ")
    return f"{measure}, {named[layer]}" if layer else measure


table = []
for test in sorted(result.first.tests, key=lambda test: (test.p_holm, test.p_value)):
    if test.name in fresh or test.name.startswith("edge,"):
        row = {"score": label(test.name), "first": test.within, "p": test.p_holm, "equal": equal[test.name]}
        again = fresh.get(test.name)
        table.append(row | ({"fresh": again.within, "p_fresh": again.p_holm} if again else {}))
table += [{"score": test.name, "fresh": test.within, "p_fresh": test.p_holm} for test in by_rate.tests]
columns = {"score": "score", "first": f"AUC, first {large.first} trials", "p": "corrected p"}
columns |= {"fresh": f"AUC, {len(records) - large.first} fresh trials", "p_fresh": "corrected p, fresh"}
columns |= {"equal": "AUC at nearly equal rates"}
formats = dict.fromkeys(("first", "fresh", "equal"), ".2f") | dict.fromkeys(("p", "p_fresh"), ".4f")
display(Markdown(runs.markdown_table(table, columns, formats)))

# %% tags=["nbval-ignore-output"]
groups = {"significant in the first trials, and again": (held, "robust")}
groups |= {"significant in the first trials only": (set(fresh) - held, "attacked")}
groups |= {"not significant": (set(height) - set(fresh), "printed")}
panels = {f"First {large.first} trials": result.first.tests}
panels |= {f"{len(records) - large.first} fresh trials": result.rest.tests}
panels |= {"Pairs of nearly equal rates": ()}
fig, axes = plt.subplots(1, 3, figsize=(9.6, 7.8), sharey=True, sharex=True)
for axis, (title, tests) in zip(axes, panels.items(), strict=True):
    values = {test.name: test.within for test in tests} or equal
    bands = np.array([(height[test.name], *test.null) for test in tests]).reshape(-1, 3).T
    axis.hlines(*bands, color="#d0d0d0", lw=5, zorder=1, label="null band, 95 %")
    axis.axvline(0.5, color=figures.COLORS["printed"], lw=0.8)
    for text, (names, colour) in groups.items():
        ordered = sorted(names)
        x, y = [values[name] for name in ordered], [height[name] for name in ordered]
        axis.plot(x, y, "o", ms=4.5, color=figures.COLORS[colour], label=text)
    axis.set(title=title, xlabel="AUC", xlim=(0, 1), ylim=(-0.7, len(order) - 0.3))
nearness = by_rate.tests[1].within
axes[1].axvline(nearness, color=figures.COLORS["control"], ls="--", label="nearness to good rates")
axes[0].set_yticks(range(len(order)), [label(test.name) for test in order], fontsize=7.5)
fig.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
holds = f"{len(held)} of {len(fresh)} predictors hold in fresh trials"
fig.suptitle(f"{holds}; at nearly equal learning rates little is left of them")
figures.save_figure(fig, "31_auc", profile=where, sources=records, notebook="31_dependence_measures")
plt.show()

# %% [markdown]
# The sign differs from measure to measure: networks that succeed have *more* linear similarity between
# layers, and an output that leaves *less* of the layer before it open, but their clusters know *less* of the
# label. The paper's own measure, the EDGE value at a layer, is not among the predictors at this margin $k$.
# (It may be at another: the cell to edit below tries one.) The last column describes and tests nothing:
# pairs of nearly equal rates are fewer, and a small effect could hide in them.
#
# ## Sensitivity and conditional entropy of these networks
#
# At the start of all trials and at the epoch with the best validation accuracy: how far the attack moves a
# layer relative to its size (control: to another image of the class), and the estimate of $H(Z_{j-1}\mid
# Z_j)$ (control: shuffled).

# %% tags=["nbval-ignore-output"]
trial, epoch = np.unravel_index(accuracy.argmax(), accuracy.shape)
stages = {"start": records[0].metrics["epochs"][0], "best": records[trial].metrics["epochs"][epoch]}
for measure in ("sensitivity", "conditional_entropy"):
    for stage, row in stages.items():
        found = row["measures"][measure]
        pairs = zip(LAYERS, found["values"], found["controls"], strict=True)
        print(f"{measure:19s} {stage:5s}: " + ", ".join(f"{name} {v:.2f} ({c:.2f})" for name, v, c in pairs))
        if measure == "conditional_entropy":
            print(f"{'':19s} {stage:5s}: sum over the layers {sum(found['values']):.2f} bits")

# %% [markdown]
# These sums are no certificate, for three reasons. The theorem needs the largest value over *all* randomised
# attacks, and one attack gives a lower bound of it. It needs the entropy of the layers, and this is the
# entropy of hashed cells. And with a few hundred images most cells hold one or two, which makes the estimate
# too small, as above. Even at face value a sum of more than one bit gives no positive $\gamma_n$ for two
# classes.
#
# ## What to believe
#
# * On these trials some measures do predict success, in fresh trials too: linear CKA, correlation,
#   $H(Z_{j-1}\mid Z_j)$ at the output and others. The raw EDGE value, which the paper reports, is one of the
# weaker ones.
# * Success follows the learning rate, and so do they. Nearness to a rate that has succeeded predicts as well
#   as the best measure, before anything is trained, and at nearly equal rates little is left. A measure that
# *causes* success, or says more than the rate, has not been found; a small effect is not excluded.
# * One small network on digits, one depth of $f_b$, one attack, two epochs. Sets of 8 or 16 trials find
#   something else each time: a claim from a few trials, or from successes alone, has no weight.
#
# ## Change one number and run again
#
# The answer depends on what counts as success. Edit the margin `k`, a share of the validation images.

# %% tags=["nbval-ignore-output"]
k = 0.12
again = replication.replicate(records, k, large.first, permutations=2_000)
print(f"k = {k}: {again.first.successes} successes, {again.first.failures} failures in the first trials")
print(f"significant: {', '.join(label(test.name) for test in again.found) or 'none'}")
print(f"again in fresh trials: {', '.join(label(test.name) for test in again.held) or 'none'}")
best = max((abs(test.within - 0.5) + 0.5 for test in again.held), default=0.5)
known = replication.rate_scores(records, k, large.first)["nearness to good rates"][large.first :]
rate = statistics.screen({"near": known}, replication.outcomes(records, k)[large.first :], permutations=1)
pairs, values = replication.at_equal_rate(records, k)
print(
    f"AUC (or 1 - AUC) in fresh trials: best measure {best:.2f}, nearness to good rates {rate.tests[0].within:.2f}"
)
print(f"{pairs} pairs of nearly equal rates: {min(values.values()):.2f} to {max(values.values()):.2f}")

# %% [markdown]
# ## Checks

# %%
one_two = corrected_bounds(LADDER, 1, 2)
assert abs(one_two.dependency - one_two.gamma_star) < 1e-6
print("the dependency bound is tight on LADDER from layer 1 to layer 2: ok")
for screening in (found_small.first, found_small.rest, result.first, result.rest):
    known_p = [test for test in screening.tests if test.p_value is not None]
    assert all(screening.smallest_p - 1e-12 <= test.p_value <= test.p_holm for test in known_p)
    assert all(test.p_holm >= screening.smallest_holm - 1e-12 for test in known_p)
print("no p-value is below the smallest possible, before and after the correction: ok")
assert held <= set(fresh) and all(0 <= auc <= 1 for auc in equal.values())
assert len(result.first.tests) == len(result.rest.tests) == len(equal) == 9 * len(LAYERS)
print("every measure was tested on every layer, and only findings were tested again: ok")
