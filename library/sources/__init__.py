"""Where releases come from: Hugging Face's hub, ModelScope, a folder. Whatever the source, its files are checked by hash."""
