"""Content-addressed transfer: chunks named by their hashes, served to and fetched from many peers.

hashes               -> download                -> resume              -> exchange
a hash per chunk,       which donor is asked       chunks of downloads    serves and downloads content
one root over them      for which chunk            that were cut off      by its root; turns: a share for each
"""
