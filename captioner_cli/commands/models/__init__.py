"""Commands that train, judge and choose models."""
