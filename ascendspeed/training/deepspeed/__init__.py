"""The training program under DeepSpeed: the same model, data, flags and reports, with ZeRO and Ulysses underneath."""

__all__: list[str] = []
