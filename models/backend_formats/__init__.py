"""Running exported models: a class per format behind the interface of ``base``, by utils/exporting/formats.py."""
