"""The search for captions, in two engines that find the same captions.

Which module answers which question:

* ``base``: What is a search, and which engine is which class?
* ``numpy_search``: How does beam search run on a processor, without TensorFlow?
* ``numpy_network``: How does it compute the network?
* ``tensorflow_search``: How do GPUs and training run beam search?
"""
