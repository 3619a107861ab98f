"""Turns the CSV files of a nano-electronics lab into Parquet while the instruments write them."""

__version__ = "0.1.0"
