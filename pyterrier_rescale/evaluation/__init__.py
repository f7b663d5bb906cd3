"""Several encoders to one table: comparison, significance, figures, the demonstration."""
