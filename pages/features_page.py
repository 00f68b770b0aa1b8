from pages.components import frame

lab = frame.begin("Features", "…")
