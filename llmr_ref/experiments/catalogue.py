"""All experiments by name."""

from llmr_ref.experiments import Experiment, language, tasks

EXPERIMENTS = {
    e.name: e
    for e in (
        Experiment(
            "positions", "Which positional methods work beyond the length they were trained on?",
            {"length": 64, "longest": 256, "parts": 16, "steps": 1000, "batch": 32, "rate": 3e-3},
            (0, 1, 2), language.beyond_the_training_length,
        ),
        Experiment(
            "norms", "Does it matter where the normalisation stands?",
            {"layers": 8, "rates": [5e-3, 2e-2], "warmups": [0, 50], "steps": 300, "every": 10,
             "batch": 16, "length": 64},
            (0, 1, 2), language.where_the_norm_stands,
        ),
        Experiment(
            "accumulation", "Are accumulated small batches the large batch?",
            {"steps": 100, "parts": 4, "batch": 32, "length": 64, "rate": 3e-3},
            (0, 1, 2), language.batch_and_accumulation,
        ),
        Experiment(
            "ladder", "What does each step from counting to the transformer gain?",
            {"orders": [1, 2, 3, 4, 5, 6], "steps": 1500, "every": 100, "batch": 32, "length": 64,
             "rate": 3e-3, "width": 64},
            (0, 1, 2), language.from_counting_to_the_transformer,
        ),
        Experiment(
            "bits", "How few bits does a weight need?",
            {"bits": [8, 4], "groups": [None, 64, 16], "steps": 1500, "batch": 32, "length": 64,
             "rate": 3e-3, "width": 64},
            (0, 1, 2), language.fewer_bits,
        ),
        Experiment(
            "saturation", "Why are scores divided by the square root of their width?",
            {"widths": [4, 8, 16, 32, 64, 128, 256, 512, 1024], "keys": 64, "queries": 256},
            (0, 1, 2, 3, 4), tasks.peaked_scores,
        ),
        Experiment(
            "nope", "Can a model without positions tell what came first?",
            {"steps": 600, "batch": 64, "length": 24, "rate": 3e-3, "width": 32, "layers": 3},
            (0, 1, 2, 3, 4), tasks.order_without_positions,
        ),
        Experiment(
            "rewards", "What does a baseline change when a policy learns from rewards?",
            {"digits": 10, "steps": 600, "every": 10, "group": 8, "rate": 3e-3},
            (0, 1, 2, 3, 4), tasks.learning_from_rewards,
        ),
    )
}  # fmt: skip
