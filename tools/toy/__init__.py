"""The recipe of the embedded toy models: texts, tokenizer, planting, training and the judge's fit."""
