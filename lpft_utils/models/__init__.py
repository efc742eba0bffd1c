"""φ and the head: backbones, the classifier, adapters, tokenised texts, features."""
