"""The trainer: Keras networks built from the runtime's own functions, trained and exported to its HDF5 format."""
