"""What people would use instead of the product, each as somebody who knows it well would write it.

Every peer is a program that runs in an environment of its own (``make peers``): it reads a :class:`~.wire.Job` from
its standard input, fetches what the job names into the job's database, and ends with a line of JSON.
"""
