"""``report.html``: an evaluation, or several side by side, as a page that opens from the disk."""
