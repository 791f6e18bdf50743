"""The Hub: publishing checkpoints with their model cards and, for those who have not installed us, their code."""
