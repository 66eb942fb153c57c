"""The worker as it is, in a world that is made up from a seed: ``make simulate``.

Its log, its store and its clock are the ones in memory. Between worker and servers stands a network (``network``, ``group``) at
which everything may happen that may happen to a process, a message or a server; a worker is a coroutine (``process``), so that
it can be stopped, killed and overtaken between any two of its calls. ``world`` has what can be done, ``conductor`` does it
in an order that a seed decides, ``truth`` says what should be there in the end, ``report`` adds up what happened.
"""
