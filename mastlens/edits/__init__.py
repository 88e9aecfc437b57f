"""The edit and its file: made, applied, reverted, scaled, composed."""
