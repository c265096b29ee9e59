"""Reports: results.json, the terminal table and the HTML page."""
