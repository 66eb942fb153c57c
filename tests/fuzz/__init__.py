"""Requests made up from the OpenAPI document, at a real scorer: ``make fuzz``."""
