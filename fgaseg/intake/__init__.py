"""From what publishers offer for download to the raw layout below the data root."""
