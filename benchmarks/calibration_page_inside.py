"""What the page of the calibration of ``mastlens inside`` says beside its counts."""

HEAD = """# Calibration of inside

How often the commands of [`mastlens inside`](../inside.md) call chance a finding, and how often they find what was
planted. Each lineage is two layers, 32 wide, of random weights with uneven rows: SFT; RLVR, which is SFT and a random
increment of every tensor (Gaussian, heavy-tailed, of rank 1; 1.3 and 20 times what bfloat16 rounds, in either type); a
model that is RLVR and another such increment, which takes nothing back. All commands read them whole, with their own
defaults of draws and shuffles: stored and computed in float32, in bfloat16, and stored in bfloat16 and computed in
float32 (`bfloat16-wide`). What nothing is to be found in:

- `depart` (`forks`: its first differing tokens), `write`, `patch`, `path`, `crosscoder`: the increment, whose signs are as
  good as redrawn ones; problems are drawn anew for each lineage; the crosscoder has few features on at a token, along
  random axes;
- `undo`: the edit, which knows nothing of what RLVR did;
- `dictionary`: the increment, read through a top-k dictionary along random axes;
- `direct`: labels are random;
- `steer`: a direction found from random labels (`steer-labels`), and one drawn as the controls are (`steer-states`).

A row counts where its null leaves it any freedom. `p < 0.001` is asked for of a row; of a table of features, which allows
for all of its rows, that 5 % of tables have one at the most; the columns `p<0.05/...` count rows with p below 5 %: the
body of a law, of which so many rows tell more than of its tail. Rows of one lineage are not independent, and bounds by
Clopper and Pearson take them to be; cells are judged both ways, as [the others](calibration.md).

<!-- not run: half an hour -->

```sh
python -m benchmarks.calibration --out DIR --family inside --repeats 8 --plants 4
python -m benchmarks.calibration --out DIR --page docs/results/calibration-inside.md
python -m benchmarks.calibration --out DIR --family inside --short  # what the tests run
```

This page is written by the second of these commands from the counts alone.
"""

NOTES = ""

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
