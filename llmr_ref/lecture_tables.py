"""The lectures' tables of models, as printed, with notes on what does not add up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LectureTable:
    """Rows as printed, each with the preset that has this shape if there is one."""

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float | None, ...], ...]
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> tuple[str | int | float | None, ...]:
        """One column, top to bottom.

        Raises: ValueError for a column that the table does not have.
        """
        if name not in self.columns:
            raise ValueError(
                f"there is no column {name!r}; choose one of {', '.join(self.columns)}"
            )
        return tuple(row[self.columns.index(name)] for row in self.rows)


LECTURE_TABLES: dict[str, LectureTable] = {
    "gpt2": LectureTable(
        "GPT-2",
        "L3 slide of model sizes; Radford et al. 2019, table 2",
        ("preset", "printed parameters", "n_layers", "d_model"),
        (
            ("gpt2", 117e6, 12, 768),
            ("gpt2-medium", 345e6, 24, 1024),
            ("gpt2-large", 762e6, 36, 1280),
            ("gpt2-xl", 1542e6, 48, 1600),
        ),
        (
            "The shapes give 124, 355, 774 and 1558 million parameters: the printed counts are too "
            "small, as the authors later said of the first two.",
        ),
    ),
    "gpt3": LectureTable(
        "GPT-3",
        "L1 slide 55; Brown et al. 2020, table 2.1",
        ("preset", "printed parameters", "n_layers", "d_model", "n_heads", "d_head"),
        (
            ("gpt3-small", 125e6, 12, 768, 12, 64),
            ("gpt3-medium", 350e6, 24, 1024, 16, 64),
            ("gpt3-large", 760e6, 24, 1536, 16, 96),
            ("gpt3-xl", 1.3e9, 24, 2048, 24, 128),
            ("gpt3-2.7b", 2.7e9, 32, 2560, 32, 80),
            ("gpt3-6.7b", 6.7e9, 32, 4096, 32, 128),
            ("gpt3-13b", 13.0e9, 40, 5140, 40, 128),
            ("gpt3-175b", 175.0e9, 96, 12288, 96, 128),
        ),
        (
            "XL: 24 heads of 128 are 3072 wide, d_model is 2048; 16 heads give the 1.32 billion "
            "parameters of Brown et al. 2020, table D.1, 24 give 1.52 billion.",
            "13B: 40 heads of 128 are 5120 wide, d_model is printed as 5140; 5120 gives the 12.85 "
            "billion parameters of table D.1, 5140 gives 12.94 billion.",
        ),
    ),
    "gpt3-training": LectureTable(
        "GPT-3: parameters and training compute",
        "Brown et al. 2020, table D.1",
        ("preset", "parameters", "tokens", "training FLOPs"),
        (
            ("gpt3-small", 125e6, 300e9, 2.25e20),
            ("gpt3-medium", 356e6, 300e9, 6.41e20),
            ("gpt3-large", 760e6, 300e9, 1.37e21),
            ("gpt3-xl", 1320e6, 300e9, 2.38e21),
            ("gpt3-2.7b", 2650e6, 300e9, 4.77e21),
            ("gpt3-6.7b", 6660e6, 300e9, 1.20e22),
            ("gpt3-13b", 12850e6, 300e9, 2.31e22),
            ("gpt3-175b", 174600e6, 300e9, 3.14e23),
        ),
    ),
    "7b": LectureTable(
        "Models of 7 to 8 billion parameters",
        "L4 table 2; Groeneveld et al. 2024 (OLMo), table 2",
        ("row", "olmo-7b", "llama2-7b", "openlm-7b", "falcon-7b", "palm-8b"),
        (
            ("Dimension", 4096, 4096, 4096, 4544, 4096),
            ("Num heads", 32, 32, 32, 71, 16),
            ("Num layers", 32, 32, 32, 32, 32),
            ("MLP ratio", "~8/3", "~8/3", "~8/3", "4", "4"),
            (
                "Layer norm type",
                "non-parametric",
                "RMSNorm",
                "parametric",
                "parametric",
                "parametric",
            ),
            ("Positional embeddings", "RoPE", "RoPE", "RoPE", "RoPE", "RoPE"),
            ("Attention variant", "full", "GQA", "full", "MQA", "MQA"),
            ("Biases", "none", "none", "in LN only", "in LN only", "none"),
            ("Block type", "sequential", "sequential", "sequential", "parallel", "parallel"),
            ("Activation", "SwiGLU", "SwiGLU", "SwiGLU", "GeLU", "SwiGLU"),
            ("Sequence length", 2048, 4096, 2048, 2048, 2048),
            ("Batch size (instances)", 2160, 1024, 2048, 2304, 512),
            ("Batch size (tokens)", "~4M", "~4M", "~4M", "~4M", "~1M"),
            ("Weight tying", "no", "no", "no", "no", "yes"),
        ),
        (
            "LLaMA2-7B has full multi-head attention; grouped queries came with the 34B and 70B "
            "models (Touvron et al. 2023, table 1).",
        ),
    ),
    "flops": LectureTable(
        "FLOPs by part",
        'L1 "FLOPs Distribution"',
        ("preset", "projections", "feed_forward", "attention", "logits"),
        (
            ("gpt3-large", 0.35, 0.44, 0.15, 0.06),
            ("gpt3-175b", 0.17, 0.80, 0.03, 0.003),
        ),
        (
            "With d_ff = 4 d a feed-forward network costs twice the projections, at any size: the "
            "printed shares cannot come from these shapes.",
        ),
    ),
}
