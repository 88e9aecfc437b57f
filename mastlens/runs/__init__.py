"""Output folders: stages and their record, files written in one step, ledgers of long work, cost."""
