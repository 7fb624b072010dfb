"""The model card: what a repository of model files says of them, made from the files themselves."""
