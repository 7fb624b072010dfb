"""LoRA adapters as PEFT writes them: read, matched with their base, merged into its rows, or written as GGUF."""
