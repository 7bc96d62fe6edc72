"""Makes the scores of different encoders comparable, by what people say of pairs of captions.

``judgements`` reads what people said, ``judging`` estimates it where nobody was asked, and
``fitting`` fits the calibration of an encoder to either.
"""
