"""Measuring heads: numbers, audit, verdict, calibration, figures."""
