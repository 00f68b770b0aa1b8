"""Parts that the pages are drawn with: theme, frame, charts and the custom views."""
