"""The trigger: who may pre-infer."""
