"""The inside of utils.plots: figures, fonts, curves, label and run pictures."""
