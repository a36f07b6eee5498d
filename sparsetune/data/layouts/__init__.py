"""Published layouts of data sets, one module each."""
