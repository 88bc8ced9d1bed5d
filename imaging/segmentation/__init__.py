"""Label maps and probability maps of a study; corrections and outlines made by hand."""
