"""Figures: derivatives, Taylor expansions, saliency, retrieval and training curves.

Each function returns a `matplotlib.figure.Figure` and does not touch pyplot, so it works on servers and in threads.
"""

from vididi_hf.visualization.curves import plot_curves
from vididi_hf.visualization.dynamics import plot_derivatives, plot_taylor
from vididi_hf.visualization.neighbors import choose_queries, plot_retrieval
from vididi_hf.visualization.saliency import plot_saliency, share_on_motion, video_saliency
from vididi_hf.visualization.style import OTHER, QUERY, RUN_COLORS, SAME, save_figure

__all__ = [
    "OTHER",
    "QUERY",
    "RUN_COLORS",
    "SAME",
    "choose_queries",
    "plot_curves",
    "plot_derivatives",
    "plot_retrieval",
    "plot_saliency",
    "plot_taylor",
    "save_figure",
    "share_on_motion",
    "video_saliency",
]
