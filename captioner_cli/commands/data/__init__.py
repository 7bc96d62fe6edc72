"""Commands that get data ready: assets, datasets and inboxes."""
