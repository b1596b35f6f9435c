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
# # Algorithm 1: freeze a robust $f_a^*$, fine-tune $f_b$: how much robustness comes back?
#
# Train a network on clean images, $(f_a, f_b)$. Train it further against an attack, $(f_a^*, f_b^*)$. Put the
# *old* $f_b$ behind $f_a^*$, freeze $f_a^*$, and fine-tune $f_b$ adversarially.
#
# **Verdict.** The claim holds, as far as it was run (CIFAR-10, one pair of narrow networks, and digits).
# Trained until validation stops rising, an $f_b$ of 4 layers brings back all robustness but a difference
# that the intervals do not tell from 0. It is $f_a^*$ that does it: behind any other frozen $f_a$ little or
# nothing comes back. What the dependence $\rho$ has to do with it is another question, below.

# %% tags=["parameters"]
profile = "quick"

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from semirobust import figures, layers, paths, runs, training
from semirobust.experiments import algorithm_1, controls, lineage, networks, tables
from semirobust.figures import algorithm_1 as draw

figures.use_style()
paths.check_profile(profile)
NOTEBOOK, plan = "09_algorithm_1", algorithm_1.plans(profile)[0]
reference = algorithm_1.stored(algorithm_1.plan("reference", "cifar10-seed0"), "reference")

# %%
rows = [row for row in controls.control_rows() if row["pair"].startswith("cifar10")]
fig, axes = plt.subplots(1, 2, figsize=(7.6, 3.6), sharey=True, layout="constrained")
for axis, n_fb in zip(axes, controls.N_FB, strict=True):
    draw.draw_controls(axis, rows, n_fb)
axes[0].set_ylabel("accuracy under PGD-10 (%)")
fig.suptitle("What is frozen decides what fine-tuning $f_b$ brings back (CIFAR-10)")
figures.save_figure(fig, "09_controls", profile="reference", sources=[], notebook=NOTEBOOK, data=rows)
plt.show()

# %% [markdown]
# *Bars: after six epochs on 10,000 images, mean of three trials. Black ticks: before. The three controls
# differ from Algorithm 1 in one thing each: what is frozen, or what $f_b$ starts from.*
#
# ## Run it
#
# $f_b$ is the last $n_b$ convolutional and linear layers, with every module in between. Frozen means that
# neither parameters nor BatchNorm statistics change. (In a ResNet a cut at 4, 8 or 12 layers goes through a
# block, so that $f_b$ reads a shortcut too; at odd numbers $F=f_b\circ f_a$ holds to the letter.) `run_plan` computes what is not stored: three trials for
# each size, measured before fine-tuning (epoch 0) and after each epoch.

# %% tags=["nbval-ignore-output"]
standard, robust = (networks.trained(config)[0] for config in (plan.pair.standard, plan.pair.robust))
for n_fb in plan.n_fb:
    split = layers.Split(robust, n_fb)
    print(f"f_b of {n_fb:2d} of {len(split.layers)} layers starts at {split.first_b}")
f_a, f_b = layers.Split(robust, 5).functions()
images = networks.test_images(plan.pair.robust, 8).images
gap = (f_b(f_a(images)) - robust(images)).abs().max().item()
print(f"f_b of 5 layers: |f_b(f_a(x)) - F(x)| is at most {gap:.0e}")
outcome = algorithm_1.run_plan(plan, profile)


# %%
def figure_trials(outcome):
    """One panel for f_b of 4 and one for f_b of 12 layers."""
    fig, axes = plt.subplots(1, 2, figsize=(7.2, 3.0), sharey=True, layout="constrained")
    for axis, n_fb in zip(axes, (4, 12), strict=True):
        draw.draw_trials(axis, outcome, n_fb)
    axes[0].set_ylabel("accuracy under PGD-10 (%)")
    axes[1].legend(loc="lower right")
    robust = outcome.plan.pair.robust
    fig.suptitle(f"Most of the robustness comes back ({robust.label}, {robust.dataset})")
    return fig


for where, found in ((profile, outcome), ("reference", reference)):
    name = f"09_trials_{found.plan.name}"
    figures.save_figure(figure_trials(found), name, profile=where, sources=found.records, notebook=NOTEBOOK)
plt.show()

# %% [markdown]
# Two readings of the same trials. **As printed**, the test accuracy stops a trial and the largest test
# accuracy is reported. **Sound**, held-out images decide and the test set only reports. "Until validation
# stops" is one trial on all 48,000 images; the other trials are short and have not converged.

# %% tags=["nbval-ignore-output"]
shown = tables.our_rows(outcome, ["pgd"], reading="sound", profile=profile)
shown += tables.our_rows(reference, ["pgd"], reading="sound", profile="reference")
Markdown(tables.compact(shown + controls.long_rows(["pgd", "autoattack"])))

# %% [markdown]
# ## What the shared ancestor gives
#
# Even before fine-tuning the old $f_b$ keeps much of the robustness of $f_a^*$, as printed. That is so
# because $f_a^*$ was trained *from* $f_a$. If the two networks are trained apart, $f_b$ never belonged behind
# $f_a^*$, and next to nothing is kept.

# %%
start, points = controls.start_rows(), lineage.points()
fig, axes = plt.subplots(1, 3, figsize=(10.4, 3.4), layout="constrained")
draw.draw_kept(axes[0], start, 4)
for axis, distance in zip(axes[1:], ("weights", "cka"), strict=True):
    draw.draw_lineage(axis, points, distance, 4)
for axis in axes[:2]:
    axis.legend(fontsize="x-small", loc="upper right" if axis is axes[1] else "center left")
