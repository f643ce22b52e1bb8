"""Annual reports in, series of figures, alerts and a page out: the worked example over `client.documents`.

Nothing is imported here: `command` needs the core alone, everything else the extra `documents`.
"""
