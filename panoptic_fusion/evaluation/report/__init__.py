"""The report: a folder with a page that shows where panoptic quality is lost, opened without a server or a network."""
