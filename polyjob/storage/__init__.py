"""Files below the data folder: logs, outputs, uploads."""
