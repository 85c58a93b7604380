"""Training of text-to-image models: pictures with captions in, the family's folder or a LoRA out.

The loop, the optimizer, checkpoints and reporters are those of every run (`mix_core.training`); here is what
differs: what is learnt (`objective`), the samples (`stream`), the model with its text encoders (`model`).
"""
