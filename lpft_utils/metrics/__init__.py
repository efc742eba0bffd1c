"""Numbers from predictions and features: calibration, recalibration, intervals, feature change."""
