"""Exact cosine search between captions, with results for images.

An image may have several captions, on either side of the search. The score of two images is the
highest score of any of their caption pairs. The search works in four steps:

1. ``caption_set`` builds an inverted index: each distinct caption is encoded once and points to the
   images that have it. ``projection`` adds short vectors whose products bound the cosines from
   above.
2. ``query_groups`` groups the querying images that have the same captions, since they have the same
   results. Each distinct query caption is searched once.
3. ``pairs`` scans the index in blocks. It discards every caption pair whose bound is below the
   query's cutoff, and computes exact scores for the few pairs that remain.
4. ``search`` turns caption pairs into ranked images and keeps the best of each group, as
   ``results.SearchResults``.

An index may be split into any number of caption sets, as long as all captions of an image are in
one set. Counts of matches then add up, and the best images of the whole are among the best of each
set. So ``results.merge_results`` gives the same rows however the index was split, and in whatever
order the sets were searched.

``image_vectors`` adds what the images themselves contribute: similarity of features, and
duplicates.
"""
