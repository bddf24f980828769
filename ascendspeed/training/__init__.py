"""The training program: flags, data, model, loop, checkpoints. `pretrain_gpt.main` reads as its table of contents."""

__all__: list[str] = []
