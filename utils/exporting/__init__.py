"""Writing a trained model in other formats: ``formats`` is the table of them, one module writes each."""
