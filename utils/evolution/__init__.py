"""Hyperparameter search: trials of one study, trained one after another or by several processes at once."""
