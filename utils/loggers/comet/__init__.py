"""The place of YOLOv5's Comet helpers; what logs to Comet is ``utils.loggers.comet_log``."""
