"""One function a figure: data in, PNG path out."""

from pipeline.report.figures.activations import change_shares, hidden_state_r2
from pipeline.report.figures.collapse import collapse_signs, on_axis
from pipeline.report.figures.fits import r2_histogram, token_fits, weight_fits
from pipeline.report.figures.heat_map import r2_heat_map
from pipeline.report.figures.models import model_bars
from pipeline.report.figures.scores import alpha_curve, horizon_curve
from pipeline.report.figures.style import DARK, LIGHT, Theme
from pipeline.report.figures.temperature import temperature_curve
from pipeline.report.figures.token_bins import token_bins
from pipeline.report.figures.training import reward_curve

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "alpha_curve",
    "change_shares",
    "collapse_signs",
    "hidden_state_r2",
    "horizon_curve",
    "model_bars",
    "on_axis",
    "r2_heat_map",
    "r2_histogram",
    "reward_curve",
    "temperature_curve",
    "token_bins",
    "token_fits",
    "weight_fits",
]
