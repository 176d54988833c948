"""Using a trained model: pictures and words in, label maps, confidence and features out."""
