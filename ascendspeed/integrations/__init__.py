"""Where AscendSpeed meets other training libraries: one sub-package each, imported by the one who uses it."""
