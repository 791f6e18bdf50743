"""Figures of derivatives, saliency, retrieval and training. They do not touch pyplot, so they work in threads."""

# ruff: noqa: F401

from vididi_hf.visualization.curves import plot_curves
from vididi_hf.visualization.dynamics import plot_derivatives, plot_taylor
from vididi_hf.visualization.neighbors import choose_queries, plot_retrieval
from vididi_hf.visualization.saliency import plot_saliency, share_on_motion, video_saliency
from vididi_hf.visualization.style import OTHER, QUERY, RUN_COLORS, SAME, save_figure
