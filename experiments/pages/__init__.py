"""What the page of each larger experiment says: its tables, curves and sentences, made from records alone."""
