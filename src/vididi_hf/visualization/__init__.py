"""Pictures: derivative views, Taylor expansions, where an encoder looks, what it retrieves, training curves.

Every picture is a `matplotlib.figure.Figure` that belongs to nobody else: no window is opened and pyplot's global state
stays untouched, so they work on servers and in threads.
"""

from vididi_hf.visualization.curves import plot_curves
from vididi_hf.visualization.dynamics import plot_derivatives, plot_taylor
from vididi_hf.visualization.neighbors import STRIP_FRAMES, choose_queries, plot_retrieval
from vididi_hf.visualization.saliency import share_on_motion, video_saliency
from vididi_hf.visualization.saliency_pictures import plot_saliency
from vididi_hf.visualization.style import OTHER, QUERY, RUN_COLOURS, SAME, SIGNED_COLOURS, save_figure

__all__ = [
    "OTHER",
    "QUERY",
    "RUN_COLOURS",
    "SAME",
    "SIGNED_COLOURS",
    "STRIP_FRAMES",
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