fig.suptitle("Robustness carries over as far as $f_a^*$ stays near $f_a$")
data = {"start": start, "lineage": points}
figures.save_figure(fig, "09_lineage", profile="reference", sources=[], notebook=NOTEBOOK, data=data)
plt.show()
near = np.array([[point["weights"], point["kept_pgd"]] for point in points if point["n_fb"] == 4])

# %% [markdown]
# *Left: printed, three of our pairs as far as they are run, and independent pairs (ResNet-18, CIFAR-10).
# Middle and right: on digits five seeds with eight adversarial trainings each, of different rates and
# lengths, and independent ones; on CIFAR-10 four rates on 10,000 images.*
#
# ## Does the dependence rise, and does it make the network robust?
#
# Section 3.4: fine-tuning "progressively increases the connectivity". What counts is the excess over pairs
# shuffled within their class, which have no dependence left. It does rise (left). But it does not go with
# robustness (right): the standard network, which PGD breaks on every image, has more of it than the robust
# one, and behind a *random* frozen $f_a$ fine-tuning raises it most and brings next to no robustness.

# %%
points = controls.dependence_points(12)
points = [point for point in points if point["pair"].startswith("cifar10")]
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3.8), layout="constrained")
for epoch, when, colour in ((0, "before fine-tuning", "attacked"), (-1, "after", "robust")):
    draw.draw_band(axes[0], draw.excess(reference.trajectories(12), epoch), when, colour)
axes[0].axhline(0, color="black", lw=0.8)
axes[0].set(ylabel="excess over shuffled pairs (bits)", title="Algorithm 1, by layer")
axes[0].tick_params(axis="x", labelsize="x-small")
axes[0].legend()
draw.draw_dissociation(axes[1], points)
axes[1].set_title("All networks (arrows: fine-tuning)")
fig.suptitle("Dependence rises in fine-tuning, and is highest where there is no robustness (CIFAR-10)")
sources = [*reference.trials[12], reference.baseline]
figures.save_figure(fig, "09_excess", profile="reference", sources=sources, notebook=NOTEBOOK, data=points)
plt.show()
before, after = (draw.excess(reference.trajectories(12), epoch).mean(0) for epoch in (0, -1))
print(f"the excess rises in {int((after > before).sum())} of {len(after)} layers")

# %% [markdown]
# ## $k$, and what it does to $\rho$
#
# A trial succeeds at the first epoch within $k$ of $Acc^*$; $k$ is printed nowhere. A larger $k$ counts
# earlier epochs. Is there a threshold of dependence?

# %%
margins = (0.0, 0.02, 0.05, 0.1, 0.2)
table = [
    {"n_fb": n_fb, "k": 100 * k, "won": sum(found.succeeded), "epochs": found.mean_epochs,
     "rho": found.rho[-1], "excess": found.rho[-1] - found.control[-1]}
    for n_fb in (4, 12)
    for k in margins
    for found in [tables.reading_of(reference, n_fb, "sound", k=k)]
]  # fmt: skip
names = {"n_fb": "layers of f_b", "k": "k (points)", "won": "succeeded of 3", "epochs": "mean epoch"}
names |= {"rho": "rho_n (bits)", "excess": "excess (bits)"}
Markdown(runs.markdown_table(table, names, {"k": ".0f", "rho": ".2f", "excess": ".2f", "epochs": ".1f"}))

# %% [markdown]
# There is none here: a looser $k$ makes more trials succeed, at an earlier epoch, and $\rho_n$ hardly moves.
# Whether any measure of dependence tells success from failure is the question of
# [notebook 31](31_dependence_measures.ipynb).
#
# ## Change one number and run again

# %%
short = replace(plan.fine_tune, epochs=1)
images = networks.training_images(plan.pair.robust).subset(range(256))
for epoch, model in training.algorithm_1.trial(robust, standard.state_dict(), 8, images, short):
    print(f"epoch {epoch}: {type(model).__name__} with f_b of 8 layers")

# %% [markdown]
# ## What is not known
#
# On CIFAR-10 the trials share one pair of networks, so how pairs differ is open until more seeds are
# run. Attacked accuracy is an upper bound: a better attack may lower it.
#
# ## Checks

# %%
trials = [trial for n_fb in plan.n_fb for trial in outcome.trajectories(n_fb)]
assert all(m.test_accuracy["pgd"] <= m.test_accuracy["none"] for trial in trials for m in trial)
print("attacked accuracy never exceeds clean accuracy: ok")
assert all(trial[0].test_accuracy["pgd"] < trial[-1].test_accuracy["pgd"] for trial in trials)
print("fine-tuning f_b alone makes every semirobust network more robust: ok")
found = {(row["n_fb"], row["f_a"], row["f_b"]): row["after"] for row in rows}
for n_fb in controls.N_FB:
    robust_f_a = min(found[n_fb, "robust", kind] for kind in ("standard", "random"))
    assert robust_f_a > 2 * max(found[n_fb, kind, "standard"] for kind in ("standard", "random"))
print("any f_b behind f_a* ends more than twice as robust as behind another f_a: ok")
assert np.corrcoef(near[:, 0], near[:, 1])[0, 1] < -0.5
print("the nearer the weights, the more is kept: ok")
excess = {point["network"]: point["excess"] for point in points}
assert excess["standard"] > excess["robust"]
assert excess["random f_a, standard f_b, after"] > excess["robust f_a, standard f_b, after"]
print("networks without robustness have more excess dependence than robust ones: ok")
