"""Files: written whole or not at all; texts of strangers read within limits."""
