"""Class balance: weights, samplers and losses chosen from the hyp YAML."""
