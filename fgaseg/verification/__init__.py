"""Raw datasets looked through before anything is prepared or trained: what is missing, damaged, or labelled otherwise."""
