"""The parts of the check, in their order, with their limits in seconds in a run of eight minutes."""

from .runner import Part

PARTS = [
    Part("fp32", "fp32 against the CPU", ".correctness:check_full_precision", 60),
    Part("half", "TF32, bf16 and fp16 against fp32", ".correctness:check_half_precision", 30),
    Part("losses", "Losses", ".correctness:check_losses", 10),
    Part("statistics", "BatchNorm statistics per order", ".correctness:check_per_order_statistics", 15),
    Part("group", "Process group of one", ".processes:check_process_group", 20),
    Part("caching", "Gradient caching", ".correctness:check_gradient_caching", 20),
    Part("resume", "Resuming within an epoch", ".processes:check_resume", 40),
    Part("compile", "torch.compile(fullgraph=True)", ".correctness:check_compilation", 60),
    Part("tests", "Tests marked gpu", ".processes:run_gpu_tests", 80),
    Part("schedules", "Step time by objective and schedule", ".speed:measure_schedules", 50),
    Part("throughput", "Throughput by batch size and option", ".speed:measure_throughput", 140),
    Part("vit", "ViT-B", ".speed:measure_vit", 30),
    Part("loader", "Required and delivered videos per second", ".speed:measure_loader", 15),
    Part("evidence", "Pretraining on real videos", ".evidence:pretrain_and_evaluate", 0),  # the remaining time
]
DETAILED = ("schedules", "throughput", "loader", "evidence")
"""Parts whose rows the page shows in full. Of the others, it shows the row closest to its bound."""
