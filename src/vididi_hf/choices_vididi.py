"""Names that a configuration and a command line accept. They are here so that both can read them without torch."""

BACKBONE_NAMES = ("r3d_18", "r2plus1d_18", "mc3_18", "s3d")
HUB = "hub"
POOLINGS = ("mean", "class_token", "norm")
OBJECTIVE_NAMES = ("vicreg", "byol", "simclr")
OWN_OBJECTIVE = r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*"  # package.module:Class
VIEW_FORWARDS = ("separate", "joint")
BATCH_NORMS = ("shared", "per_order")
SCALES = ("none", "unit")
TRAINED_PARTS = ("all", "last_stage", "head")
