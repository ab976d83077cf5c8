"""How files of each format are read and written. Whoever calls these chooses by the file's name."""
