"""What the page of the calibration of ``mastlens inside`` says beside its counts."""

HEAD = """# Calibration of inside

How often the commands of [`mastlens inside`](../inside.md) call chance a finding, and how often they find what was
planted. Each lineage is two layers, 32 wide, of random weights with uneven rows: SFT; RLVR, which is SFT and a random
increment of every tensor (Gaussian, heavy-tailed, of rank 1; 1.3 and 20 times what bfloat16 rounds, whatever it is
stored in); a model that is RLVR and another such increment. The commands read them whole, with their own numbers of
draws and shuffles: stored and computed in float32, in bfloat16, and stored in bfloat16 and computed in float32
(`bfloat16-wide`). What nothing is to be found in:

- `depart` (`forks`: the first tokens that differ), `write`, `patch`, `path`, `crosscoder`: the increment, whose signs
  are as good as redrawn ones; problems are drawn anew for each lineage; the crosscoder has few features on at a token,
  along random axes;
- `undo`: the edit, which knows nothing of what RLVR did;
- `dictionary`: the increment, through a top-k dictionary along random axes;
- `direct`: labels are random;
- `steer`: a direction found from random labels (`steer-labels`), and one drawn as the controls are (`steer-states`).

A row counts where its null leaves it any freedom. p < 0.001 is asked for of a row. Of a table of features, whose
verdicts allow for all its rows, 5 % at the most should have one; other tables have 24 rows at the most, of which 2.4 %
would have one if they were independent. The columns `p<0.05/...` count rows with p below 5 %: the body of a law, of
which so few rows tell more than of its tail. Bounds by Clopper and Pearson take rows to be independent, and those of
one lineage are not; so the rows of a storage are judged twice, as [elsewhere](calibration.md), each on its own and all
of a lineage as one.

<!-- not run: minutes for each repeat -->

```sh
python -m benchmarks.calibration --out DIR --family inside --repeats 1 --plants 1
python -m benchmarks.calibration --out DIR --family inside --repeats 10 --plants 4  # goes on; ended when time was up
python -m benchmarks.calibration --out DIR --page docs/results/calibration-inside.md
python -m benchmarks.calibration --out DIR --family inside --short  # what the tests run
```

This page is written by the third of these commands from the counts alone.
"""

NOTES = """
Planted: RLVR goes up the gradient of the solutions' log-probability, the edit takes half of that back, labels say how
a problem is worded, and the direction to steer along is that gradient at the states (beside 24 random directions: a
stream of 32 entries is too narrow for 8). The exchange of texts behind `dictionary` has no p below 2^(1 - texts), here
1 in 128: with 8 texts it finds a change only where a good part of the features show one.

## What was mended

- `patch`: the null of an exact effect is the first order of random changes. Computed in 16 bits, rounding behind an
  exchange adds to the exact effect and not to the first order. `effect` and `integrated` now count only where the first
  order of RLVR itself does.
- `crosscoder`: a feature with a threshold goes on by the threshold, at one token of a few hundred; where none of 8
  random changes had that, their spread knew nothing of it. It is now in the spread, and in a continuity correction.
- `direct`: of states that lie along few axes a shuffling of labels now and then gives a short direction that is turned
  far, and the cosines have a tail that no Student law has. They are held against each other by Fisher's z.
- Draws that are all one left, of some numbers of draws, a spread of rounding, of which every other value was far out.

## What is left

- So few lineages rule out rates of several per cent, and show no 0.1 %: the bounds above say how far they go. The same
  command with more `--repeats` goes on in DIR.
- `cka_distance` and `procrustes` of `depart` lean to the liberal side: 9 to 10 % of their rows have p below 5 %.
- `forks` are the tokens at which RLVR, and not a random change, has another most probable one: KL there leans to be
  larger than of random changes by that choice alone. A single fork's verdict says little.
- Eight random changes have a Student law of 7 degrees of freedom, whose reach is wide: where a measure varies by
  factors, as of one position, effects have to be large to be told (`--draws`).
"""

SOUGHT = {
    "taught": (
        "depart/kl",
        "table/write/change",
        "table/patch/effect",
        "table/path/effect",
        "table/undo/back",
        "table/direct/auc_before",
        "table/dictionary/change",
        "table/crosscoder/active",
        "table/steer-uphill/effect",
    )
}
"""Which columns are to find what was planted."""
