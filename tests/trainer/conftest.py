"""Graphs here run for a moment, and TensorFlow would take half a minute to make each of them faster."""

import os

if os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow":
    import tensorflow

    tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
