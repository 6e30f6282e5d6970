"""Opti-CAM (Zhang, Torres, Sicre, Avrithis and Ayache 2024): what its tables and figures need.

canvases    images with exact boxes: items on cluttered canvases
"""
